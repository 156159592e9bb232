package whatif

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
)

// digest stands for a question.
type digest [sha256.Size]byte

// key is the digest of all of a question that the candidate can see. It needs
// a buffer for as long as it takes.
func (r *Replayer) key(d *events.Decision, buffer *[]byte) digest {
	reads := r.seen(d)
	id := d.Resource.ID
	if !reads.ResourceID && id != "" {
		id = "-"
	}
	attr := d.Principal.Attr
	if !reads.Request {
		attr = withoutRequest(attr)
	}
	b := (*buffer)[:0]
	for _, s := range [...]string{d.Tenant, d.Action, d.Resource.Kind, id, d.Principal.ID} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Principal.Roles)))
	for _, role := range d.Principal.Roles {
		b = appendText(b, role)
	}
	b = appendObject(appendObject(b, attr), d.Resource.Attr)
	*buffer = b
	return sha256.Sum256(b)
}

// withoutRequest leaves the request's address and time out of a principal's
// attributes, if they are strings as they should be.
func withoutRequest(attr map[string]any) map[string]any {
	of, ok := attr[user.AttrRequest].(map[string]any)
	if !ok {
		return attr
	}
	for _, v := range of {
		if _, ok := v.(string); !ok {
			return attr
		}
	}
	attr = maps.Clone(attr)
	attr[user.AttrRequest] = true
	return attr
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendObject(b []byte, o map[string]any) []byte {
	names := make([]string, 0, 16) // on the stack, mostly
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendValue(appendText(b, name), o[name])
	}
	return b
}

// appendValue writes a JSON value so that no two write the same.
func appendValue(b []byte, v any) []byte {
	switch x := v.(type) {
	case nil:
		return append(b, 'z')
	case bool:
		if x {
			return append(b, 't')
		}
		return append(b, 'f')
	case string:
		return appendText(append(b, 's'), x)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'n'), math.Float64bits(x))
	case []any:
		b = binary.AppendUvarint(append(b, 'l'), uint64(len(x)))
		for _, e := range x {
			b = appendValue(b, e)
		}
		return b
	case map[string]any:
		return appendObject(append(b, 'o'), x)
	}
	raw, _ := json.Marshal(v) // cannot be: it was JSON
	return appendText(append(b, 'x'), string(raw))
}
