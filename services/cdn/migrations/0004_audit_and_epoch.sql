-- outside a transaction
--
-- The audit in one partition for each month (docs/adr/0038), so that old months can be archived: no row of it may be
-- deleted. What there is becomes the first partition, and is not copied: everybody goes on writing but for the moment of
-- the switch. Each statement may be run again.

-- It holds what was written until now, and until the month after the next one begins: a month that ends while this runs
-- is no trouble.
DO $$ BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'audit'::regclass) = 'r'
       AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'audit_is_before') THEN
        SET LOCAL lock_timeout = '5s';
        EXECUTE format('ALTER TABLE audit ADD CONSTRAINT audit_is_before CHECK (time < %L) NOT VALID',
                       (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months') AT TIME ZONE 'UTC');
    END IF;
END $$;

-- Reads all of it, with a lock that stops nobody.
DO $$ BEGIN
    IF to_regclass('audit_before') IS NULL THEN
        ALTER TABLE audit VALIDATE CONSTRAINT audit_is_before;
    END IF;
END $$;

-- In place of the primary key: that of a partitioned table has the time in it. When this is run again after the switch, a
-- temporary table stands in for the one that may have no such index built.
DO $$ BEGIN
    IF to_regclass('audit_before') IS NOT NULL THEN
        CREATE TEMPORARY TABLE audit (LIKE public.audit);
    END IF;
END $$;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS audit_before_key ON audit (revision, ordinal, time);
DROP TABLE IF EXISTS pg_temp.audit;

CREATE OR REPLACE FUNCTION switch_audit() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ends text := (SELECT substring(pg_get_constraintdef(oid) FROM '''([^'']*)''')
                    FROM pg_constraint WHERE conname = 'audit_is_before');
    found record;
BEGIN
    IF to_regclass('audit_before') IS NOT NULL THEN
        RETURN;
    END IF;
    SET LOCAL lock_timeout = '5s';
    LOCK TABLE audit IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE audit DROP CONSTRAINT audit_pkey;
    FOR found IN SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                  WHERE indrelid = 'audit'::regclass AND relname <> 'audit_before_key' LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', found.relname, replace(found.relname, 'audit_', 'audit_before_'));
    END LOOP;
    ALTER TABLE audit RENAME TO audit_before;
    CREATE TABLE audit (LIKE audit_before) PARTITION BY RANGE (time);
    CREATE UNIQUE INDEX audit_key ON audit (revision, ordinal, time);
    FOR found IN SELECT indexdef FROM pg_indexes WHERE tablename = 'audit_before' AND indexname <> 'audit_before_key' LOOP
        EXECUTE replace(replace(found.indexdef, 'audit_before_', 'audit_'), 'audit_before', 'audit');
    END LOOP;
    CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
    EXECUTE format('ALTER TABLE audit ATTACH PARTITION audit_before FOR VALUES FROM (MINVALUE) TO (%L)', ends);
    -- The service writes on meanwhile, under the role that it has.
    FOR found IN SELECT grantee::regrole AS role, privilege_type AS may
                   FROM pg_class, aclexplode(relacl) WHERE oid = 'audit_before'::regclass AND grantee <> relowner LOOP
        EXECUTE format('GRANT %s ON audit TO %s', found.may, found.role);
    END LOOP;
END $$;
SELECT switch_audit();
DROP FUNCTION switch_audit();

-- Makes the partitions of the months to come, each with the trigger that keeps its rows as they are: that of the whole
-- table is not asked when a statement names a partition. Attaching one stops nobody. The service calls it, whose role may
-- make no tables.
CREATE OR REPLACE FUNCTION make_audit_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    starts timestamptz;
    ends timestamptz;
    made integer := 0;
    name text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('modelyard audit partitions', 0)) THEN
        RETURN 0; -- another process is at it
    END IF;
    SELECT max((regexp_match(pg_get_expr(relpartbound, oid), 'TO \(''([^'']*)''\)'))[1]::timestamptz) INTO starts
      FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = 'audit'::regclass;
    WHILE starts <= now() + make_interval(months => least(greatest(ahead, 1), 120)) LOOP
        name := 'audit_' || to_char(starts AT TIME ZONE 'UTC', 'YYYY_MM');
        ends := (starts AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
        EXECUTE format('CREATE TABLE %I (LIKE audit)', name);
        EXECUTE format('CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format('ALTER TABLE audit ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, starts, ends);
        starts := ends;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
REVOKE EXECUTE ON FUNCTION make_audit_partitions(integer) FROM PUBLIC;
SELECT make_audit_partitions(12);

-- What tells one timeline of this database from another one with the same revisions (docs/adr/0037): a part of the epoch
-- that the change stream tells. `migrate --restored` renews it; the rest of the epoch is the server's own.
CREATE TABLE IF NOT EXISTS epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id        uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO epoch DEFAULT VALUES ON CONFLICT DO NOTHING;

-- A notification in a transaction takes a lock of the whole server at its commit, so that the commits of all databases
-- wait for each other's flush. Programs that say so tell the watchers after the commit; for all others it is done here.
CREATE OR REPLACE FUNCTION tell_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('modelyard.tells', true) IS DISTINCT FROM 'later' THEN
        PERFORM pg_notify('cdn_changes', '');
    END IF;
    RETURN NULL;
END $$;
