-- Opaque tokens of machines (docs/adr/0049). Only the hash of a token is stored. Tokens go with their namespace, whoever
-- deletes that: another one of the same name must not inherit them.
CREATE TABLE api_tokens (
    namespace_id  text COLLATE "C" NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    token_id      text COLLATE "C" NOT NULL,
    hash          bytea NOT NULL CHECK (octet_length(hash) = 32),
    display_name  text NOT NULL,
    role          smallint NOT NULL CHECK (role BETWEEN 1 AND 4),
    scopes        text[] NOT NULL,
    creator       text NOT NULL,
    create_time   timestamptz NOT NULL,
    expire_time   timestamptz NOT NULL,
    revoke_time   timestamptz,
    last_use_time timestamptz,
    revision      bigint NOT NULL,
    PRIMARY KEY (namespace_id, token_id)
);
CREATE INDEX api_tokens_by_time ON api_tokens (namespace_id, create_time, token_id);
-- What every process follows.
CREATE INDEX api_tokens_live ON api_tokens (expire_time) WHERE revoke_time IS NULL;
CREATE INDEX api_tokens_ended ON api_tokens ((least(expire_time, revoke_time)));
