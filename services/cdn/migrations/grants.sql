-- What the service may do, and nothing else: run after every migration, by the owner. $role stands for the role's name.

DO $$ BEGIN
    -- It may log in; how it proves who it is, is for pg_hba.conf and the one who sets its password.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$role') THEN -- whoever owns a database may often make no roles
        CREATE ROLE $role LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- made before, or by another database of this server
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM $role;
GRANT USAGE ON SCHEMA public TO $role;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO $role;

GRANT INSERT ON audit TO $role;
GRANT EXECUTE ON FUNCTION make_audit_partitions(integer) TO $role;
GRANT INSERT, DELETE ON changes TO $role;
GRANT UPDATE ON revision, totals TO $role;

GRANT INSERT, UPDATE, DELETE ON assets, owners, uploads, finished_uploads, requests TO $role;
GRANT INSERT, DELETE ON tensors, pins, upload_parts, uploaders TO $role;

GRANT INSERT, UPDATE, DELETE ON static_files, static_repairs, shares, invalidations TO $role;
