package store

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
)

// maxCursor is the longest cursor that is read, in bytes: a sort value of
// 1,000 characters, each escaped in JSON.
const maxCursor = 16 << 10

var (
	errCursor     = errors.New("not a cursor of this list")
	errCursorSort = errors.New("made for another sort")
)

// cursor is where a page ended. It is opaque to clients but not secret: it
// holds nothing that the page did not show, and opens nothing, because every
// page is filtered afresh.
type cursor struct {
	Sort  string `json:"sort"`
	Value any    `json:"value"`
	ID    string `json:"id"`
}

func encodeCursor(c cursor) string {
	b, _ := json.Marshal(c) // never fails: Value is a text, a number or a bool
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor reads a cursor for a list sorted so; the Value fits the column.
func decodeCursor(s, sort string, by field) (cursor, error) {
	if len(s) > maxCursor {
		return cursor{}, errCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return cursor{}, errCursor
	}
	var c cursor
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(&c); err != nil {
		return cursor{}, errCursor
	}
	if _, err := d.Token(); err != io.EOF || c.ID == "" || !storable(c.ID) {
		return cursor{}, errCursor
	}
	if c.Sort != sort {
		return cursor{}, errCursorSort
	}
	if _, ok := c.Value.(string); ok && by.class != text {
		return cursor{}, errCursor // a time travels as a number
	}
	if c.Value, err = by.argument(c.Value); err != nil {
		return cursor{}, errCursor
	}
	return c, nil
}
