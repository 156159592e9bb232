package whatif

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
)

// digest stands for a question.
type digest [sha256.Size]byte

// view is what the candidate can see of the questions about an action on a kind.
type view struct {
	authz.Reads
	authz.Identity
}

// anybody reports whether the candidate answers a principal as any other of
// whom the same holds: it only looks where their id stands.
func (v *view) anybody(id string) bool { return v.Hidden && id != "" && v.Ordinary(id) }

// key is the digest of all of a question that the candidate can see. Of one that
// is anybody's (see view) it holds where the principal's id stands, not the id. It needs
// a buffer for as long as it takes.
func (r *Replayer) key(v *view, d *events.Decision, anybody bool, buffer *[]byte) digest {
	who, id, resource := d.Principal.ID, d.Resource.ID, d.Resource.Attr
	b := (*buffer)[:0]
	if anybody {
		b = append(b, 'a')
		b = appendIs(b, id, who)
		for _, name := range v.Attr {
			b = appendIs(b, resource[name], who)
		}
		resource = v.withoutIDs(resource)
		if v.OpaqueID && v.Ordinary(id) && id != "" {
			id = someResource
		}
		who = ""
	}
	if !v.ResourceID && id != "" {
		id = someResource
	}
	attr := d.Principal.Attr
	if !v.Request {
		attr = withoutRequest(attr)
	}
	for _, s := range [...]string{d.Tenant, d.Action, d.Resource.Kind, id, who} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Principal.Roles)))
	for _, role := range d.Principal.Roles {
		b = appendText(b, role)
	}
	b = appendObject(appendObject(b, attr), resource)
	*buffer = b
	return sha256.Sum256(b)
}

// appendIs writes whether a value is the principal's id.
func appendIs(b []byte, v any, who string) []byte {
	if v == who {
		return append(b, '=')
	}
	return append(b, '!')
}

// someResource stands for the id of a resource. No id has a NUL.
const someResource = "\x00"

// someID stands for an id that equals no constant.
type someID struct{}

// withoutIDs leaves out of a resource's attributes what they say, where that it
// is or is not the principal's id is all that is looked at.
func (v *view) withoutIDs(attr map[string]any) map[string]any {
	changed := false
	for name, value := range attr {
		id, ok := value.(string)
		if !ok || id == "" || !v.Ordinary(id) || !v.Opaque(name) {
			continue
		}
		if !changed {
			attr, changed = maps.Clone(attr), true
		}
		attr[name] = someID{}
	}
	return attr
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
	case someID:
		return append(b, 'i')
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
