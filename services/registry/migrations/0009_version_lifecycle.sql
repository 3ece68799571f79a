-- outside a transaction
--
-- Versions that are deleted one by one, copied, and found by what they contain; rollbacks that go further back. Each statement may be run again, and none locks a table for longer than a moment:
-- new columns have no default or a constant one. (A body of a function stands on one line: statements are divided where
-- a line ends in a semicolon.)
--
-- Safe while the old program runs: a deleted version is FAILED to it. So it neither serves it nor points an alias at it,
-- and does not count its bytes.

ALTER TABLE versions ADD COLUMN IF NOT EXISTS delete_time timestamptz;

-- The number of the newest version that is not deleted, NULL while that is the last number given (latest_version).
ALTER TABLE models ADD COLUMN IF NOT EXISTS newest_version bigint;

CREATE OR REPLACE FUNCTION reset_newest_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN new.newest_version := NULL; RETURN new; END $$;

CREATE OR REPLACE TRIGGER newest_version_is_the_last_number BEFORE UPDATE OF latest_version ON models
    FOR EACH ROW EXECUTE FUNCTION reset_newest_version();

-- Where a rollback went: the beginning of the stretch that it restored, NULL for a stretch that no rollback began.
ALTER TABLE aliases ADD COLUMN IF NOT EXISTS restores timestamptz;

-- The full name of the version that this one is a copy of.
ALTER TABLE versions ADD COLUMN IF NOT EXISTS copied_from text NOT NULL DEFAULT '';

-- The newest READY version, however many others came after it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_ready ON versions (model, number) WHERE state = 'READY';

-- The first 64 bits of the digests of a version's artifacts. (Their whole texts would make the index four times as large;
-- whoever reads it compares the digests themselves.)
CREATE OR REPLACE FUNCTION digest_keys(artifacts jsonb) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(DISTINCT ('x' || left(artifact ->> 1, 16))::bit(64)::bigint), '{}')
      FROM jsonb_array_elements(artifacts) AS artifact
$$;

-- Which READY versions contain an asset. Without a list of pending entries: each version pays for its own files, and none
-- for those of hundreds before it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_digest ON versions USING gin (digest_keys(artifacts))
    WITH (fastupdate = off) WHERE state = 'READY';
