-- +goose Up
-- The command that last brought a user's row up to date with Stytch: one that asked before it did is asked again.
ALTER TABLE users ADD COLUMN
    synced TEXT NOT NULL DEFAULT '';
-- Role changes of which an attempt may still come to Stytch late: the role worker looks after them for a while.
CREATE INDEX commands_tried ON commands (at) WHERE kind = 'user' AND attempts > 1;

-- +goose Down
DROP INDEX commands_tried;
ALTER TABLE users DROP COLUMN synced;
