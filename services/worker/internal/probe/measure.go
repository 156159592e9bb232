package probe

import (
	"bytes"
	"context"
	"io"
	"math"
	"strconv"

	"github.com/writ-project/writ/pkg/kind/video"
)

// maxMissing is how much less than it says a file may hold and not be cut short, in milliseconds; a twentieth beside it.
const maxMissing = 500

// measured compares what a file says of its length with the packets in it: a file that was cut keeps its header, and a
// transport stream (MPEG-TS) has none. A file larger than ffprobe is given is believed.
func (p Prober) measured(ctx context.Context, r io.Reader, size int64, f video.Facts) (video.Facts, error) {
	if size > ffprobeInput {
		return f, nil
	}
	var s span
	if err := p.run(ctx, r, &s, "-show_entries", "packet=pts_time,duration_time", "-print_format", "csv=p=0"); err != nil {
		return video.Facts{}, err
	}
	held := int64(math.Round((s.last - s.first) * 1000))
	switch {
	case s.packets == 0:
		return video.Facts{}, broken("the video track has no samples")
	case s.packets == 1:
		return video.Facts{}, broken("the file is a still image, no video")
	case held <= 0 || held > 1<<40:
		return f, nil // it tells no times
	case f.DurationMS == 0:
		f.DurationMS = held
	case f.DurationMS-held > maxMissing+f.DurationMS/20 && f.DurationMS-int64(s.last*1000) > maxMissing+f.DurationMS/20:
		return video.Facts{}, broken("the file is cut short: it says %d ms and holds %d", f.DurationMS, held)
	}
	return f, nil
}

// span reads lines of a packet's time and duration, in seconds, and keeps where they begin and end.
type span struct {
	line        []byte
	packets     int
	timed       bool
	first, last float64
}

// maxLine bounds a line that is read, in bytes; the rest of a longer one is let go.
const maxLine = 200

// Write implements io.Writer.
func (s *span) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		s.line = append(s.line, line[:min(len(line), maxLine-len(s.line))]...)
		if ended {
			s.packet()
		}
		p = rest
	}
	return n, nil
}

func (s *span) packet() {
	fields := bytes.Split(bytes.TrimSpace(s.line), []byte(","))
	s.line = s.line[:0]
	s.packets++
	at, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil || math.IsNaN(at) || math.Abs(at) > 1e9 {
		return // N/A
	}
	end := at
	if len(fields) > 1 {
		if d, err := strconv.ParseFloat(string(fields[1]), 64); err == nil && d > 0 && d < 1e6 {
			end += d
		}
	}
	if !s.timed || at < s.first {
		s.first = at
	}
	if !s.timed || end > s.last {
		s.last = end
	}
	s.timed = true
}
