-- What the first schema lacks: cards, deployments, quotas of bytes, purging, the vocabulary that searches mend typos
-- with, and the least that the service's role needs.
--
-- Safe while the old program runs: nothing it uses goes away, tables get columns with constant defaults (no rewrite),
-- and no index is built on a table that may be large (0003 does that, without locking anybody out).

CREATE EXTENSION IF NOT EXISTS pg_trgm;

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

-- The words of a text that are worth mending: with a letter, from four characters on.
CREATE FUNCTION spelt_words(content text) RETURNS SETOF text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT word
      FROM unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', plain_words(content)))) AS word
     WHERE length(word) BETWEEN 4 AND 64 AND word ~ '[^0-9]'
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

-- A query for all of the words. How a word may match depends on *reach*:
--   name    it is a word of the name or of the display name
--   whole   it is anywhere, as it is or stemmed
--   prefix  or something begins with it
-- *others* are further words that may stand for one of them: 'convnxt convnext' lets convnext stand for convnxt.
-- Words that say nothing ("the") are dropped unless there is nothing else.
CREATE FUNCTION model_query(words text[], reach text, others text[]) RETURNS tsquery
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    WITH word AS (
        SELECT place, lower(word COLLATE pg_c_utf8) AS word,
               plainto_tsquery('pg_catalog.simple', plain_words(word)) AS plain,
               plainto_tsquery('pg_catalog.english', plain_words(word)) AS stemmed
          FROM unnest(words) WITH ORDINALITY AS word (word, place)
    ), part AS (
        SELECT numnode(word.stemmed) > 0 AS tells, '(' || string_agg(way, '|') || ')' AS ways
          FROM word, LATERAL (
               SELECT word.plain::text || CASE reach WHEN 'name' THEN ':A' WHEN 'prefix' THEN ':*' ELSE '' END
               UNION ALL
               SELECT word.stemmed::text WHERE reach <> 'name' AND numnode(word.stemmed) > 0
               UNION ALL
               SELECT plainto_tsquery('pg_catalog.simple', split_part(other, ' ', 2))::text
                 FROM unnest(others) AS other
                WHERE reach = 'prefix' AND split_part(other, ' ', 1) = word.word
               ) AS alternative (way)
         WHERE numnode(word.plain) = 1
         GROUP BY place, word.stemmed
    )
    SELECT coalesce(string_agg(ways, '&') FILTER (WHERE tells), string_agg(ways, '&'), '')::tsquery FROM part
$$;

-- What a statement would do, whatever its values: for the log of slow statements and for the tests of plans.
CREATE FUNCTION generic_plan(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (GENERIC_PLAN) ' || statement;
END $$;

-- How selective a word is decides how a search is planned.
ALTER TABLE models ALTER search SET STATISTICS 500;
CREATE STATISTICS evaluations_by_board (ndistinct, dependencies, mcv) ON namespace_id, dataset, metric FROM evaluations;
