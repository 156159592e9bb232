package store

import (
	"context"
	"fmt"

	"github.com/writ-project/writ/pkg/kind"
)

// Select reads the rows of a kind that a condition selects, of all tenants, by
// age: at most limit of them. It is for services that look after a kind, not for
// answers to people, which are List's.
func (s *Store) Select(ctx context.Context, def *kind.Definition, where Where, limit int) ([]kind.Row, error) {
	t := s.table(def)
	query := "SELECT " + t.list() + " FROM " + t.name
	if where.SQL != "" {
		query += " WHERE (" + where.SQL + ")"
	}
	query += orderBy(DefaultSort, false) + " LIMIT ?"
	args := append(sqlArgs(where.Args), limit)
	if !allStorable(args) {
		return nil, nil // no row has such a value
	}
	var out []kind.Row
	err := s.reading(ctx, func() error {
		out = nil
		rows, err := s.query(ctx, s.preparedLists, query, args...)
		if err != nil {
			return err
		}
		return each(rows, func() error {
			row := def.New()
			if err := rows.Scan(def.Dest(row)...); err != nil {
				return err
			}
			out = append(out, row)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("select %s: %w", def.Plural, err)
	}
	return out, nil
}
