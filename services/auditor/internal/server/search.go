package server

import (
	"context"
	"time"

	"github.com/writ-project/writ/pkg/audit"
)

// found is one entry that a search is about.
type found struct {
	audit.Entry
	*glance
}

// search goes through a span of the log in bounded steps.
type search struct {
	filter *Filter
	tenant string
	span   audit.Span
	// entries and until are how far one request goes; zero for no limit.
	entries int
	until   time.Time
	// waits says that visit may have to wait for a client: it keeps no place meanwhile.
	waits bool
	// whole says that a search which misses an entry fails, as when the log is
	// trimmed or filled anew meanwhile; index is that of the last entry, -1 before.
	whole bool
	index int64

	looked     int      // entries looked at so far
	unreadable int      // of which that many are no decisions
	at         audit.ID // the last entry looked at
	ended      bool     // nothing is left to look at
}

// run looks at entry after entry and gives those that are meant to visit, until
// visit says that it is enough, the search has gone as far as it may, or the
// span ends.
func (s *Server) run(ctx context.Context, q *search, visit func(found) (enough bool, err error)) error {
	for {
		if enough, err := s.runStep(ctx, q, visit); enough || err != nil || q.ended {
			return err
		}
		// Only now: whoever comes back has got further.
		if q.entries > 0 && q.looked >= q.entries || !q.until.IsZero() && time.Now().After(q.until) {
			return nil
		}
	}
}

func (s *Server) runStep(ctx context.Context, q *search, visit func(found) (bool, error)) (enough bool, err error) {
	entries, done, err := s.step(ctx, q.span)
	if err != nil {
		return false, err
	}
	if q.waits {
		done()
	} else {
		defer done()
	}
	if q.ended = len(entries) == 0; q.ended {
		return false, nil
	}
	for _, e := range entries {
		if q.whole && q.index >= 0 && e.Index != q.index+1 {
			return false, audit.ErrTrimmed
		}
		q.at, q.index = e.ID, e.Index
		q.span = after(q.span, e.ID)
		q.looked++
		g, ok := glanceAt(e.Record)
		if !ok {
			q.unreadable++
			continue
		}
		if !q.filter.fits(g, q.tenant) {
			continue
		}
		if enough, err := visit(found{e, g}); enough || err != nil {
			return enough, err
		}
	}
	return false, nil
}

// Searched is how far an answer looked.
type Searched struct {
	Searched   int        `json:"searched" doc:"How many decisions were looked at"`
	SearchedTo *time.Time `json:"searched_to,omitempty" doc:"The time of the last one: everything from the search's beginning to it has been looked at"`
	Unreadable int        `json:"unreadable,omitempty" doc:"How many entries were no decisions: writ audit verify names them"`
	NextCursor string     `json:"next_cursor,omitempty" doc:"Absent when everything has been looked at"`
}

func (q *search) searched() Searched {
	out := Searched{Searched: q.looked, Unreadable: q.unreadable}
	if q.looked > 0 {
		to := at(q.at)
		out.SearchedTo = &to
		if !q.ended {
			out.NextCursor = q.at.String()
		}
	}
	return out
}
