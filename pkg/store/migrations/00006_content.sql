-- +goose Up
-- The upload that the file's facts are about; its bytes are in the content store.
ALTER TABLE videos ADD COLUMN
    content_id TEXT;

-- +goose Down
ALTER TABLE videos DROP COLUMN content_id;
