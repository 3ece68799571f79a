-- outside a transaction
--
-- Versions as OCI artifacts (docs/adr/0051). The columns have no default: no row is written. Versions that are READY
-- already, and those that the old program makes READY, get theirs from a job of the registry.

SET lock_timeout = '5s';

-- What the configuration of the artifact says, apart from the files (JSON, whose bytes matter); the digests of manifest
-- ('': it is larger than clients accept) and configuration. NULL until they are computed.
ALTER TABLE versions ADD COLUMN IF NOT EXISTS oci_facts text;
ALTER TABLE versions ADD COLUMN IF NOT EXISTS oci_digest text COLLATE "C";
ALTER TABLE versions ADD COLUMN IF NOT EXISTS oci_config_digest text COLLATE "C";

RESET lock_timeout;

CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_oci_digest ON versions (model, oci_digest)
    WHERE oci_digest <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_by_oci_config_digest ON versions (model, oci_config_digest)
    WHERE oci_config_digest IS NOT NULL;

-- Those that the job has to do.
CREATE INDEX CONCURRENTLY IF NOT EXISTS versions_without_oci_digest ON versions (model, number)
    WHERE state = 'READY' AND oci_digest IS NULL;
