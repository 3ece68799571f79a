-- Who may do what in which namespace (docs/adr/0047). The registry's own policy has the key ''.
CREATE TABLE policies (
    key           text COLLATE "C" PRIMARY KEY,
    bindings      jsonb NOT NULL,
    private       boolean NOT NULL DEFAULT false CHECK (NOT private OR key <> ''),
    create_time   timestamptz NOT NULL,
    update_time   timestamptz NOT NULL,
    revision      bigint NOT NULL,
    -- What happened before this revision, in another namespace of the same name, is told to the registry's owners only.
    hidden_before bigint NOT NULL DEFAULT 0
);

-- What happened in a namespace is still told when it is gone: so its policy stays, with nobody bound, whoever deletes it.
CREATE FUNCTION keep_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO policies (key, bindings, create_time, update_time, revision)
    VALUES (OLD.namespace_id, '{}', now(), now(), OLD.revision)
    ON CONFLICT (key) DO UPDATE SET bindings = '{}';
    RETURN NULL;
END $$;
CREATE TRIGGER policies_stay AFTER DELETE ON namespaces FOR EACH ROW EXECUTE FUNCTION keep_policy();

-- Another one of the same name must not inherit the policy, nor the past. A policy that was made with the namespace stays.
CREATE FUNCTION renew_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE policies
       SET bindings = '{}', private = false, create_time = NEW.create_time, update_time = NEW.create_time,
           revision = NEW.revision, hidden_before = NEW.revision
     WHERE key = NEW.namespace_id AND hidden_before <> NEW.revision;
    RETURN NULL;
END $$;
CREATE TRIGGER policies_are_renewed AFTER INSERT ON namespaces FOR EACH ROW EXECUTE FUNCTION renew_policy();

-- What tokens could do before: everything that needs no scope `admin`, everywhere.
INSERT INTO policies (key, bindings, create_time, update_time, revision)
SELECT '', '{"maintainer": ["everyone"]}', now(), now(), greatest(value, 1) FROM revision;
