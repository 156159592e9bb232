-- +goose Up
CREATE TABLE tenants (
    id          TEXT   NOT NULL PRIMARY KEY,
    tenant      TEXT   NOT NULL,
    owner_id    TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    key         TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    description TEXT   NOT NULL
);
CREATE INDEX tenants_created ON tenants (tenant, created_at, id);
CREATE INDEX tenants_owned ON tenants (tenant, owner_id, created_at, id);
CREATE INDEX tenants_updated ON tenants (tenant, updated_at, id);
-- From the start: it is the tenant of every request that names none. 2026-01-01.
INSERT INTO tenants (id, tenant, owner_id, version, created_at, updated_at, key, name, description)
VALUES ('default', 'default', 'writ', 1, 1767225600000000, 1767225600000000, 'default', 'Default', '');

-- The tenants that a user is in: the keys of users.tenants, or the row's own tenant if there are none.
CREATE TABLE users_tenants (
    tenant TEXT NOT NULL,
    id     TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX users_tenants_id ON users_tenants (id);
INSERT INTO users_tenants (tenant, id) SELECT k.key, u.id FROM users u, json_each(u.tenants) AS k;
INSERT INTO users_tenants (tenant, id) SELECT u.tenant, u.id FROM users u WHERE u.id NOT IN (SELECT id FROM users_tenants);

-- +goose Down
DROP TABLE users_tenants;
DROP TABLE tenants;
