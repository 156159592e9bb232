package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// TilePath is a tile's path as C2SP tlog-tiles writes it: tile/<L>/<N>[.p/<W>],
// and tile/entries/<N>[.p/<W>] for level -1, an entry bundle.
func TilePath(t tlog.Tile) string {
	p := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", t.H)) // tlog's own names the height, too
	if t.L == -1 {
		p = "entries" + strings.TrimPrefix(p, "data")
	}
	return "tile/" + p
}

// ParseTilePath reads what TilePath writes, and nothing else.
func ParseTilePath(path string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if ok && strings.HasPrefix(rest, "data/") {
		ok = false
	}
	if bundle, is := strings.CutPrefix(rest, "entries/"); is {
		rest = "data/" + bundle
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", TileHeight, rest))
	if !ok || err != nil || t.L > 63 {
		return tlog.Tile{}, fmt.Errorf("malformed tile path %q", path)
	}
	return t, nil
}

// MaxRecord is the size of the largest record, in bytes: C2SP entry bundles
// write lengths as two bytes. pkg/events refuses larger ones at their source.
const MaxRecord = math.MaxUint16

// EncodeBundle writes entries as a C2SP entry bundle: each record after its
// length as a big-endian uint16.
func EncodeBundle(entries []Entry) ([]byte, error) {
	var b []byte
	for _, e := range entries {
		if len(e.Record) > MaxRecord {
			return nil, fmt.Errorf("%w: entry %s has %d bytes", ErrDamaged, e.ID, len(e.Record))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.Record)))
		b = append(b, e.Record...)
	}
	return b, nil
}

// DecodeBundle reads an entry bundle into its records, which alias b.
func DecodeBundle(b []byte) ([][]byte, error) {
	var records [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, errors.New("malformed entry bundle: it ends within an entry")
		}
		n := int(binary.BigEndian.Uint16(b))
		records = append(records, b[2:2+n:2+n])
		b = b[2+n:]
		if len(records) > BundleSize {
			return nil, fmt.Errorf("malformed entry bundle: more than %d entries", BundleSize)
		}
	}
	return records, nil
}
