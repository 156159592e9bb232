package video_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func act(t *testing.T, row kind.Row, action string, body any) (kind.Row, error) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return video.Kind.Act(row, action, kind.By{PrincipalID: "p", At: at, Body: b})
}

func do(t *testing.T, row kind.Row, action string, body any) kind.Row {
	t.Helper()
	next, err := act(t, row, action, body)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestNewerUploadWinsOverTheOlderOnesResult(t *testing.T) {
	row, err := video.Kind.Create("id", "default", "o", []byte(`{"title":"x"}`), at)
	if err != nil {
		t.Fatal(err)
	}
	of := func(r kind.Row) *video.Video { return r.Value.(*video.Video) }
	if of(row).Waits() {
		t.Error("a video without a file waits for its probe")
	}
	sum := strings.Repeat("a", 64)
	row = do(t, row, video.ActionUpload, video.Upload{ContentID: "one", Size: 5, SHA256: sum})
	row = do(t, row, video.ActionProcess, video.Progress{ContentID: "one", Status: video.Processing})
	if v := of(row); v.Status != video.Processing || !v.Waits() || *v.Size != 5 {
		t.Errorf("%+v", v)
	}
	row = do(t, row, video.ActionUpload, video.Upload{ContentID: "two", Size: 6, SHA256: sum})
	if _, err := act(t, row, video.ActionProcess, video.Progress{ContentID: "one", Status: video.Failed, Failure: "x"}); !fault.Is(err, fault.KindConflict) {
		t.Errorf("the older upload's result was taken: %v", err)
	}
	row = do(t, row, video.ActionProcess, video.Progress{ContentID: "two", Status: video.Processed, Facts: video.Facts{DurationMS: 1000, Width: 2, Height: 3, Codecs: "avc1"}})
	if v := of(row); v.Status != video.Processed || v.Waits() || *v.Width != 2 || v.Failure != nil {
		t.Errorf("%+v", v)
	}
	// Another file: nothing is left of what was known.
	row = do(t, row, video.ActionUpload, video.Upload{ContentID: "three", Size: 7, SHA256: sum})
	if v := of(row); v.Status != video.NotProcessed || v.Width != nil || v.DurationMS != nil || v.Codecs != nil {
		t.Errorf("%+v", v)
	}
	row = do(t, row, video.ActionProcess, video.Progress{ContentID: "three", Status: video.Failed, Failure: "no video"})
	if v := of(row); *v.Failure != "no video" || v.Version != 7 {
		t.Errorf("%+v", v)
	}
	for _, odd := range []any{video.Upload{}, "x"} {
		if _, err := act(t, row, video.ActionUpload, odd); err == nil {
			t.Errorf("accepted %v", odd)
		}
	}
	if got := strings.Join(video.Kind.Actions(), " ") + "|" + strings.Join(video.Kind.Routed(), " "); got != "upload|" {
		t.Errorf("actions %s", got)
	}
}
