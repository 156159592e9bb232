package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func look(t *testing.T, p Prober, data []byte) (video.Facts, error) {
	t.Helper()
	return p.Probe(t.Context(), bytes.NewReader(data), int64(len(data)))
}

func TestFactsOfRealFiles(t *testing.T) {
	for name, want := range map[string]video.Facts{
		"sample.mp4":     {DurationMS: 2000, Width: 64, Height: 48, Codecs: "avc1.64000a,mp4a"},
		"fragmented.mp4": {DurationMS: 2000, Width: 64, Height: 48, Codecs: "avc1.64000a"},
	} {
		got, err := look(t, Prober{}, sample(t, name))
		if err != nil || got.Width != want.Width || got.Height != want.Height || got.Codecs != want.Codecs ||
			got.DurationMS < want.DurationMS || got.DurationMS > want.DurationMS+50 { // the sound is a little longer
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

// TestOtherContainers says what becomes of other containers here: with ffprobe
// they are understood, without it they fail with the reason.
func TestOtherContainers(t *testing.T) {
	data := sample(t, "sample.webm")
	if _, err := look(t, Prober{}, data); err == nil || !strings.Contains(err.Error(), "no ffprobe is installed") {
		t.Errorf("without ffprobe: %v", err)
	}
	if path, err := exec.LookPath("ffprobe"); err == nil {
		p := Prober{FFprobe: path}
		got, err := look(t, p, data)
		if want := (video.Facts{DurationMS: 1000, Width: 64, Height: 48, Codecs: "vp8"}); err != nil || got != want {
			t.Errorf("with ffprobe: %+v, %v", got, err)
		}
		for _, odd := range [][]byte{[]byte("no video at all"), data[:40], bytes.Repeat([]byte{0}, 100_000)} {
			if _, err := look(t, p, odd); !isBroken(err) {
				t.Errorf("%.20q: %v", odd, err)
			}
		}
	}
	if _, err := look(t, Prober{FFprobe: filepath.Join(t.TempDir(), "gone")}, data); err == nil || isBroken(err) {
		t.Errorf("a program that is gone was taken for the file's fault: %v", err)
	}
}

func isBroken(err error) bool {
	b := (*Broken)(nil)
	return errors.As(err, &b)
}

func TestWhatFFprobeSays(t *testing.T) {
	got, err := parseFFprobe([]byte(`{"programs":[],"streams":[{"codec_name":"opus","codec_type":"audio"},{"codec_name":"vp9","codec_type":"video","width":640,"height":360}],"format":{"format_name":"matroska,webm","duration":"12.345000"}}`))
	if want := (video.Facts{DurationMS: 12345, Width: 640, Height: 360, Codecs: "opus,vp9"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, odd := range []string{``, `[]`, `{}`, `{"streams":[{"codec_type":"audio","codec_name":"mp3"}]}`, `{"streams":[{"codec_type":"video","width":-4,"height":9}]}`} {
		if _, err := parseFFprobe([]byte(odd)); !isBroken(err) {
			t.Errorf("%s: %v", odd, err)
		}
	}
}

// TestEveryCutIsBroken cuts real files at every byte: none crashes, and none is
// taken for whole.
func TestEveryCutIsBroken(t *testing.T) {
	whole := sample(t, "sample.mp4")
	for n := range whole {
		if _, err := look(t, Prober{}, whole[:n]); !isBroken(err) {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
	fragmented := sample(t, "fragmented.mp4")
	for n := range fragmented {
		if _, err := look(t, Prober{}, fragmented[:n]); err != nil && !isBroken(err) { // between two fragments it is a shorter film
			t.Fatalf("cut at %d of %d: %v", n, len(fragmented), err)
		}
	}
}

// mp4Box makes a box with any size that one likes to claim.
func mp4Box(name string, size uint32, content ...[]byte) []byte {
	body := bytes.Join(content, nil)
	if size == 0 {
		size = uint32(8 + len(body))
	}
	return append(binary.BigEndian.AppendUint32(nil, size), append([]byte(name), body...)...)
}

func TestHostileFilesAreBrokenAndTakeNoMemory(t *testing.T) {
	ftyp := mp4Box("ftyp", 0, []byte("isom"), make([]byte, 4))
	huge := append([]byte{0, 0, 0, 1, 'm', 'o', 'o', 'v'}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	trun := mp4Box("trun", 0, []byte{0, 0, 1, 0}, []byte{0xff, 0xff, 0xff, 0xff})
	nested := []byte{}
	for range 10_000 {
		nested = mp4Box("stbl", 0, nested)
	}
	table := func(b []byte) []byte { // within a video track
		hdlr := mp4Box("hdlr", 0, make([]byte, 8), []byte("vide"), make([]byte, 12))
		return append(bytes.Clone(ftyp), mp4Box("moov", 0, mp4Box("trak", 0, mp4Box("mdia", 0, hdlr, mp4Box("minf", 0, mp4Box("stbl", 0, b)))))...)
	}
	many := bytes.Repeat(mp4Box("free", 0), maxBoxes+1)
	for name, data := range map[string][]byte{
		"a size of 2^64":                append(bytes.Clone(ftyp), huge...),
		"a run of 2^32 samples":         append(bytes.Clone(ftyp), mp4Box("moof", 0, mp4Box("traf", 0, trun))...),
		"a run in a sample description": table(mp4Box("stsd", 0, make([]byte, 4), []byte{0, 0, 0, 1}, trun)),
		"2^32 descriptions":             table(mp4Box("stsd", 0, make([]byte, 4), []byte{0xff, 0xff, 0xff, 0xff})),
		"2^32 chunks":                   table(mp4Box("stco", 0, make([]byte, 4), []byte{0xff, 0xff, 0xff, 0xff})),
		"samples of 2^32":               table(mp4Box("stsz", 0, make([]byte, 8), []byte{0xff, 0xff, 0xff, 0xff})),
		"boxes of size 4":               append(bytes.Clone(ftyp), mp4Box("moov", 0, mp4Box("trak", 4))...),
		"a box larger than its parent":  append(bytes.Clone(ftyp), mp4Box("moov", 0, mp4Box("trak", 1000))...),
		"a large leaf":                  append(bytes.Clone(ftyp), mp4Box("moov", 0, mp4Box("mvhd", 0, make([]byte, maxLeaf+1)))...),
		"boxes in boxes":                table(nested),
		"too many boxes":                many,
		"two descriptions":              append(bytes.Clone(ftyp), append(mp4Box("moov", 0), mp4Box("moov", 0)...)...),
		"nothing but a type":            ftyp,
		"empty":                         {},
		"text":                          []byte("this is no video"),
		"an HTML page":                  []byte("<html><video></html>"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		facts, err := look(t, Prober{}, data)
		runtime.ReadMemStats(&after)
		if !isBroken(err) {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
		if took := int64(after.TotalAlloc - before.TotalAlloc); took > 32<<20 {
			t.Errorf("%s took %d MiB", name, took>>20)
		}
	}
}

// smallest is a film of 500 bytes: one video track of 64 by 48, one sample.
func smallest() []byte {
	number := func(n ...uint32) (b []byte) {
		for _, n := range n {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	size := []byte{0, 64, 0, 48}
	entry := mp4Box("avc1", 0, make([]byte, 24), size, make([]byte, 50), mp4Box("avcC", 0, []byte{1, 0x64, 0, 0x0a}))
	table := mp4Box("stbl", 0, mp4Box("stsd", 0, number(0, 1), entry), mp4Box("stsz", 0, number(0, 4, 1)), mp4Box("stco", 0, number(0, 1, 8)))
	track := mp4Box("trak", 0,
		mp4Box("tkhd", 0, number(0, 0, 0, 1), make([]byte, 60), number(64<<16, 48<<16)),
		mp4Box("mdia", 0, mp4Box("mdhd", 0, number(0, 0, 0, 1000, 40, 0)),
			mp4Box("hdlr", 0, make([]byte, 8), []byte("vide"), make([]byte, 13)), mp4Box("minf", 0, table)))
	movie := mp4Box("moov", 0, mp4Box("mvhd", 0, number(0, 0, 0, 1000, 40), make([]byte, 80)), track,
		mp4Box("mvex", 0, mp4Box("trex", 0, number(0, 1, 1, 40, 0, 0))))
	return append(mp4Box("ftyp", 0, []byte("isom"), make([]byte, 4)), movie...)
}

func TestSmallestFilm(t *testing.T) {
	got, err := look(t, Prober{}, smallest())
	if want := (video.Facts{DurationMS: 40, Width: 64, Height: 48, Codecs: "avc1.64000a"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzProbe(f *testing.F) {
	// Small ones: a whole film takes the fuzzer's time, and what is in it is not looked at.
	f.Add(smallest())
	f.Add(append(smallest(), mp4Box("moof", 0, mp4Box("traf", 0,
		mp4Box("tfhd", 0, []byte{0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 40}), mp4Box("tfdt", 0, make([]byte, 8)),
		mp4Box("trun", 0, []byte{0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 40, 0, 0, 0, 40})))...))
	f.Add(mp4Box("ftyp", 0, []byte("isom"), make([]byte, 4)))
	f.Add([]byte{0, 0, 0, 1, 'm', 'o', 'o', 'v', 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 8, 'f', 'r', 'e', 'e'})
	f.Add([]byte{0x1a, 0x45, 0xdf, 0xa3})
	f.Fuzz(func(t *testing.T, data []byte) {
		facts, err := look(t, Prober{}, data)
		if err != nil && !isBroken(err) {
			t.Errorf("%v", err)
		}
		if err != nil && strings.Contains(err.Error(), "crash") {
			t.Errorf("%v", err)
		}
		if err == nil && (facts.Width <= 0 || facts.Height <= 0 || facts.DurationMS < 0) {
			t.Errorf("%+v", facts)
		}
	})
}
