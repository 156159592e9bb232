-- +goose Up
CREATE TABLE webhooks (
    id                  TEXT   NOT NULL PRIMARY KEY,
    tenant              TEXT   NOT NULL,
    owner_id            TEXT   NOT NULL,
    version             BIGINT NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    url                 TEXT   NOT NULL,
    description         TEXT   NOT NULL,
    kinds               TEXT   NOT NULL,
    actions             TEXT   NOT NULL,
    results             TEXT   NOT NULL,
    status              TEXT   NOT NULL,
    enabled_at          BIGINT,
    disabled_at         BIGINT,
    disabled_reason     TEXT,
    last_error          TEXT,
    attempts            BIGINT,
    secret_id           TEXT   NOT NULL,
    secret_key          TEXT   NOT NULL,
    previous_secret_id  TEXT,
    previous_secret_key TEXT,
    previous_until      BIGINT
);
CREATE INDEX webhooks_created ON webhooks (tenant, created_at, id);
CREATE INDEX webhooks_owned ON webhooks (tenant, owner_id, created_at, id);
CREATE INDEX webhooks_updated ON webhooks (tenant, updated_at, id);

-- +goose Down
DROP TABLE webhooks;
