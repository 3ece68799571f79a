-- How bytes reach readers over HTTP: static files, copies for shared versions, invalidations.

-- What each path points at. Its object in the bucket, and that object's compressed variants, are copies of the asset.
CREATE TABLE static_files (
    -- static/{path}.
    name                text COLLATE "C" PRIMARY KEY CHECK (name LIKE 'static/%'),
    sha256              text COLLATE "C" NOT NULL REFERENCES assets,
    -- As the client said it; empty means by the table of content types in the settings.
    cache_control       text NOT NULL,
    content_disposition text NOT NULL,
    update_time         timestamptz NOT NULL,
    revision            bigint NOT NULL
);
CREATE INDEX static_files_by_asset ON static_files (sha256);

-- The static files whose object may be another one than their row says, because a write has begun and not ended. The
-- write that ends takes its mark away in the transaction that writes the row; a mark that stays is repaired.
CREATE TABLE static_repairs (
    name      text COLLATE "C" PRIMARY KEY,
    mark_time timestamptz NOT NULL
);
CREATE INDEX static_repairs_by_time ON static_repairs (mark_time);

-- The copies below versions/{owner}/ that may be in the bucket: a row is there before its copy is. No reference to
-- assets: a copy outlives its asset until it is removed.
CREATE TABLE shares (
    owner       text COLLATE "C" NOT NULL,
    sha256      text COLLATE "C" NOT NULL,
    -- When the last address ends that gives access to it.
    expire_time timestamptz NOT NULL,
    PRIMARY KEY (owner, sha256)
);
CREATE INDEX shares_by_expiry ON shares (expire_time);

-- Invalidations that are QUEUED wait to be sent; several are sent as one batch, which has the id of its first member, and
-- that member's row holds how far the batch is.
CREATE TABLE invalidations (
    id          uuid PRIMARY KEY,
    state       text NOT NULL CHECK (state IN ('QUEUED', 'IN_PROGRESS', 'COMPLETED', 'FAILED')),
    paths       text[] NOT NULL CHECK (cardinality(paths) BETWEEN 1 AND 3000),
    -- How many of them end in a *, of which CloudFront takes few at a time.
    wildcards   integer NOT NULL,
    create_time timestamptz NOT NULL,
    finish_time timestamptz,
    failure     text NOT NULL DEFAULT '',
    batch       uuid CHECK ((batch IS NULL) = (state = 'QUEUED')),
    -- CloudFront's id of the batch; empty until it took it.
    remote      text NOT NULL DEFAULT '',
    -- How often in a row CloudFront did not do what it was asked.
    attempts    integer NOT NULL DEFAULT 0,
    -- When the batch is looked at next. Whoever takes it moves this ahead: that is the lease.
    due_time    timestamptz
);
CREATE INDEX invalidations_queued ON invalidations (create_time, id) WHERE state = 'QUEUED';
CREATE INDEX invalidations_due ON invalidations (due_time) WHERE state = 'IN_PROGRESS' AND batch = id;
CREATE INDEX invalidations_by_batch ON invalidations (batch);
CREATE INDEX invalidations_finished ON invalidations (finish_time) WHERE finish_time IS NOT NULL;
