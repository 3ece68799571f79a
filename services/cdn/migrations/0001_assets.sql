-- The asset service's first schema: what is known of assets. Their bytes are in S3.
--
-- The ledger's tables are those of the registry (services/ledger, docs/adr/0014); so are the three steps of every write.

CREATE TABLE revision (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    value     bigint NOT NULL
) WITH (fillfactor = 10);

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
    PERFORM pg_notify('cdn_changes', '');
    RETURN NULL;
END $$;

CREATE TRIGGER changes_are_told AFTER INSERT ON changes FOR EACH STATEMENT EXECUTE FUNCTION tell_changes();

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
    octets     integer,
    PRIMARY KEY (revision, ordinal)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

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

-- An asset is INCOMING (its bytes may be on their way to S3), LIVE, CONDEMNED (nobody finds it, its bytes are there, an
-- upload brings it back), DELETING (its bytes may be gone at any moment, and nothing brings it back), gone (docs/adr/0015).
CREATE TABLE assets (
    sha256          text COLLATE "C" PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    state           text NOT NULL CHECK (state IN ('INCOMING', 'LIVE', 'CONDEMNED', 'DELETING')),
    size_bytes      bigint NOT NULL CHECK (size_bytes >= 0),
    media_type      text NOT NULL,
    private         boolean NOT NULL,
    format          text NOT NULL DEFAULT '',
    warnings        text[] NOT NULL DEFAULT '{}',
    encodings       text[] NOT NULL DEFAULT '{}',
    parameter_count bigint NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL,
    -- When somebody last uploaded it or asked whether it is there: the grace time begins then.
    touch_time      timestamptz NOT NULL,
    condemn_time    timestamptz,
    revision        bigint NOT NULL
);
-- What the collection looks at, oldest first.
CREATE INDEX assets_by_touch ON assets (touch_time) WHERE state = 'LIVE';
CREATE INDEX assets_by_condemnation ON assets (condemn_time) WHERE state <> 'LIVE';

-- The tensor index of a safetensors file, serialised and compressed with zlib.
CREATE TABLE tensors (
    sha256 text COLLATE "C" PRIMARY KEY REFERENCES assets ON DELETE CASCADE,
    index  bytea NOT NULL
);

-- Whoever adds a pin holds a lock on the asset's row, so that it cannot be condemned meanwhile. No ON DELETE: a pinned
-- asset cannot go, whatever a program does.
CREATE TABLE pins (
    owner       text COLLATE "C" NOT NULL,
    sha256      text COLLATE "C" NOT NULL REFERENCES assets,
    size_bytes  bigint NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (owner, sha256)
);
CREATE INDEX pins_by_asset ON pins (sha256);

-- What an owner pins: its row is what a writer locks that adds a pin.
CREATE TABLE owners (
    owner  text COLLATE "C" PRIMARY KEY,
    assets bigint NOT NULL CHECK (assets >= 0),
    bytes  bigint NOT NULL CHECK (bytes >= 0)
) WITH (fillfactor = 50);

-- All assets that are LIVE; one row.
CREATE TABLE totals (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    assets    bigint NOT NULL CHECK (assets >= 0),
    bytes     bigint NOT NULL CHECK (bytes >= 0)
) WITH (fillfactor = 10);

-- Uploads that can be taken up again. `writer` is a fencing token: each WriteUpload takes the next one, and a part counts
-- only under the newest.
CREATE TABLE uploads (
    id              uuid PRIMARY KEY,
    sha256          text COLLATE "C" NOT NULL,
    size_bytes      bigint NOT NULL CHECK (size_bytes >= 0),
    media_type      text NOT NULL,
    owner           text COLLATE "C" NOT NULL,
    private         boolean NOT NULL,
    part_bytes      bigint NOT NULL CHECK (part_bytes > 0),
    -- '' until the first byte decides; STREAM: through us; DIRECT: to the object store.
    way             text NOT NULL DEFAULT '' CHECK (way IN ('', 'STREAM', 'DIRECT')),
    -- The key that the parts go to, and the object store's id of the multipart upload.
    key             text NOT NULL DEFAULT '',
    multipart       text NOT NULL DEFAULT '',
    parts           integer NOT NULL DEFAULT 0,
    -- SHA-256's state after those parts.
    hash_state      bytea,
    -- What the first part was recognised as.
    inspection      bytea,
    writer          bigint NOT NULL DEFAULT 0,
    finishing_until timestamptz,
    create_time     timestamptz NOT NULL,
    expire_time     timestamptz NOT NULL
);
-- One open upload for a digest, an owner and a visibility: StartUpload finds it again.
CREATE UNIQUE INDEX uploads_by_content ON uploads (sha256, owner, private);
CREATE INDEX uploads_by_expiry ON uploads (expire_time);

CREATE TABLE upload_parts (
    upload uuid NOT NULL REFERENCES uploads ON DELETE CASCADE,
    number integer NOT NULL CHECK (number > 0),
    etag   text NOT NULL,
    PRIMARY KEY (upload, number)
);

-- Finished uploads, for whoever finishes twice.
CREATE TABLE finished_uploads (
    id          uuid PRIMARY KEY,
    sha256      text COLLATE "C" NOT NULL,
    finish_time timestamptz NOT NULL
);
CREATE INDEX finished_uploads_by_time ON finished_uploads (finish_time);

INSERT INTO revision (value) VALUES (1);
INSERT INTO totals (assets, bytes) VALUES (0, 0);
INSERT INTO changes (revision, commit_time, resources, kinds, subtrees) VALUES (1, now(), '{assets}', '{1}', '{true}');
INSERT INTO audit (revision, ordinal, time, actor, action, resource, request_id, after, octets)
VALUES (1, 1, now(), 'migration', 'CreateSchema', 'assets', '', '{}', 2);
