-- outside a transaction
--
-- The best result of every model on every leaderboard, which data sets and metrics there are, and which way a metric is
-- better (docs/adr/0036).
--
-- Safe while the old program runs: triggers keep the new tables, whoever writes. Models from before are taken over a
-- batch at a time, each in a transaction of its own; until then the triggers leave them alone. Every statement may be
-- run again.

-- A statement that waits for a busy table makes all others queue behind it: better to fail and be run again.
SET lock_timeout = '5s';

-- Whether a model's results are in `best`. Models of now are not yet, models of later are from the start.
ALTER TABLE models ADD COLUMN IF NOT EXISTS ranked boolean NOT NULL DEFAULT false;
ALTER TABLE models ALTER ranked SET DEFAULT true;

-- One row for each model, data set and metric of which there are results. Both ends are kept: which one is the best is
-- for the metric to say, and may change. NULL while all results are of versions that do not count.
-- Without a foreign key to `models`: triggers take rows away, and count what goes.
CREATE TABLE IF NOT EXISTS best (
    model        bigint NOT NULL,
    namespace_id text COLLATE "C" NOT NULL,
    dataset      text COLLATE "C" NOT NULL,
    metric       text COLLATE "C" NOT NULL,
    results      bigint NOT NULL,
    high         double precision,
    high_id      bigint,
    low          double precision,
    low_id       bigint,
    PRIMARY KEY (model, dataset, metric)
);
CREATE INDEX IF NOT EXISTS best_by_high ON best (namespace_id, dataset, metric, high, model);
CREATE INDEX IF NOT EXISTS best_by_low ON best (namespace_id, dataset, metric, low, model);
CREATE STATISTICS IF NOT EXISTS best_by_board (ndistinct, dependencies, mcv) ON namespace_id, dataset, metric FROM best;

-- How many results there are. An empty data set stands for all data sets of a metric, an empty metric for all metrics of
-- a data set: no id is empty. `pairs` counts the rows that such a row stands for.
CREATE TABLE IF NOT EXISTS boards (
    namespace_id text COLLATE "C" NOT NULL,
    dataset      text COLLATE "C" NOT NULL,
    metric       text COLLATE "C" NOT NULL,
    results      bigint NOT NULL,
    pairs        bigint NOT NULL,
    PRIMARY KEY (namespace_id, dataset, metric)
);
CREATE INDEX IF NOT EXISTS boards_by_metric ON boards (namespace_id, metric, dataset);

-- What was said of metrics.
CREATE TABLE IF NOT EXISTS metrics (
    namespace_id text COLLATE "C" NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    metric       text COLLATE "C" NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('HIGHER', 'LOWER')),
    update_time  timestamptz NOT NULL,
    revision     bigint NOT NULL,
    PRIMARY KEY (namespace_id, metric)
);

RESET lock_timeout;

-- Deployments of a namespace by state.
CREATE INDEX CONCURRENTLY IF NOT EXISTS deployments_by_state ON deployments (namespace_id, state, deployment_id);

-- Pages of results: in the order of ListEvaluations, of a model and of a version.
CREATE INDEX CONCURRENTLY IF NOT EXISTS evaluations_by_page ON evaluations (model, dataset, metric, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS evaluations_by_version_page
    ON evaluations (model, version, dataset, metric, id);
DROP INDEX CONCURRENTLY IF EXISTS evaluations_by_version;

-- Whether results of a version in such a state count.
CREATE OR REPLACE FUNCTION version_counts(state text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT state IN ('PENDING', 'READY')
$$;

-- So many results of a data set and a metric more, or fewer. Only those call it who hold the revision: its rows are
-- those of all models.
CREATE OR REPLACE FUNCTION count_results(spaces text[], sets text[], names text[], counts bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    WITH changed AS (
        INSERT INTO boards AS board (namespace_id, dataset, metric, results, pairs)
        SELECT namespace_id, dataset, metric, sum(count), 1
          FROM unnest(spaces, sets, names, counts) AS more (namespace_id, dataset, metric, count)
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (namespace_id, dataset, metric) DO UPDATE SET results = board.results + excluded.results
        RETURNING new.namespace_id AS namespace_id, new.dataset AS dataset, new.metric AS metric,
                  new.results - coalesce(old.results, 0) AS results,
                  (new.results > 0)::integer - (coalesce(old.results, 0) > 0)::integer AS pairs
    ), summed AS (
        SELECT namespace_id, dataset, '' AS metric, sum(results) AS results, sum(pairs) AS pairs
          FROM changed GROUP BY 1, 2
        UNION ALL
        SELECT namespace_id, '', metric, sum(results), sum(pairs) FROM changed GROUP BY 1, 3
    )
    INSERT INTO boards AS board (namespace_id, dataset, metric, results, pairs)
    SELECT namespace_id, dataset, metric, results, pairs FROM summed ORDER BY 1, 2, 3
    ON CONFLICT (namespace_id, dataset, metric)
    DO UPDATE SET results = board.results + excluded.results, pairs = board.pairs + excluded.pairs;
    IF 0 > ANY (counts) THEN
        DELETE FROM boards
         USING (SELECT DISTINCT namespace_id, unnest(ARRAY[dataset, dataset, '']) AS dataset,
                       unnest(ARRAY[metric, '', metric]) AS metric
                  FROM unnest(spaces, sets, names) AS fewer (namespace_id, dataset, metric)) AS gone
         WHERE boards.namespace_id = gone.namespace_id AND boards.dataset = gone.dataset
           AND boards.metric = gone.metric AND boards.results <= 0;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION count_results(text[], text[], text[], bigint[]) FROM PUBLIC;

-- Look again for the highest and the lowest result, from both ends of an index.
CREATE OR REPLACE FUNCTION rank_again(models bigint[], sets text[], names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    wanted record;
    highest record;
    lowest record;
BEGIN
    FOR wanted IN SELECT DISTINCT model, dataset, metric FROM unnest(models, sets, names) AS each (model, dataset, metric)
    LOOP
        SELECT evaluations.value, evaluations.id INTO highest FROM evaluations
         WHERE evaluations.model = wanted.model AND evaluations.dataset = wanted.dataset
           AND evaluations.metric = wanted.metric
           AND (SELECT version_counts(versions.state) FROM versions
                 WHERE versions.model = evaluations.model AND versions.number = evaluations.version)
         ORDER BY evaluations.model DESC, evaluations.dataset DESC, evaluations.metric DESC, evaluations.value DESC,
                  evaluations.id DESC LIMIT 1;
        SELECT evaluations.value, evaluations.id INTO lowest FROM evaluations
         WHERE evaluations.model = wanted.model AND evaluations.dataset = wanted.dataset
           AND evaluations.metric = wanted.metric
           AND (SELECT version_counts(versions.state) FROM versions
                 WHERE versions.model = evaluations.model AND versions.number = evaluations.version)
         ORDER BY evaluations.model, evaluations.dataset, evaluations.metric, evaluations.value, evaluations.id LIMIT 1;
        UPDATE best SET high = highest.value, high_id = highest.id, low = lowest.value, low_id = lowest.id
         WHERE best.model = wanted.model AND best.dataset = wanted.dataset AND best.metric = wanted.metric;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION rank_again(bigint[], text[], text[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION results_recorded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    more record;
BEGIN
    WITH groups AS (
        SELECT made.model, made.namespace_id, made.dataset, made.metric, count(*) AS results,
               array_agg(made.value ORDER BY made.value, made.id) FILTER (WHERE version_counts(versions.state)) AS values,
               array_agg(made.id ORDER BY made.value, made.id) FILTER (WHERE version_counts(versions.state)) AS ids
          FROM made
          JOIN versions ON versions.model = made.model AND versions.number = made.version
          JOIN models ON models.id = made.model AND models.ranked
         GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 4
    ), kept AS (
        INSERT INTO best AS known (model, namespace_id, dataset, metric, results, high, high_id, low, low_id)
        SELECT model, namespace_id, dataset, metric, results, values[cardinality(values)], ids[cardinality(ids)],
               values[1], ids[1]
          FROM groups
        ON CONFLICT (model, dataset, metric) DO UPDATE
        SET results = known.results + excluded.results,
            (high, high_id) = (SELECT found.value, found.id
                                 FROM (VALUES (known.high, known.high_id), (excluded.high, excluded.high_id))
                                   AS found (value, id) WHERE found.value IS NOT NULL
                                ORDER BY found.value DESC, found.id DESC LIMIT 1),
            (low, low_id) = (SELECT found.value, found.id
                               FROM (VALUES (known.low, known.low_id), (excluded.low, excluded.low_id))
                                 AS found (value, id) WHERE found.value IS NOT NULL
                              ORDER BY found.value, found.id LIMIT 1)
    )
    SELECT array_agg(namespace_id) AS spaces, array_agg(dataset) AS sets, array_agg(metric) AS names,
           array_agg(results) AS counts
      INTO more FROM groups;
    IF more.counts IS NOT NULL THEN
        PERFORM count_results(more.spaces, more.sets, more.names, more.counts);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION results_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    fewer record;
BEGIN
    -- Not of a deleted model: it is purged in parts, without the revision, and counted when it goes.
    WITH groups AS (
        SELECT gone.model, gone.dataset, gone.metric, count(*) AS results
          FROM gone JOIN models ON models.id = gone.model AND models.delete_time IS NULL
         GROUP BY 1, 2, 3
    ), counted AS (
        UPDATE best SET results = best.results - groups.results FROM groups
         WHERE best.model = groups.model AND best.dataset = groups.dataset AND best.metric = groups.metric
        RETURNING best.model, best.namespace_id, best.dataset, best.metric, groups.results
    )
    SELECT array_agg(model) AS models, array_agg(namespace_id) AS spaces, array_agg(dataset) AS sets,
           array_agg(metric) AS names, array_agg(-results) AS counts
      INTO fewer FROM counted;
    IF fewer.counts IS NOT NULL THEN
        DELETE FROM best USING unnest(fewer.models, fewer.sets, fewer.names) AS each (model, dataset, metric)
         WHERE best.model = each.model AND best.dataset = each.dataset AND best.metric = each.metric
           AND best.results <= 0;
        PERFORM rank_again(fewer.models, fewer.sets, fewer.names);
        PERFORM count_results(fewer.spaces, fewer.sets, fewer.names, fewer.counts);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION model_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    fewer record;
BEGIN
    WITH last AS (DELETE FROM best WHERE model = old.id RETURNING namespace_id, dataset, metric, results)
    SELECT array_agg(namespace_id) AS spaces, array_agg(dataset) AS sets, array_agg(metric) AS names,
           array_agg(-results) AS counts
      INTO fewer FROM last;
    IF fewer.counts IS NOT NULL THEN
        PERFORM count_results(fewer.spaces, fewer.sets, fewer.names, fewer.counts);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION version_turned() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    changed record;
BEGIN
    SELECT array_agg(dataset) AS sets, array_agg(metric) AS names INTO changed
      FROM (SELECT DISTINCT dataset, metric FROM evaluations WHERE model = new.model AND version = new.number) AS found;
    IF changed.sets IS NOT NULL THEN
        PERFORM rank_again(array_fill(new.model, ARRAY[cardinality(changed.sets)]), changed.sets, changed.names);
    END IF;
    RETURN NULL;
END $$;

SET lock_timeout = '5s';

CREATE OR REPLACE TRIGGER results_are_ranked AFTER INSERT ON evaluations
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION results_recorded();

CREATE OR REPLACE TRIGGER results_are_forgotten AFTER DELETE ON evaluations
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION results_deleted();

CREATE OR REPLACE TRIGGER versions_turn AFTER UPDATE OF state ON versions FOR EACH ROW
    WHEN (version_counts(old.state) <> version_counts(new.state)) EXECUTE FUNCTION version_turned();

CREATE OR REPLACE TRIGGER models_go AFTER DELETE ON models FOR EACH ROW EXECUTE FUNCTION model_gone();

RESET lock_timeout;

-- A model is taken over under its lock, which a writer of results wants, too: it is before or after. Who is locked now is
-- left for the next round, so that nobody waits for two.
DO $$
DECLARE
    batch bigint[];
    upto bigint := 0;
    more record;
BEGIN
    LOOP
        SELECT array_agg(id), coalesce(max(id), 0) INTO batch, upto
          FROM (SELECT id FROM models WHERE id > upto AND NOT ranked ORDER BY id LIMIT 500
                   FOR NO KEY UPDATE SKIP LOCKED) AS free;
        IF batch IS NULL THEN
            EXIT WHEN NOT EXISTS (SELECT FROM models WHERE NOT ranked);
            PERFORM pg_sleep(0.1);
        ELSE
            INSERT INTO best (model, namespace_id, dataset, metric, results, high, high_id, low, low_id)
            SELECT model, namespace_id, dataset, metric, count(*), NULL, NULL, NULL, NULL
              FROM evaluations WHERE model = ANY (batch) GROUP BY 1, 2, 3, 4;
            SELECT array_agg(model) AS models, array_agg(namespace_id) AS spaces, array_agg(dataset) AS sets,
                   array_agg(metric) AS names, array_agg(results) AS counts
              INTO more FROM best WHERE model = ANY (batch);
            IF more.counts IS NOT NULL THEN
                PERFORM rank_again(more.models, more.sets, more.names);
                PERFORM count_results(more.spaces, more.sets, more.names, more.counts);
            END IF;
            UPDATE models SET ranked = true WHERE id = ANY (batch);
        END IF;
        COMMIT;
    END LOOP;
END $$;

ANALYZE best, boards
