-- outside a transaction
--
-- Versions that are deleted one by one, copied, and found by what they contain; rollbacks that go further back. Each
-- statement may be run again, and none locks a table for longer than a moment: new columns have no default or a constant
-- one. (Statements are divided where a line ends in a semicolon: no line of a function's body does.)
--
-- Safe while the old program runs: a deleted version is FAILED to it. So it neither serves it nor points an alias at it,
-- and does not count its bytes. What it does not write itself triggers write for it.

-- A statement that waits for a busy table makes all others queue behind it: better to fail and be run again.
SET lock_timeout = '5s';

ALTER TABLE versions ADD COLUMN IF NOT EXISTS delete_time timestamptz;

-- The full name of the version that this one is a copy of.
ALTER TABLE versions ADD COLUMN IF NOT EXISTS copied_from text NOT NULL DEFAULT '';

-- The number of the newest version that is not deleted, NULL while that is the last number given (latest_version).
ALTER TABLE models ADD COLUMN IF NOT EXISTS newest_version bigint;

CREATE OR REPLACE FUNCTION reset_newest_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN new.newest_version := NULL; RETURN new; END $$;

CREATE OR REPLACE TRIGGER newest_version_is_the_last_number BEFORE UPDATE OF latest_version ON models
    FOR EACH ROW EXECUTE FUNCTION reset_newest_version();

-- Where a rollback went: the beginning of the stretch that it restored, NULL for a stretch that no rollback began.
ALTER TABLE aliases ADD COLUMN IF NOT EXISTS restores timestamptz;

-- What READY versions contain: the first 64 bits of the digests of their artifacts. (The whole texts would make the index
-- several times as large; whoever reads it compares the digests themselves.) Beside `versions`, because each of their
-- updates would write all entries of the index again.
CREATE TABLE IF NOT EXISTS version_digests (
    model  bigint NOT NULL,
    number bigint NOT NULL,
    keys   bigint[] NOT NULL,
    PRIMARY KEY (model, number),
    FOREIGN KEY (model, number) REFERENCES versions ON DELETE CASCADE
);

CREATE OR REPLACE FUNCTION digest_keys(artifacts jsonb) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(DISTINCT ('x' || left(artifact ->> 1, 16))::bit(64)::bigint), '{}')
      FROM jsonb_array_elements(artifacts) AS artifact
$$;

-- For who makes a version READY and does not write this beforehand: imports, and the old program.
CREATE OR REPLACE FUNCTION list_digests() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    INSERT INTO version_digests
    SELECT new.model, new.number, digest_keys(new.artifacts)
     WHERE NOT EXISTS (SELECT FROM version_digests WHERE model = new.model AND number = new.number)
        ON CONFLICT DO NOTHING; RETURN NULL; END $$;

CREATE OR REPLACE TRIGGER digests_are_listed AFTER INSERT OR UPDATE OF state ON versions
    FOR EACH ROW WHEN (new.state = 'READY') EXECUTE FUNCTION list_digests();

RESET lock_timeout;

INSERT INTO version_digests
SELECT model, number, digest_keys(artifacts) FROM versions WHERE state = 'READY' ON CONFLICT DO NOTHING;

-- Without a list of pending entries: each version pays for its own files, and none for those of hundreds before it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS version_digests_by_key ON version_digests USING gin (keys)
    WITH (fastupdate = off);

-- The newest READY version, however many others came after it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_ready ON versions (model, number) WHERE state = 'READY';
