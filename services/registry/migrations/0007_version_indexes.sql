-- outside a transaction
--
-- What hangs on a version, found by the version: without these, a deletion of V versions reads all results, stretches
-- of aliases and deployments of the model V times. Built while everybody goes on writing; each statement may be run
-- again.

CREATE INDEX CONCURRENTLY IF NOT EXISTS evaluations_by_version ON evaluations (model, version);
CREATE INDEX CONCURRENTLY IF NOT EXISTS aliases_by_version ON aliases (model, version);
CREATE INDEX CONCURRENTLY IF NOT EXISTS deployments_by_version ON deployments (model, version);
