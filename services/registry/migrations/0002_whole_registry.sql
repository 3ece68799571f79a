-- What the first schema lacks: cards, deployments, quotas of bytes, purging, the vocabulary that searches mend typos
-- with, and the least that the service's role needs.
--
-- Safe while the old program runs: nothing it uses goes away, tables get columns with constant defaults (no rewrite),
-- and no index is built on a table that may be large (0003 does that, without locking anybody out).

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS fuzzystrmatch;

-- How many bytes a namespace's versions have in all.
ALTER TABLE namespace_usage ADD COLUMN asset_bytes bigint NOT NULL DEFAULT 0 CHECK (asset_bytes >= 0);
UPDATE namespace_usage SET asset_bytes = found.total
  FROM (SELECT models.namespace_id, sum(versions.size_bytes)::bigint AS total
          FROM versions JOIN models ON models.id = versions.model GROUP BY 1) AS found
 WHERE namespace_usage.namespace_id = found.namespace_id;

-- Model cards: every update writes a new number, and old ones stay.
CREATE TABLE cards (
    model       bigint NOT NULL REFERENCES models ON DELETE CASCADE,
    number      bigint NOT NULL CHECK (number > 0),
    sections    jsonb NOT NULL, -- intended_use, training_data, … by the names of the contract; empty ones left out
    markdown    text NOT NULL,
    extra       jsonb NOT NULL, -- front matter without a field of its own
    front       text NOT NULL,  -- the front matter as it was imported, to be given back to the letter; empty otherwise
    update_time timestamptz NOT NULL,
    actor       text NOT NULL,
    revision    bigint NOT NULL,
    octets      integer NOT NULL,
    PRIMARY KEY (model, number)
);

-- The card's part of models.search; an update of the model keeps it.
ALTER TABLE models ADD COLUMN card_words tsvector NOT NULL DEFAULT ''::tsvector;

-- Deployments. The version they run cannot be purged while they live: they hold it.
CREATE TABLE deployments (
    namespace_id   text COLLATE "C" NOT NULL REFERENCES namespaces,
    deployment_id  text COLLATE "C" NOT NULL CHECK (deployment_id ~ '^[a-z][a-z0-9_-]{0,62}$'),
    model          bigint NOT NULL,
    model_id       text COLLATE "C" NOT NULL,
    version        bigint NOT NULL,
    environment    text COLLATE "C" NOT NULL,
    state          text NOT NULL CHECK (state IN ('PENDING', 'ROLLING_OUT', 'LIVE', 'DEGRADED', 'FAILED', 'ROLLED_BACK',
                                                  'RETIRED')),
    status_message text NOT NULL,
    endpoint       text NOT NULL,
    replicas       integer NOT NULL CHECK (replicas >= 0),
    labels         jsonb NOT NULL,
    create_time    timestamptz NOT NULL,
    update_time    timestamptz NOT NULL,
    revision       bigint NOT NULL,
    octets         integer NOT NULL,
    PRIMARY KEY (namespace_id, deployment_id),
    FOREIGN KEY (model, version) REFERENCES versions ON DELETE CASCADE
);
CREATE INDEX deployments_by_model ON deployments (model, environment, deployment_id);
CREATE INDEX deployments_by_environment ON deployments (namespace_id, environment, deployment_id);

-- All words in names, titles, labels, descriptions and cards, as they are written: what a mistyped word is compared
-- with. A word stays when the last model that has it goes: it then only suggests what nobody finds.
CREATE TABLE words (
    word text COLLATE "C" PRIMARY KEY
);
CREATE INDEX words_by_trigrams ON words USING gin (word gin_trgm_ops);

-- The words of a text that a person may type or mistype: those with a letter.
CREATE FUNCTION spelt_words(content text) RETURNS SETOF text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT word
      FROM unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', plain_words(content)))) AS word
     WHERE length(word) <= 64 AND word ~ '[^0-9]'
$$;

INSERT INTO words
SELECT DISTINCT word
  FROM models, spelt_words(concat_ws(' ', model_id, display_name, description,
                                     (SELECT string_agg(key || ' ' || value, ' ') FROM jsonb_each_text(labels)))) AS word
ON CONFLICT DO NOTHING;

-- The words of a card: its prose, stemmed. A tsvector holds a megabyte; the first 64 Ki characters are plenty.
CREATE FUNCTION words_of_card(content text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT setweight(to_tsvector('pg_catalog.english', plain_words(left(content, 65536))), 'D')
$$;

-- The words of a text as the index has them: as they are, and stemmed.
CREATE FUNCTION lexemes_of(content text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT tsvector_to_array(to_tsvector('pg_catalog.simple', plain_words(content))
                          || to_tsvector('pg_catalog.english', plain_words(content)))
$$;

-- What a statement would do, whatever its values: for the log of slow statements and for the tests of plans.
CREATE FUNCTION generic_plan(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (GENERIC_PLAN) ' || statement;
END $$;

-- The labels as 'key=value': an array has statistics of its elements, which jsonb has not, and how selective a label or
-- a word is decides how a search is planned. A trigger fills it, whoever writes.
ALTER TABLE models ADD COLUMN label_pairs text[] COLLATE "C" NOT NULL DEFAULT '{}';

CREATE FUNCTION set_label_pairs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.label_pairs := ARRAY(SELECT key || '=' || value FROM jsonb_each_text(new.labels));
    RETURN new;
END $$;

CREATE TRIGGER label_pairs_are_the_labels BEFORE INSERT OR UPDATE OF labels ON models
    FOR EACH ROW EXECUTE FUNCTION set_label_pairs();

UPDATE models SET labels = labels WHERE labels <> '{}';

ALTER TABLE models ALTER search SET STATISTICS 500, ALTER label_pairs SET STATISTICS 500;
CREATE STATISTICS evaluations_by_board (ndistinct, dependencies, mcv) ON namespace_id, dataset, metric FROM evaluations;
