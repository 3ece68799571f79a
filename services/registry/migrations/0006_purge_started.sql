-- Large models are purged in parts. One of which a part is gone can no longer be undeleted, and is purged to its end
-- even when whoever began it does not come back.
--
-- Safe while the old program runs: a constant default costs no rewrite.
ALTER TABLE models ADD COLUMN purge_started boolean NOT NULL DEFAULT false;

-- The service's role may not delete results, cards and the history of aliases: it would rewrite history. It may for a
-- model that is being purged, a part at a time.
CREATE FUNCTION purge_part(kind text, key bigint, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    gone bigint;
BEGIN
    IF kind NOT IN ('evaluations', 'aliases', 'cards')
       OR NOT EXISTS (SELECT FROM models WHERE id = key AND delete_time IS NOT NULL) THEN
        RAISE EXCEPTION 'only what is below a deleted model may be purged' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DELETE FROM %1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$I WHERE model = $1 LIMIT $2))', kind)
      USING key, most;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
REVOKE EXECUTE ON FUNCTION purge_part(text, bigint, integer) FROM PUBLIC;
