-- What loading an asset may run: the verdict, and the names that were found, as module.name. Assets of before have none.
ALTER TABLE assets ADD COLUMN verdict text NOT NULL DEFAULT '' CHECK (verdict IN ('', 'SAFE', 'SUSPICIOUS', 'DANGEROUS'));
ALTER TABLE assets ADD COLUMN loads text[] NOT NULL DEFAULT '{}';
