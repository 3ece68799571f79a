-- Pins that versions no longer need, until the asset service has taken them back (docs/adr/0017).
--
-- Safe while the old program runs: it knows nothing of the table, and pins nothing.

-- A write that ends a version only ever adds rows here, so that nobody waits with the revision in hand. The ids of one
-- owner are in the order of their commits: whoever adds a row holds a lock on the version or on its model.
CREATE TABLE unpins (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner      text COLLATE "C" NOT NULL, -- the full name of a version, which may be another's by now
    -- Under which the asset service does it once, however often and however late the request comes.
    request_id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Somebody is pinning, and takes the row away when the version is READY. If not, it is a debt when it is due.
    claimed    boolean NOT NULL DEFAULT false,
    due        timestamptz NOT NULL,
    attempts   integer NOT NULL DEFAULT 0
);
CREATE INDEX unpins_by_owner ON unpins (owner);
CREATE INDEX unpins_by_due ON unpins (due);
