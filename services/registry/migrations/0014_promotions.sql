-- Rules that protect aliases, promotions, and the mark of break-glass access in the audit log (docs/adr/0048).
--
-- Safe while the old program runs, but for what it does not know: it moves aliases without asking the rules, and there
-- are none before the new program runs.
SET LOCAL lock_timeout = '5s';

-- A constant default costs no rewrite.
ALTER TABLE audit ADD COLUMN break_glass boolean NOT NULL DEFAULT false;

-- Of a namespace, or of one model in it. A rule goes with its namespace or model, whoever deletes that.
CREATE TABLE alias_rules (
    namespace_id       text COLLATE "C" NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    model              bigint REFERENCES models ON DELETE CASCADE,
    rule_id            text COLLATE "C" NOT NULL,
    aliases            text[] COLLATE "C" NOT NULL,
    mover_role         smallint NOT NULL,
    movers             text[] NOT NULL,
    filter             text NOT NULL,
    required_approvals smallint NOT NULL CHECK (required_approvals >= 0),
    approver_role      smallint NOT NULL,
    create_time        timestamptz NOT NULL,
    update_time        timestamptz NOT NULL,
    revision           bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (namespace_id, model, rule_id)
);
CREATE INDEX alias_rules_by_model ON alias_rules (model);

-- Numbered within their model. `groups` are the requester's, as its token named them.
CREATE TABLE promotions (
    id            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    namespace_id  text COLLATE "C" NOT NULL,
    model         bigint NOT NULL REFERENCES models ON DELETE CASCADE,
    number        bigint NOT NULL CHECK (number > 0),
    alias         text COLLATE "C" NOT NULL,
    version       bigint,
    from_version  bigint,
    comment       text NOT NULL,
    state         text NOT NULL CHECK (state IN ('PENDING', 'DONE', 'REJECTED', 'CANCELLED', 'SUPERSEDED')),
    requester     text NOT NULL,
    groups        text[] NOT NULL,
    reviews       jsonb NOT NULL,
    move_revision bigint NOT NULL DEFAULT 0,
    create_time   timestamptz NOT NULL,
    update_time   timestamptz NOT NULL,
    revision      bigint NOT NULL,
    PRIMARY KEY (model, number),
    CHECK ((state = 'DONE') = (move_revision > 0))
);
CREATE INDEX promotions_pending ON promotions (model, alias) WHERE state = 'PENDING';
CREATE INDEX promotions_by_namespace ON promotions (namespace_id, id);
