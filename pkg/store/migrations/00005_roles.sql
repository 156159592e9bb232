-- +goose Up
-- The command that wrote a user's memberships last.
ALTER TABLE users ADD COLUMN
    roles_command TEXT NOT NULL DEFAULT '';
-- Who may be an admin somewhere: the last one is looked for among them. The query repeats the condition.
CREATE INDEX users_admins ON users (id) WHERE tenants LIKE '%"admin"%';

-- Users that were deleted: what was still under way about one must not make them again. Stytch gives no id twice.
CREATE TABLE departed (
    id TEXT   NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);

-- Commands that need Stytch, from when the apply loop came to them until their outcomes are on the ledger. Those of one
-- lane, the resource's id, are applied one after the other. attempts counts the times that Stytch was asked to act.
CREATE TABLE queue (
    seq        BIGINT NOT NULL PRIMARY KEY,
    command_id TEXT   NOT NULL,
    lane       TEXT   NOT NULL,
    attempts   BIGINT NOT NULL
);
CREATE INDEX queue_lanes ON queue (lane, seq);

-- Who alone may do a job. epoch changes with the holder, beat while the holder lives; holder is '' when it was given back.
CREATE TABLE leases (
    name   TEXT   NOT NULL PRIMARY KEY,
    holder TEXT   NOT NULL,
    epoch  BIGINT NOT NULL,
    beat   BIGINT NOT NULL
);
INSERT INTO leases (name, holder, epoch, beat) VALUES ('roles', '', 0, 0);

-- +goose Down
DROP TABLE leases;
DROP TABLE queue;
DROP TABLE departed;
DROP INDEX users_admins;
ALTER TABLE users DROP COLUMN roles_command;
