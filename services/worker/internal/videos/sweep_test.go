package videos

import (
	"context"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// database is one in which something happens after it was asked for the first time.
type database struct {
	asked  int
	then   func(*database)
	file   string // that the video refers to
	status events.Status
	gone   bool // the video
}

func (d *database) next() {
	if d.asked++; d.asked == 2 && d.then != nil {
		d.then(d)
	}
}

func (d *database) Get(context.Context, *kind.Definition, string) (kind.Row, error) {
	d.next()
	if d.gone {
		return kind.Row{}, fault.Missing("video", "v")
	}
	v := &video.Video{}
	if d.file != "" {
		v.ContentID = &d.file
	}
	return kind.Row{Meta: &v.Meta, Value: v}, nil
}

func (d *database) Command(context.Context, string) (store.Command, error) {
	d.next()
	if d.status == "" {
		return store.Command{}, fault.Missing("command", "c")
	}
	return store.Command{Status: d.status}, nil
}

func TestWhatIsSweptAway(t *testing.T) {
	applied := func(d *database) { d.file, d.status = "new", events.StatusApplied }
	for name, c := range map[string]struct {
		db    database
		age   time.Duration
		asked bool
		want  bool
	}{
		"applied while it was looked at":     {db: database{then: applied}},
		"replacing while it was looked at":   {db: database{file: "old", then: applied}, asked: true},
		"the video's":                        {db: database{file: "new", status: events.StatusApplied}, age: 10 * abandoned},
		"replaced":                           {db: database{file: "newer", status: events.StatusApplied}, want: true},
		"refused":                            {db: database{status: events.StatusRejected}, want: true},
		"on its way":                         {db: database{status: events.StatusAccepted}, age: 10 * abandoned},
		"no command yet":                     {db: database{}, age: abandoned - time.Minute},
		"no command at all":                  {db: database{}, age: abandoned + time.Minute, want: true},
		"a video that is not there (yet)":    {db: database{gone: true}},
		"a video that never was":             {db: database{gone: true}, age: abandoned + time.Minute, want: true},
		"a video that was deleted, as heard": {db: database{gone: true}, asked: true, want: true},
	} {
		k := content.Kept{Ref: content.Ref{Resource: "v", Upload: "new"}, Command: "c", Changed: time.Now().Add(-c.age)}
		if got, err := gone(t.Context(), &c.db, k, c.asked); err != nil || got != c.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
