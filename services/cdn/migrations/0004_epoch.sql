-- What tells one timeline of this database from another one with the same revisions (docs/adr/0037): a part of the epoch
-- that the change stream tells. `migrate --restored` renews it; the rest of the epoch is the server's own.
CREATE TABLE epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id        uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO epoch DEFAULT VALUES;

-- A notification in a transaction takes a lock of the whole server at its commit, so that the commits of all databases
-- wait for each other's flush. Programs that say so tell the watchers after the commit; for all others it is done here.
CREATE OR REPLACE FUNCTION tell_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('modelyard.tells', true) IS DISTINCT FROM 'later' THEN
        PERFORM pg_notify('cdn_changes', '');
    END IF;
    RETURN NULL;
END $$;
