package probe

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/Eyevinn/mp4ff/mp4"

	"github.com/writ-project/writ/pkg/kind/video"
)

// fragment follows how far the fragments of each track reach.
func (p *parser) fragment(b box) error {
	if b.name != "traf" {
		return nil
	}
	var id, each uint32
	var at, length uint64
	if err := p.walk(b, func(b box) error {
		switch b.name {
		case "tfhd":
			h, err := leaf[*mp4.TfhdBox](p, b, mp4.DecodeTfhdSR)
			if err != nil {
				return err
			}
			id, each = h.TrackID, p.defaults[h.TrackID]
			if h.HasDefaultSampleDuration() {
				each = h.DefaultSampleDuration
			}
		case "tfdt":
			h, err := leaf[*mp4.TfdtBox](p, b, mp4.DecodeTfdtSR)
			if err != nil {
				return err
			}
			at = h.BaseMediaDecodeTime()
		case "trun":
			n, err := p.run(b, each)
			length += n
			return err
		}
		return nil
	}); err != nil {
		return err
	}
	if _, there := p.ends[id]; there || len(p.ends) < maxTracks {
		p.ends[id] = max(p.ends[id], at+length)
	}
	return nil
}

// run gives the length of a run of samples. By hand: the library makes room for
// as many samples as the box claims to have.
func (p *parser) run(b box, each uint32) (uint64, error) {
	head, err := p.prefix(b, 8)
	if err != nil {
		return 0, err
	}
	flags, count := binary.BigEndian.Uint32(head)&0xffffff, binary.BigEndian.Uint32(head[4:])
	const durationThere, perSample = 0x100, 0xf00
	if flags&durationThere == 0 {
		return uint64(count) * uint64(each), nil
	}
	data, err := p.whole(b)
	if err != nil {
		return 0, err
	}
	data = data[8:]
	for _, optional := range []uint32{0x1, 0x4} { // data offset, first sample's flags
		if flags&optional != 0 && len(data) >= 4 {
			data = data[4:]
		}
	}
	size := 4 * bits.OnesCount32(flags&perSample)
	if uint64(count)*uint64(size) > uint64(len(data)) {
		return 0, broken("a run claims to have %d samples", count)
	}
	sum := uint64(0)
	for i := range int(count) {
		sum += uint64(binary.BigEndian.Uint32(data[i*size:]))
	}
	return sum, nil
}

// facts puts together what the boxes said, or says what is missing.
func (p *parser) facts() (video.Facts, error) {
	if !p.moov {
		return video.Facts{}, broken("the file has no description (moov): it is cut short, or was never finished")
	}
	var seen *track
	var codecs []string
	for _, t := range p.tracks {
		if t.codec != "" && (t.handler == "vide" || t.handler == "soun") && len(codecs) < 8 {
			codecs = append(codecs, t.codec)
		}
		if t.handler == "vide" && t.codec != "" && seen == nil {
			seen = t
		}
		if t.lastChunk >= uint64(p.size) {
			return video.Facts{}, broken("the file is cut short: samples lie after its end")
		}
	}
	switch {
	case seen == nil:
		return video.Facts{}, broken("the file has no video track")
	case seen.samples == 0 && !p.fragmented:
		return video.Facts{}, broken("the video track has no samples")
	case seen.width <= 0 || seen.height <= 0 || seen.width > maxPixels || seen.height > maxPixels:
		return video.Facts{}, broken("the video is %d by %d pixels", seen.width, seen.height)
	}
	return video.Facts{DurationMS: p.length(seen), Width: seen.width, Height: seen.height, Codecs: strings.Join(codecs, ",")}, nil
}

// length is the duration in milliseconds, 0 for unknown: the movie's, the
// track's, or how far its fragments reach.
func (p *parser) length(t *track) int64 {
	for _, d := range []struct{ duration, timescale uint64 }{{p.duration, p.timescale}, {t.duration, t.timescale}, {p.ends[t.id], t.timescale}} {
		if d.duration == 0 || d.timescale == 0 {
			continue
		}
		high, low := bits.Mul64(d.duration, 1000)
		if high >= d.timescale {
			continue // nonsense
		}
		ms, _ := bits.Div64(high, low, d.timescale)
		if ms <= 1<<40 { // 34 years
			return int64(ms)
		}
	}
	return 0
}
