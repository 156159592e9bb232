package server

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/store"
)

// maxReads bounds how often rows are read to fill one page from which checks
// take some away.
const maxReads = 4

// page reads a page of what a plan selects. An exact plan's is read as it is.
// Of any other, each row is checked before anybody learns of it, so a page may
// be shorter than its limit, even empty, and not the last.
func (s *Server) page(ctx context.Context, plan authz.Plan, def *kind.Definition, q store.Query, check func([]kind.Row) ([]bool, error)) (store.Page, error) {
	if plan.Exact {
		return s.Store.List(ctx, def, q)
	}
	about := []byte(def.Name + " " + q.Tenant)
	var out store.Page
	var err error
	if q.Cursor, err = s.cursors.open(q.Cursor, about); err != nil {
		return store.Page{}, err
	}
	limit := q.Limit
	for range maxReads {
		q.Limit = limit - len(out.Items)
		found, err := s.Store.List(ctx, def, q)
		if err != nil {
			return store.Page{}, err
		}
		allowed, err := check(found.Items)
		if err != nil {
			return store.Page{}, err
		}
		for i, row := range found.Items {
			if allowed[i] {
				out.Items = append(out.Items, row)
			}
		}
		if q.Cursor = found.NextCursor; q.Cursor == "" || len(out.Items) == limit {
			break
		}
	}
	out.NextCursor = s.cursors.seal(q.Cursor, about)
	return out, nil
}

// allowed checks an action on rows, in one call and one batch on the ledger.
func (k *resources) allowed(ctx context.Context, c *gate.Caller, action string, rows []kind.Row) ([]bool, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	items := make([]authz.Item, len(rows))
	for i, r := range rows {
		items[i] = authz.Item{Resource: events.Resource{Kind: k.def.Name, ID: r.ID, Version: r.Version, Attr: attrs(c, k.def, r)}, Actions: []string{action}}
	}
	answers, err := k.checkAll(ctx, c, items)
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(rows))
	for i, a := range answers {
		out[i] = a.Allowed(action)
	}
	return out, nil
}

// cursors seals the cursors of pages whose last row may be one that the caller
// may not see (AES-256-GCM): a cursor of the store holds the value that it was
// sorted by, and one that a caller could make would find others by trying. The
// first key seals, all of them open.
type cursors []cipher.AEAD

func newCursors(ring *events.Keyring) (cursors, error) {
	keys, err := ring.Derive("writ list cursor")
	if err != nil {
		return nil, err
	}
	var out cursors
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("make the cursors' cipher: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("make the cursors' cipher: %w", err)
		}
		out = append(out, aead)
	}
	return out, nil
}

// seal is "" for "": there is no next page. about is what open must say again.
func (c cursors) seal(cursor string, about []byte) string {
	if cursor == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(c[0].Seal(nil, nil, []byte(cursor), about))
}

func (c cursors) open(sealed string, about []byte) (string, error) {
	if sealed == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	for _, aead := range c {
		if err != nil {
			break
		}
		if cursor, err := aead.Open(nil, nil, raw, about); err == nil {
			return string(cursor), nil
		}
	}
	return "", fault.InvalidField("query.cursor", "not a cursor of this list")
}
