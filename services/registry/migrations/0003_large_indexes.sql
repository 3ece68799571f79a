-- outside a transaction
--
-- Indexes on tables that may be large, built while everybody goes on writing. Each statement may be run again.

-- Equal matches of a search: the newest model first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS models_by_age ON models (namespace_id, id) WHERE delete_time IS NULL;

-- Conditions on labels. It takes the place of models_by_labels.
CREATE INDEX CONCURRENTLY IF NOT EXISTS models_by_label_pairs ON models USING gin (label_pairs);
DROP INDEX CONCURRENTLY IF EXISTS models_by_labels;

-- What the sweeper purges next.
CREATE INDEX CONCURRENTLY IF NOT EXISTS models_by_purge_time ON models (purge_time) WHERE delete_time IS NOT NULL;

-- Who did what to what when: each with the order of the audit's pages.
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_by_resource ON audit (resource, revision, ordinal);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_by_actor ON audit (actor, revision, ordinal);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_by_action ON audit (action, revision, ordinal);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_by_time ON audit (time, revision);
