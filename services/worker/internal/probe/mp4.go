package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/Eyevinn/mp4ff/bits"
	"github.com/Eyevinn/mp4ff/mp4"

	"github.com/writ-project/writ/pkg/kind/video"
)

// Bounds of what is looked at (ISO/IEC 14496-12 calls the pieces boxes).
const (
	maxBoxes  = 200_000 // a day of two-second fragments has 90,000
	maxTracks = 64
	maxDepth  = 16 // boxes within boxes
	// maxLeaf bounds a box that is read whole, in bytes. Tables of samples are not.
	maxLeaf = 1 << 20
	// maxPixels is more than any screen has in one direction.
	maxPixels = 1 << 16
)

// box is a box in the file: where its content is.
type box struct {
	name       string
	start, end int64 // of the content
}

// parser walks the boxes of one file.
type parser struct {
	ctx    context.Context
	r      io.ReadSeeker
	size   int64
	boxes  int
	depth  int
	tracks []*track
	// ends is how far the fragments of a track reach, in its time scale.
	ends map[uint32]uint64

	timescale, duration uint64 // of the movie
	fragmented          bool
	defaults            map[uint32]uint32 // a fragment's sample durations by track
	moov                bool
}

// track is what is known of a track.
type track struct {
	id            uint32
	handler       string
	timescale     uint64
	duration      uint64
	width, height int64
	codec         string
	samples       uint32
	lastChunk     uint64 // its offset in the file
}

// mp4Facts reads an MP4 or MOV; errOther if it is none.
func mp4Facts(ctx context.Context, r io.ReadSeeker, size int64) (video.Facts, error) {
	p := &parser{ctx: ctx, r: r, size: size, ends: map[uint32]uint64{}, defaults: map[uint32]uint32{}}
	head := make([]byte, min(12, size))
	if err := p.read(0, head); err != nil {
		return video.Facts{}, err
	}
	if len(head) < 8 || !startsMP4(string(head[4:8])) {
		return video.Facts{}, errOther
	}
	if err := p.walk(box{"", 0, size}, p.top); err != nil {
		return video.Facts{}, err
	}
	return p.facts()
}

// startsMP4 reports whether a file may begin with such a box.
func startsMP4(name string) bool {
	switch name {
	case "ftyp", "styp", "moov", "mdat", "wide", "free", "skip", "pnot":
		return true
	}
	return false
}

func (p *parser) read(at int64, into []byte) error {
	if _, err := p.r.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(p.r, into)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return broken("the file is cut short at byte %d", at)
	}
	return err
}

// walk hands the boxes within one to each, in order. A box that reaches out of
// the one that holds it makes the file broken.
func (p *parser) walk(in box, each func(box) error) error {
	if p.depth++; p.depth > maxDepth {
		return broken("the file has boxes within more than %d boxes", maxDepth)
	}
	defer func() { p.depth-- }()
	for at := in.start; at < in.end; {
		if p.boxes++; p.boxes > maxBoxes {
			return broken("the file has more than %d boxes", maxBoxes)
		}
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if in.name == "" && p.moov {
			if tagged, err := p.tagged(at); err != nil || tagged {
				return err
			}
		}
		if in.end-at < 8 {
			if in.name == "" || in.end-at == 4 { // QuickTime ends some lists with four zero bytes
				if in.name == "" {
					return broken("the file is cut short at byte %d", at)
				}
				return nil
			}
			return broken("%s has %d bytes that are no box", in.name, in.end-at)
		}
		var head [16]byte
		if err := p.read(at, head[:8]); err != nil {
			return err
		}
		b := box{name: string(head[4:8]), start: at + 8}
		length := int64(binary.BigEndian.Uint32(head[:4]))
		switch length {
		case 0: // to the end, of the file only
			if in.name != "" {
				return broken("%s has a box without a size", in.name)
			}
			length = in.end - at
		case 1:
			if in.end-at < 16 {
				return broken("the box %s is cut short", codecName(head[4:8]))
			}
			if err := p.read(at, head[:]); err != nil {
				return err
			}
			large := binary.BigEndian.Uint64(head[8:])
			if large < 16 || large > uint64(in.end-at) {
				return p.tooLong(b, in)
			}
			length, b.start = int64(large), at+16
		}
		if length < b.start-at {
			return broken("the box %s has the size %d", codecName(head[4:8]), length)
		}
		if length > in.end-at {
			return p.tooLong(b, in)
		}
		b.end = at + length
		if err := each(b); err != nil {
			return err
		}
		at = b.end
	}
	return nil
}

// tagged reports whether the rest of the file is a tag of a music player's, which is no box and which players pass over.
func (p *parser) tagged(at int64) (bool, error) {
	head := make([]byte, min(8, p.size-at))
	if err := p.read(at, head); err != nil {
		return false, err
	}
	for _, tag := range []string{"TAG", "ID3", "3DI", "APETAGEX"} { // ID3v1, ID3v2 and its footer, APEv2
		if strings.HasPrefix(string(head), tag) {
			return true, nil
		}
	}
	return false, nil
}

func (p *parser) tooLong(b, in box) error {
	if in.name == "" {
		return broken("the file is cut short: its box %s ends after it", codecName([]byte(b.name)))
	}
	return broken("the box %s ends after %s, which holds it", codecName([]byte(b.name)), in.name)
}

// whole reads a box's content.
func (p *parser) whole(b box) ([]byte, error) {
	if b.end-b.start > maxLeaf {
		return nil, broken("the box %s has %d bytes", codecName([]byte(b.name)), b.end-b.start)
	}
	data := make([]byte, b.end-b.start)
	return data, p.read(b.start, data)
}

// prefix reads the first bytes of a box's content, which must be there.
func (p *parser) prefix(b box, n int64) ([]byte, error) {
	if b.end-b.start < n {
		return nil, broken("the box %s is too short", codecName([]byte(b.name)))
	}
	data := make([]byte, n)
	return data, p.read(b.start, data)
}

// leaf decodes a box of a known type. Only types without tables and without boxes in
// them go this way: those the library may be given whatever they say.
func leaf[B any](p *parser, b box, decode func(mp4.BoxHeader, uint64, bits.SliceReader) (mp4.Box, error)) (B, error) {
	var none B
	data, err := p.whole(b)
	if err != nil {
		return none, err
	}
	header := mp4.BoxHeader{Name: b.name, Size: uint64(len(data)) + 8, Hdrlen: 8}
	decoded, err := decode(header, 0, bits.NewFixedSliceReader(data))
	if err != nil {
		return none, broken("the box %s cannot be read: %v", codecName([]byte(b.name)), err)
	}
	out, ok := decoded.(B)
	if !ok {
		return none, fmt.Errorf("the box %s is a %T", b.name, decoded)
	}
	return out, nil
}

func (p *parser) top(b box) error {
	switch b.name {
	case "moov":
		if p.moov {
			return broken("the file has two descriptions (moov)")
		}
		p.moov = true
		return p.walk(b, p.movie)
	case "moof":
		return p.walk(b, p.fragment)
	}
	return nil
}

func (p *parser) movie(b box) error {
	switch b.name {
	case "mvhd":
		h, err := leaf[*mp4.MvhdBox](p, b, mp4.DecodeMvhdSR)
		if err != nil {
			return err
		}
		p.timescale, p.duration = uint64(h.Timescale), known(h.Duration, h.Version)
	case "trak":
		if len(p.tracks) == maxTracks {
			return broken("the file has more than %d tracks", maxTracks)
		}
		t := &track{}
		p.tracks = append(p.tracks, t)
		return p.walk(b, p.inTrack(t))
	case "mvex":
		p.fragmented = true
		return p.walk(b, func(b box) error {
			switch b.name {
			case "mehd":
				h, err := leaf[*mp4.MehdBox](p, b, mp4.DecodeMehdSR)
				if err != nil {
					return err
				}
				p.duration = max(p.duration, uint64(max(h.FragmentDuration, 0)))
			case "trex":
				h, err := leaf[*mp4.TrexBox](p, b, mp4.DecodeTrexSR)
				if err != nil {
					return err
				}
				if len(p.defaults) < maxTracks {
					p.defaults[h.TrackID] = h.DefaultSampleDuration
				}
			}
			return nil
		})
	}
	return nil
}

// known gives a duration, 0 for the value that means unknown.
func known(d uint64, version byte) uint64 {
	if version == 0 && d == 1<<32-1 || d == 1<<64-1 {
		return 0
	}
	return d
}

func (p *parser) inTrack(t *track) func(box) error {
	return func(b box) error {
		switch b.name {
		case "tkhd":
			h, err := leaf[*mp4.TkhdBox](p, b, mp4.DecodeTkhdSR)
			if err != nil {
				return err
			}
			t.id = h.TrackID
			if t.width == 0 {
				t.width, t.height = int64(h.Width)>>16, int64(h.Height)>>16
			}
		case "mdia":
			return p.walk(b, p.inTrack(t))
		case "minf", "stbl":
			if t.handler == "url " || t.handler == "alis" { // a data handler, not a medium
				return nil
			}
			return p.walk(b, p.inTable(t))
		case "mdhd":
			h, err := leaf[*mp4.MdhdBox](p, b, mp4.DecodeMdhdSR)
			if err != nil {
				return err
			}
			t.timescale, t.duration = uint64(h.Timescale), known(h.Duration, h.Version)
		case "hdlr":
			data, err := p.prefix(b, 12)
			if err != nil {
				return err
			}
			t.handler = string(data[8:12])
		}
		return nil
	}
}

// inTable looks at the description of a track's samples. It reads no table.
func (p *parser) inTable(t *track) func(box) error {
	return func(b box) error {
		switch b.name {
		case "stbl":
			return p.walk(b, p.inTable(t))
		case "stsd":
			head, err := p.prefix(b, 8)
			if err != nil {
				return err
			}
			if binary.BigEndian.Uint32(head[4:]) == 0 {
				return nil
			}
			return p.walk(box{"stsd", b.start + 8, b.end}, func(entry box) error { return p.sample(t, entry) })
		case "stsz":
			head, err := p.prefix(b, 12)
			if err != nil {
				return err
			}
			t.samples = binary.BigEndian.Uint32(head[8:])
		case "stz2":
			head, err := p.prefix(b, 12)
			if err != nil {
				return err
			}
			t.samples = binary.BigEndian.Uint32(head[8:])
		case "stco":
			return p.chunks(t, b, 4)
		case "co64":
			return p.chunks(t, b, 8)
		}
		return nil
	}
}

// chunks keeps the last chunk's offset.
func (p *parser) chunks(t *track, b box, width int64) error {
	head, err := p.prefix(b, 8)
	if err != nil {
		return err
	}
	count := int64(binary.BigEndian.Uint32(head[4:]))
	if count*width > b.end-b.start-8 {
		return broken("the table %s names %d chunks and has no room for them", b.name, count)
	}
	if count == 0 {
		return nil
	}
	last := make([]byte, 8)
	if err := p.read(b.start+8+(count-1)*width, last[8-width:]); err != nil {
		return err
	}
	t.lastChunk = binary.BigEndian.Uint64(last)
	return nil
}

// sample reads a sample's description: the first one counts.
func (p *parser) sample(t *track, entry box) error {
	if t.codec != "" {
		return nil
	}
	t.codec = codecName([]byte(entry.name))
	if t.handler != "vide" {
		return nil
	}
	const fixed = 78 // of a visual sample entry; boxes follow
	data, err := p.prefix(entry, fixed)
	if err != nil {
		return err
	}
	t.width, t.height = int64(binary.BigEndian.Uint16(data[24:])), int64(binary.BigEndian.Uint16(data[26:]))
	if !strings.HasPrefix(t.codec, "avc") {
		return nil
	}
	return p.walk(box{"the sample description", entry.start + fixed, entry.end}, func(b box) error {
		if b.name != "avcC" {
			return nil
		}
		c, err := p.prefix(b, 4)
		if err == nil {
			t.codec += fmt.Sprintf(".%02x%02x%02x", c[1], c[2], c[3]) // RFC 6381, 3.3
		}
		return err
	})
}
