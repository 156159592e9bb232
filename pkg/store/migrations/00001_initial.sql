-- One text for both databases: times are BIGINT (microseconds since the Unix epoch), JSON is TEXT, bytes that must
-- come back as they were are BYTEA. On PostgreSQL every TEXT column is given COLLATE "C", so that both order bytes.

-- +goose Up
CREATE TABLE contacts (
    id               TEXT    NOT NULL PRIMARY KEY,
    tenant           TEXT    NOT NULL,
    owner_id         TEXT    NOT NULL,
    version          BIGINT  NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL,
    first_name       TEXT    NOT NULL,
    last_name        TEXT    NOT NULL,
    email            TEXT    NOT NULL,
    phone            TEXT    NOT NULL,
    company          TEXT    NOT NULL,
    notes            TEXT    NOT NULL,
    marketing_opt_in BOOLEAN NOT NULL,
    is_active        BOOLEAN NOT NULL
);
CREATE INDEX contacts_created ON contacts (tenant, created_at, id);
CREATE INDEX contacts_owned ON contacts (tenant, owner_id, created_at, id);
CREATE INDEX contacts_updated ON contacts (tenant, updated_at, id);
CREATE INDEX contacts_owned_updated ON contacts (tenant, owner_id, updated_at, id);
-- Last of these: SQLite takes the later of two indexes that it thinks equally good.
CREATE INDEX contacts_inactive ON contacts (tenant, created_at, id) WHERE is_active = FALSE;

CREATE TABLE users (
    id         TEXT   NOT NULL PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    owner_id   TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    email      TEXT   NOT NULL,
    first_name TEXT   NOT NULL,
    last_name  TEXT   NOT NULL,
    tenants    TEXT   NOT NULL
);
CREATE INDEX users_created ON users (tenant, created_at, id);
CREATE INDEX users_owned ON users (tenant, owner_id, created_at, id);
CREATE INDEX users_updated ON users (tenant, updated_at, id);
-- An address belongs to one user, however it is written. A user without one is possible.
CREATE UNIQUE INDEX users_email_unique ON users (lower(email)) WHERE email <> '';
CREATE INDEX users_email ON users (email);

CREATE TABLE commands (
    id           TEXT   NOT NULL PRIMARY KEY,
    tenant       TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    resource_id  TEXT   NOT NULL,
    action       TEXT   NOT NULL,
    principal_id TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    code         TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    version      BIGINT NOT NULL,
    attempts     BIGINT NOT NULL,
    fingerprint  TEXT   NOT NULL,
    decision_id  TEXT   NOT NULL,
    sequence     BIGINT NOT NULL,
    result       BYTEA,
    outcome      BYTEA,
    apply        BYTEA,
    issued_at    BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    key          TEXT,
    queued       BOOLEAN NOT NULL
);
CREATE INDEX commands_principal ON commands (tenant, principal_id, issued_at);
-- Of the commands under one idempotency key the first one counts.
CREATE UNIQUE INDEX commands_key ON commands (key) WHERE key IS NOT NULL;

-- How far each shard of the ledger has been applied: the address of the last command (events.Address). The worker adds
-- the rows of the shards that there are (WRIT_LEDGER_SHARDS).
CREATE TABLE positions (
    part INTEGER NOT NULL PRIMARY KEY,
    seq  BIGINT  NOT NULL
);

-- +goose Down
DROP TABLE positions;
DROP TABLE commands;
DROP TABLE users;
DROP TABLE contacts;
