-- What loading an asset may run: '', SAFE, SUSPICIOUS or DANGEROUS, and the names that were found, as module.name. Assets of
-- before have neither.
ALTER TABLE assets ADD COLUMN verdict text NOT NULL DEFAULT '';
ALTER TABLE assets ADD COLUMN loads text[] NOT NULL DEFAULT '{}';
