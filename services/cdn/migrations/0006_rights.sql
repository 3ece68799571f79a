-- outside a transaction
--
-- Who may see an asset (docs/adr/0047): whoever may read a namespace whose version pins it, and whoever uploaded it. Each
-- statement may be run again.

-- The namespace that a pin belongs to: pins are named after versions. NULL for those of static files, which give nobody the
-- right to see what they name.
CREATE OR REPLACE FUNCTION namespace_of(owner text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN starts_with(owner, 'namespaces/') THEN split_part(owner, '/', 2) END
$$;

-- One look finds whether a namespace pins an asset, however many versions do. It takes the place of pins_by_asset. An index
-- whose building was interrupted is there and not used.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('pins_by_asset_and_namespace') AND NOT indisvalid) THEN
        DROP INDEX pins_by_asset_and_namespace;
    END IF;
END $$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS pins_by_asset_and_namespace ON pins (sha256, namespace_of(owner));
DROP INDEX IF EXISTS pins_by_asset;

-- What the versions of a namespace hold.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('owners_by_namespace') AND NOT indisvalid) THEN
        DROP INDEX owners_by_namespace;
    END IF;
END $$;
CREATE INDEX CONCURRENTLY IF NOT EXISTS owners_by_namespace ON owners (namespace_of(owner));

-- Whoever sent all bytes of an asset, by the subject of the token. Those of before are not known: what they uploaded and no
-- version pins is for those who may read every namespace.
CREATE TABLE IF NOT EXISTS uploaders (
    sha256  text COLLATE "C" NOT NULL REFERENCES assets ON DELETE CASCADE,
    subject text NOT NULL,
    PRIMARY KEY (sha256, subject)
);
