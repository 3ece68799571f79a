-- Who may do what in which namespace (docs/adr/0047). The registry's own policy has the key ''. A policy goes with its
-- namespace, whoever deletes that: another one of the same name must not inherit it.
CREATE TABLE policies (
    key          text COLLATE "C" PRIMARY KEY,
    namespace_id text COLLATE "C" GENERATED ALWAYS AS (nullif(key, '')) STORED REFERENCES namespaces ON DELETE CASCADE,
    bindings     jsonb NOT NULL,
    private      boolean NOT NULL DEFAULT false CHECK (NOT private OR key <> ''),
    create_time  timestamptz NOT NULL,
    update_time  timestamptz NOT NULL,
    revision     bigint NOT NULL
);
CREATE INDEX policies_by_revision ON policies (revision);
CREATE INDEX policies_by_namespace ON policies (namespace_id);

-- What tokens could do before: everything that needs no scope `admin`, everywhere.
INSERT INTO policies (key, bindings, create_time, update_time, revision)
SELECT '', '{"maintainer": ["everyone"]}', now(), now(), greatest(value, 1) FROM revision;
