// Package probe finds out what a video file holds, from files that may be
// anything: broken, cut short, hostile. It reads little and keeps less: box by
// box for MP4 and MOV, whatever the sizes in them say; other containers
// through ffprobe, where it is installed.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/writ-project/writ/pkg/kind/video"
)

// Broken says that the file itself is to blame: it will never be otherwise.
type Broken struct{ Reason string }

func (b *Broken) Error() string { return b.Reason }

func broken(format string, args ...any) error { return &Broken{fmt.Sprintf(format, args...)} }

// errOther means that the file is no MP4 and no MOV.
var errOther = errors.New("neither MP4 nor MOV")

// Prober probes files.
type Prober struct {
	// FFprobe is the path of ffprobe; "" where it is not installed.
	FFprobe string
}

// Probe gives the facts about a file of size bytes. The error is a *Broken
// where the file is to blame, else what r reports.
func (p Prober) Probe(ctx context.Context, r io.ReadSeeker, size int64) (facts video.Facts, err error) {
	defer func() {
		if recover() != nil { // of a library, on bytes that it did not expect
			facts, err = video.Facts{}, broken("the file makes its reader crash")
		}
	}()
	if size == 0 {
		return video.Facts{}, broken("the file is empty")
	}
	facts, err = mp4Facts(ctx, r, size)
	if !errors.Is(err, errOther) {
		return facts, err
	}
	if p.FFprobe == "" {
		return video.Facts{}, broken("the file is neither MP4 nor MOV, and no ffprobe is installed to look at others")
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return video.Facts{}, err
	}
	facts, err = p.ffprobe(ctx, r)
	if err != nil {
		return facts, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return video.Facts{}, err
	}
	return p.measured(ctx, r, size, facts)
}

// codecName gives a codec's four characters, made printable.
func codecName(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == ',' {
			return '?'
		}
		return r
	}, strings.TrimRight(string(b), " \x00"))
}
