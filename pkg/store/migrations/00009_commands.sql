-- +goose Up
-- Nothing looks for a principal's commands here: what somebody did is told by the audit log.
DROP INDEX commands_principal;

-- +goose Down
CREATE INDEX commands_principal ON commands (tenant, principal_id, issued_at);
