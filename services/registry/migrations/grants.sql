-- What the service may do, and nothing else: run after every migration, by the owner. $role stands for the role's name.

DO $$ BEGIN
    -- It may log in; how it proves who it is, is for pg_hba.conf and the one who sets its password.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$role') THEN -- whoever owns a database may often make no roles
        CREATE ROLE $role LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- made before, or by another database of this server
END $$;

-- Imports stage their rows in a temporary table.
DO $$ BEGIN
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO $role', current_database());
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM $role;
GRANT USAGE ON SCHEMA public TO $role;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO $role;

-- What happened is told and audited once, and never changed: trimming the log of changes is all that may go.
GRANT INSERT ON audit TO $role;
GRANT EXECUTE ON FUNCTION make_audit_partitions(integer) TO $role;
GRANT INSERT, DELETE ON changes TO $role;
GRANT UPDATE ON revision TO $role;

GRANT INSERT, UPDATE, DELETE ON namespaces, namespace_usage, models, versions, deployments, metrics, requests, unpins,
    api_tokens TO $role;
-- Triggers add the words; those that no model has any more go.
GRANT UPDATE, DELETE ON vocabulary TO $role;
GRANT INSERT, UPDATE ON aliases, policies, promotions TO $role;
GRANT INSERT, UPDATE, DELETE ON alias_rules TO $role;
-- A result that was recorded by mistake can be taken back: the audit has it. Results go with their version, too.
GRANT INSERT, DELETE ON evaluations, version_digests TO $role;
GRANT INSERT ON cards, words TO $role;
-- Histories go only with a model that is purged.
GRANT EXECUTE ON FUNCTION purge_part(text, bigint, integer) TO $role;
