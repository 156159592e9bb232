package probe

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// programs gives ffmpeg, which makes the files, and ffprobe.
func programs(t *testing.T) (ffmpeg, ffprobe string) {
	t.Helper()
	ffmpeg, err := exec.LookPath("ffmpeg")
	if err == nil {
		ffprobe, err = exec.LookPath("ffprobe")
	}
	if err != nil {
		if os.Getenv("WRIT_TEST_REQUIRE") == "all" {
			t.Fatalf("this needs ffmpeg and ffprobe: %v", err)
		}
		t.Skipf("this needs ffmpeg and ffprobe: %v", err)
	}
	return ffmpeg, ffprobe
}

// made is a file that ffmpeg makes of two seconds of moving pictures and a tone.
func made(t *testing.T, ffmpeg, name string, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	all := append([]string{"-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2", "-f", "lavfi", "-i", "sine=duration=2"}, args...)
	if out, err := exec.CommandContext(t.Context(), ffmpeg, append(all, path)...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %v: %v: %s", args, err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inside is what a tenant must not learn: addresses in memory and paths.
var inside = regexp.MustCompile(`0x[0-9a-fA-F]+|/(usr|tmp|proc|dev)/|pipe:`)

func TestFilesThatAreNoVideosAreRefusedByName(t *testing.T) {
	ffmpeg, ffprobe := programs(t)
	cover := []string{"-map", "1:a", "-map", "0:v", "-frames:v", "1", "-disposition:v", "attached_pic"}
	webm := made(t, ffmpeg, "a.webm", "-c:v", "libvpx", "-c:a", "libopus", "-b:v", "200k")
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"PNG", made(t, ffmpeg, "a.png", "-frames:v", "1"), "still image (png)"},
		{"JPEG", made(t, ffmpeg, "a.jpg", "-frames:v", "1"), "still image (jpeg)"},
		{"GIF of one picture", made(t, ffmpeg, "a.gif", "-frames:v", "1"), "still image"},
		{"MP3", made(t, ffmpeg, "plain.mp3", "-map", "1:a"), "is audio"},
		{"MP3 with cover art", made(t, ffmpeg, "cover.mp3", append(cover, "-c:v", "png")...), "is audio"},
		{"FLAC with cover art", made(t, ffmpeg, "cover.flac", append(cover, "-c:v", "png")...), "is audio"},
		{"WebM cut in half", webm[:len(webm)/2], "cut short"},
		{"WebM cut after a tenth", webm[:len(webm)/10], "cut short"},
		{"broken PNG", append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{7}, 3000)...), ""},
		{"broken JPEG", append([]byte("\xff\xd8\xff\xe0"), bytes.Repeat([]byte{9}, 3000)...), ""},
		{"noise", bytes.Repeat([]byte("no video "), 500), ""},
	} {
		facts, err := look(t, Prober{FFprobe: ffprobe}, c.data)
		if !isBroken(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want it refused as %q", c.name, facts, err, c.want)
		}
		if err != nil && inside.MatchString(err.Error()) {
			t.Errorf("%s: the reason tells addresses or paths: %v", c.name, err)
		}
	}
}

func TestFilesThatPlayHaveTheirLength(t *testing.T) {
	ffmpeg, ffprobe := programs(t)
	for name, args := range map[string][]string{
		"a.ts":       {"-c:v", "mpeg2video", "-c:a", "mp2"},
		"a.webm":     {"-c:v", "libvpx", "-c:a", "libopus"},
		"a.mkv":      {"-c:v", "mpeg4", "-c:a", "aac"},
		"a.avi":      {"-c:v", "mpeg4", "-c:a", "mp2"},
		"a.flv":      {"-c:v", "flv1", "-c:a", "aac"},
		"silent.gif": {"-map", "0:v"},
	} {
		facts, err := look(t, Prober{FFprobe: ffprobe}, made(t, ffmpeg, name, args...))
		if err != nil || facts.Width != 64 || facts.Height != 48 || facts.DurationMS < 1900 || facts.DurationMS > 2200 {
			t.Errorf("%s: %+v, %v; want 64 by 48 and 2 s", name, facts, err)
		}
	}
}

// TestTagsAtTheEndAreNoDamage: players pass over what a music player wrote behind the film.
func TestTagsAtTheEndAreNoDamage(t *testing.T) {
	whole := sample(t, "sample.mp4")
	want, err := look(t, Prober{}, whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, tag := range map[string][]byte{
		"ID3v1": append([]byte("TAG"), make([]byte, 125)...),
		"ID3v2": append([]byte("ID3\x04\x00\x00\x00\x00\x00\x10"), make([]byte, 16)...),
		"APEv2": append([]byte("APETAGEX"), make([]byte, 24)...),
	} {
		got, err := look(t, Prober{}, append(bytes.Clone(whole), tag...))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}
