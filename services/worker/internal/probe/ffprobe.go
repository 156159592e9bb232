package probe

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/writ-project/writ/pkg/kind/video"
)

// Bounds of ffprobe.
const (
	ffprobeTime   = 60 * time.Second
	ffprobeOutput = 256 << 10 // bytes
	// ffprobeInput bounds what it is given, in bytes: a file that does not say
	// within this what it is is not looked at further.
	ffprobeInput = 64 << 20
	// ffprobeAlloc bounds one piece of memory that the program asks for, in bytes:
	// sizes that a file claims to have.
	ffprobeAlloc = "67108864"
)

// ffprobe asks ffprobe what the file is.
func (p Prober) ffprobe(ctx context.Context, r io.Reader) (video.Facts, error) {
	out := &bounded{limit: ffprobeOutput}
	err := p.run(ctx, r, out, "-print_format", "json",
		"-show_entries", "format=duration,format_name:stream=codec_type,codec_name,width,height,duration:stream_disposition=attached_pic")
	switch {
	case out.over:
		return video.Facts{}, broken("ffprobe says more than %d bytes about it", ffprobeOutput)
	case err != nil:
		return video.Facts{}, err
	}
	return parseFFprobe(out.kept)
}

// run gives the file to ffprobe's standard input: the program sees no path, no network and no environment.
func (p Prober) run(ctx context.Context, r io.Reader, out io.Writer, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ffprobeTime, errSlow)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.FFprobe, slices.Concat([]string{"-v", "error", "-hide_banner", "-protocol_whitelist", "pipe", "-max_alloc", ffprobeAlloc},
		args, []string{"-i", "pipe:0"})...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.WaitDelay = 2 * time.Second
	trouble := &bounded{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, trouble
	in := &source{r: io.LimitReader(r, ffprobeInput)}
	cmd.Stdin = in
	err := cmd.Run()
	switch {
	case in.err != nil: // the store's: try again
		return in.err
	case errors.Is(context.Cause(ctx), errSlow):
		return broken("ffprobe took longer than %s", ffprobeTime)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		line, _, _ := strings.Cut(strings.TrimSpace(string(trouble.kept)), "\n")
		return broken("the file is no video: %s", codecLine(line))
	}
	if cmd.ProcessState == nil {
		return err // it could not be started
	}
	return nil // it did not take all of its input, at most
}

var errSlow = errors.New("ffprobe is too slow")

// parseFFprobe reads what ffprobe says.
func parseFFprobe(text []byte) (video.Facts, error) {
	var said struct {
		Format struct {
			Duration string
			Name     string `json:"format_name"`
		}
		Streams []struct {
			CodecType string `json:"codec_type"`
			CodecName string `json:"codec_name"`
			Width     int64
			Height    int64
			Duration  string
			Is        struct {
				Picture int `json:"attached_pic"`
			} `json:"disposition"`
		}
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return video.Facts{}, broken("ffprobe cannot tell what the file is")
	}
	var f video.Facts
	if name := stillImage(said.Format.Name); name != "" {
		return f, broken("the file is a still image (%s), no video", name)
	}
	var codecs []string
	sound := false
	length := said.Format.Duration
	for _, s := range said.Streams {
		if s.Is.Picture != 0 { // the cover of a record
			continue
		}
		sound = sound || s.CodecType == "audio"
		if (s.CodecType == "video" || s.CodecType == "audio") && s.CodecName != "" && len(codecs) < 8 {
			codecs = append(codecs, codecName([]byte(s.CodecName)))
		}
		if s.CodecType == "video" && f.Width == 0 {
			f.Width, f.Height = s.Width, s.Height
			if length == "" {
				length = s.Duration
			}
		}
	}
	if f.Width <= 0 || f.Height <= 0 || f.Width > maxPixels || f.Height > maxPixels {
		if sound && f.Width == 0 {
			return video.Facts{}, broken("the file is audio: it has no video track")
		}
		return video.Facts{}, broken("the file has no video track")
	}
	if seconds, err := strconv.ParseFloat(length, 64); err == nil && seconds > 0 && seconds < 1e9 {
		f.DurationMS = int64(math.Round(seconds * 1000))
	}
	f.Codecs = strings.Join(codecs, ",")
	return f, nil
}

// stillImage gives the name of an image's format, "" for others. ffprobe reads images as image2 or NAME_pipe.
func stillImage(format string) string {
	if name, ok := strings.CutSuffix(format, "_pipe"); ok {
		return codecName([]byte(name))
	}
	if strings.HasPrefix(format, "image2") || format == "ico" {
		return "image"
	}
	return ""
}

// addresses are what ffprobe says of its own memory: [png @ 0x55d2c0].
var addresses = regexp.MustCompile(`\[[^\]]* @ 0x[0-9a-fA-F]+\] ?|0x[0-9a-fA-F]{4,}`)

// codecLine makes a line of ffprobe's fit to be shown.
func codecLine(s string) string {
	s = strings.TrimPrefix(addresses.ReplaceAllString(s, ""), "pipe:0: ")
	return strings.Map(func(r rune) rune { // it may hold pieces of the file, and is shown on terminals
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 200)], ""))
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept  []byte
	limit int
	over  bool
}

// Write implements io.Writer. What is too much is let go: the program's exit is
// the answer.
func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - len(b.kept)
	b.over = b.over || len(p) > room
	b.kept = append(b.kept, p[:min(len(p), room)]...)
	return len(p), nil
}

// source remembers an error of the file's own; the end of the pipe is none.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
