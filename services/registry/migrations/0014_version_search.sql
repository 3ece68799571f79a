-- outside a transaction
--
-- Versions that are found across models, annotations and the origin of versions, wider ids of aliases and keys of labels,
-- who made a model or a version, and when something of a model last happened (docs/adr/0052). Each statement may be run
-- again.
--
-- Safe while the old program runs: its rows get what it does not write from defaults and a trigger, and it reads what it
-- did. New columns have names that no statement of it uses without the table.

-- A statement that waits for a busy table makes all others queue behind it: better to fail and be run again.
SET lock_timeout = '5s';

-- Who created it; empty for those from before.
ALTER TABLE models ADD COLUMN IF NOT EXISTS creator text NOT NULL DEFAULT '';
-- When a version was made, deleted, or changed its state or stage, where that is not an update of the model itself.
ALTER TABLE models ADD COLUMN IF NOT EXISTS activity_time timestamptz;

ALTER TABLE versions ADD COLUMN IF NOT EXISTS creator text NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN IF NOT EXISTS annotations jsonb NOT NULL DEFAULT '{}';
ALTER TABLE versions ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN IF NOT EXISTS run_link text NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN IF NOT EXISTS source_model_id text NOT NULL DEFAULT '';
-- The namespace and the id of the model, which the order of a search across models needs.
ALTER TABLE versions ADD COLUMN IF NOT EXISTS of_namespace text COLLATE "C";
ALTER TABLE versions ADD COLUMN IF NOT EXISTS of_model text COLLATE "C";

CREATE OR REPLACE FUNCTION place_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT namespace_id, model_id INTO new.of_namespace, new.of_model FROM models WHERE id = new.model;
    RETURN new;
END $$;

CREATE OR REPLACE TRIGGER versions_have_a_place BEFORE INSERT ON versions
    FOR EACH ROW WHEN (new.of_model IS NULL) EXECUTE FUNCTION place_version();

-- Wider than the one that it replaces, which was the column's own.
ALTER TABLE aliases DROP CONSTRAINT IF EXISTS aliases_alias_check, DROP CONSTRAINT IF EXISTS aliases_alias_form,
    ADD CONSTRAINT aliases_alias_form CHECK (alias ~ '^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$') NOT VALID;

RESET lock_timeout;

ALTER TABLE aliases VALIDATE CONSTRAINT aliases_alias_form;

-- An entry of the index has at most 2,700 bytes: longer pairs, which the normal form of some texts has, are compared in
-- the rows (store/search/filters.py).
CREATE OR REPLACE FUNCTION set_label_pairs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.label_pairs := ARRAY(SELECT pair FROM jsonb_each_text(new.labels), nfc(key || '=' || value) AS pair
                              WHERE octet_length(pair) <= 2500);
    RETURN new;
END $$;

-- A thousand versions at a time, each time in a transaction of its own.
DO $$
DECLARE
    part bigint[];
    last bigint := 0;
BEGIN
    LOOP
        SELECT array_agg(id), max(id) INTO part, last
          FROM (SELECT id FROM models WHERE id > last ORDER BY id LIMIT 500) AS next;
        EXIT WHEN part IS NULL;
        UPDATE versions SET of_namespace = models.namespace_id, of_model = models.model_id FROM models
         WHERE versions.model = ANY (part) AND models.id = versions.model AND versions.of_model IS NULL;
        COMMIT;
    END LOOP;
END $$;

-- The order of SearchVersions.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_update_time
    ON versions (of_namespace, update_time DESC, of_model, number DESC) WHERE delete_time IS NULL;

-- What a search asks for by value. Hashes, because these texts may be longer than an entry of another index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_run ON versions USING hash (run)
    WHERE run <> '' AND delete_time IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_source ON versions USING hash (source)
    WHERE source <> '' AND delete_time IS NULL;
-- The newest version of each stage.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_stage ON versions (model, stage, number DESC)
    WHERE state IN ('PENDING', 'READY');

CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_labels ON versions USING gin (labels jsonb_path_ops)
    WHERE delete_time IS NULL;
