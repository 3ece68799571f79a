-- The registry's first schema.
--
-- Every write transaction does the same three things in the same order (docs/adr/0002):
--   1. it locks what it depends on: the row of the model (or of the namespace's usage), in the order of their names;
--   2. it reads what it has to know under that lock;
--   3. in one statement it takes the next revision and writes everything: the resource, the changes, the audit.
-- Nobody waits for a row while holding the revision, so writers cannot deadlock, and the revision is held for one
-- statement and the commit.

CREATE EXTENSION IF NOT EXISTS btree_gist;

-- The counter. One row, updated by every write: leave room for the dead versions of it on its page.
CREATE TABLE revision (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    value     bigint NOT NULL
) WITH (fillfactor = 10);

-- The change stream: one row for each revision, so that a revision is told whole or not at all.
CREATE TABLE changes (
    revision    bigint PRIMARY KEY,
    commit_time timestamptz NOT NULL,
    resources   text[] NOT NULL,
    kinds       smallint[] NOT NULL,
    subtrees    boolean[] NOT NULL,
    size        integer GENERATED ALWAYS AS (cardinality(resources)) STORED,
    CHECK (cardinality(resources) = cardinality(kinds) AND cardinality(resources) = cardinality(subtrees))
);

CREATE FUNCTION tell_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Wakes the watchers at commit; whoever misses it finds the revision by looking.
    PERFORM pg_notify('registry_changes', '');
    RETURN NULL;
END $$;

CREATE TRIGGER changes_are_told AFTER INSERT ON changes FOR EACH STATEMENT EXECUTE FUNCTION tell_changes();

-- Who did what. Nobody may change it, the table's owner included.
CREATE TABLE audit (
    revision   bigint NOT NULL,
    ordinal    integer NOT NULL,
    time       timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    resource   text COLLATE "C" NOT NULL,
    request_id text NOT NULL,
    before     jsonb,
    after      jsonb,
    PRIMARY KEY (revision, ordinal)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The first answers to requests with an id, kept for a day.
CREATE TABLE requests (
    actor       text NOT NULL,
    request_id  text NOT NULL,
    action      text NOT NULL,
    digest      bytea NOT NULL,
    revision    bigint,
    answer      bytea,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, request_id)
);
CREATE INDEX requests_by_time ON requests (create_time);

-- `octets` is about how long a resource's message is: pages are cut by it, so that an answer fits a message.

CREATE TABLE namespaces (
    namespace_id    text COLLATE "C" PRIMARY KEY CHECK (namespace_id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$'),
    display_name    text NOT NULL,
    description     text NOT NULL,
    owner           text NOT NULL,
    labels          jsonb NOT NULL,
    max_models      bigint NOT NULL CHECK (max_models >= 0),
    max_asset_bytes bigint NOT NULL CHECK (max_asset_bytes >= 0),
    create_time     timestamptz NOT NULL,
    update_time     timestamptz NOT NULL,
    revision        bigint NOT NULL,
    octets          integer NOT NULL
);

-- What a namespace holds. Its row is what a writer locks that adds a model.
CREATE TABLE namespace_usage (
    namespace_id text COLLATE "C" PRIMARY KEY REFERENCES namespaces ON DELETE CASCADE,
    models       bigint NOT NULL DEFAULT 0 CHECK (models >= 0)
) WITH (fillfactor = 50);

CREATE TABLE models (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace_id    text COLLATE "C" NOT NULL REFERENCES namespaces,
    model_id        text COLLATE "C" NOT NULL CHECK (model_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    display_name    text COLLATE "C" NOT NULL,
    description     text NOT NULL,
    owner           text COLLATE "C" NOT NULL,
    task            text COLLATE "C" NOT NULL,
    framework       text COLLATE "C" NOT NULL,
    license         text COLLATE "C" NOT NULL,
    labels          jsonb NOT NULL,
    annotations     jsonb NOT NULL,
    parameter_count bigint NOT NULL CHECK (parameter_count >= 0),
    latest_version  bigint NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL,
    update_time     timestamptz NOT NULL,
    delete_time     timestamptz,
    purge_time      timestamptz,
    revision        bigint NOT NULL,
    octets          integer NOT NULL,
    search          tsvector NOT NULL,
    UNIQUE (namespace_id, model_id)
) WITH (fillfactor = 85); -- every new version updates latest_version, which no index holds

CREATE INDEX models_by_words ON models USING gin (search);
CREATE INDEX models_by_labels ON models USING gin (labels jsonb_path_ops);
CREATE INDEX models_by_parameter_count ON models (namespace_id, parameter_count, model_id);
CREATE INDEX models_by_create_time ON models (namespace_id, create_time, model_id);
CREATE INDEX models_by_update_time ON models (namespace_id, update_time, model_id);

-- Names such as convnext_base.fb_in22k_ft_in1k are several words. The same characters separate words in a query
-- (model/searches.py).
CREATE FUNCTION plain_words(content text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT lower(translate(content, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~', repeat(' ', 32)) COLLATE pg_c_utf8)
$$;

-- Names and labels are words as they are; prose is stemmed, too, so that "classifying" finds "classification".
CREATE FUNCTION model_words(model_id text, display_name text, labels jsonb, description text)
RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT setweight(to_tsvector('pg_catalog.simple', plain_words(model_id || ' ' || display_name)), 'A')
        || setweight(to_tsvector('pg_catalog.simple', plain_words(coalesce(
               (SELECT string_agg(key || ' ' || value, ' ') FROM jsonb_each_text(labels)), ''))), 'B')
        || setweight(to_tsvector('pg_catalog.english', plain_words(description)), 'C')
$$;

-- All of the words, each as it is or stemmed. Words that say nothing ("the") are dropped unless there is nothing else.
CREATE FUNCTION model_query(words text[]) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    WITH word AS (
        SELECT plainto_tsquery('pg_catalog.simple', plain_words(word)) AS plain,
               plainto_tsquery('pg_catalog.english', plain_words(word)) AS stemmed
          FROM unnest(words) AS word
    ), part AS (
        SELECT string_agg(format('(%s|%s)', plain, stemmed), '&') FILTER (WHERE numnode(stemmed) > 0) AS telling,
               string_agg(plain::text, '&') AS every
          FROM word
         WHERE numnode(plain) > 0
    )
    SELECT coalesce(telling, every, '')::tsquery FROM part
$$;

CREATE TABLE versions (
    model          bigint NOT NULL REFERENCES models ON DELETE CASCADE,
    number         bigint NOT NULL CHECK (number > 0),
    state          text NOT NULL CHECK (state IN ('PENDING', 'READY', 'FAILED')),
    failure        text NOT NULL DEFAULT '',
    description    text NOT NULL,
    artifacts      jsonb NOT NULL,
    parent_version text NOT NULL,
    training_data  text[] NOT NULL,
    run            text NOT NULL,
    git_commit     text NOT NULL,
    stage          text NOT NULL,
    labels         jsonb NOT NULL,
    size_bytes     bigint NOT NULL CHECK (size_bytes >= 0),
    create_time    timestamptz NOT NULL,
    update_time    timestamptz NOT NULL,
    revision       bigint NOT NULL,
    octets         integer NOT NULL,
    PRIMARY KEY (model, number)
);

-- Where an alias pointed when. A stretch without a version is a time when the alias was removed. The primary key lets
-- no two stretches of an alias overlap: the history cannot contradict itself, whatever a program does.
CREATE TABLE aliases (
    model    bigint NOT NULL REFERENCES models ON DELETE CASCADE,
    alias    text COLLATE "C" NOT NULL CHECK (alias ~ '^[a-z][a-z0-9_-]{0,62}$'),
    version  bigint,
    valid    tstzrange NOT NULL CHECK (lower_inc(valid) AND NOT lower_inf(valid) AND NOT upper_inc(valid)),
    actor    text NOT NULL,
    revision bigint NOT NULL,
    PRIMARY KEY (model, alias, valid WITHOUT OVERLAPS),
    FOREIGN KEY (model, version) REFERENCES versions ON DELETE CASCADE
);
CREATE UNIQUE INDEX aliases_now ON aliases (model, alias) WHERE upper_inf(valid);
CREATE INDEX aliases_by_time ON aliases (model, alias, lower(valid));

CREATE TABLE evaluations (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace_id  text COLLATE "C" NOT NULL,
    model         bigint NOT NULL,
    version       bigint NOT NULL,
    dataset       text COLLATE "C" NOT NULL,
    metric        text COLLATE "C" NOT NULL,
    value         double precision NOT NULL CHECK (value > '-Infinity' AND value < 'Infinity'),
    parameters    jsonb NOT NULL,
    evaluate_time timestamptz NOT NULL,
    create_time   timestamptz NOT NULL,
    revision      bigint NOT NULL,
    octets        integer NOT NULL,
    FOREIGN KEY (model, version) REFERENCES versions ON DELETE CASCADE
);
-- The results of one model, and its best one.
CREATE INDEX evaluations_by_model ON evaluations (model, dataset, metric, value, id);
-- The leaderboard, read forwards or backwards.
CREATE INDEX evaluations_by_value ON evaluations (namespace_id, dataset, metric, value, model, id);

-- `namespaces/default` is the first write.
INSERT INTO revision (value) VALUES (1);
INSERT INTO namespaces VALUES ('default', 'Default', '', '', '{}', 0, 0, now(), now(), 1, 128);
INSERT INTO namespace_usage (namespace_id) VALUES ('default');
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees)
VALUES (1, now(), '{namespaces/default}', '{1}', '{true}');
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, after)
VALUES (1, 1, now(), 'migration', 'CreateNamespace', 'namespaces/default', '', '{"display_name": "Default"}');
