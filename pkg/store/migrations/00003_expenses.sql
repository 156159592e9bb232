-- +goose Up
CREATE TABLE expenses (
    id          TEXT             NOT NULL PRIMARY KEY,
    tenant      TEXT             NOT NULL,
    owner_id    TEXT             NOT NULL,
    version     BIGINT           NOT NULL,
    created_at  BIGINT           NOT NULL,
    updated_at  BIGINT           NOT NULL,
    vendor      TEXT             NOT NULL,
    amount      DOUBLE PRECISION NOT NULL,
    department  TEXT,
    region      TEXT,
    status      TEXT             NOT NULL,
    approved_by TEXT
);
CREATE INDEX expenses_created ON expenses (tenant, created_at, id);
CREATE INDEX expenses_owned ON expenses (tenant, owner_id, created_at, id);
CREATE INDEX expenses_updated ON expenses (tenant, updated_at, id);
CREATE INDEX expenses_owned_updated ON expenses (tenant, owner_id, updated_at, id);
CREATE INDEX expenses_department ON expenses (tenant, department, created_at, id);
CREATE INDEX expenses_region ON expenses (tenant, region, created_at, id);

-- +goose Down
DROP TABLE expenses;
