-- +goose Up
CREATE TABLE videos (
    id           TEXT    NOT NULL PRIMARY KEY,
    tenant       TEXT    NOT NULL,
    owner_id     TEXT    NOT NULL,
    version      BIGINT  NOT NULL,
    created_at   BIGINT  NOT NULL,
    updated_at   BIGINT  NOT NULL,
    title        TEXT    NOT NULL,
    description  TEXT    NOT NULL,
    is_active    BOOLEAN NOT NULL,
    region       TEXT,
    status       TEXT    NOT NULL,
    content_type TEXT,
    size         BIGINT,
    sha256       TEXT,
    duration_ms  BIGINT,
    width        BIGINT,
    height       BIGINT,
    codecs       TEXT,
    failure      TEXT
);
CREATE INDEX videos_created ON videos (tenant, created_at, id);
CREATE INDEX videos_owned ON videos (tenant, owner_id, created_at, id);
CREATE INDEX videos_updated ON videos (tenant, updated_at, id);
CREATE INDEX videos_owned_updated ON videos (tenant, owner_id, updated_at, id);
CREATE INDEX videos_region ON videos (tenant, region, created_at, id);
-- Last of these: SQLite takes the later of two indexes that it thinks equally good.
CREATE INDEX videos_inactive ON videos (tenant, created_at, id) WHERE is_active = FALSE;

-- +goose Down
DROP TABLE videos;
