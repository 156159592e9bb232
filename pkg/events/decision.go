package events

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// ReadDecision reads a decision's bytes as encoding/json does, in a fraction of
// the time where they stand as EncodeDecision writes them and no text holds
// anything but printable ASCII. The error is ErrMalformed; there is no decision
// beside it.
func ReadDecision(raw []byte) (Decision, error) {
	var d Decision
	if quickDecision(raw, &d) {
		return d, nil
	}
	d = Decision{}
	if err := read("decision", raw, &d); err != nil {
		return Decision{}, err
	}
	return d, nil
}

// inOrder takes names in the order in which encoding/json writes them, each at
// most once: of a member that stands twice encoding/json would keep both in part.
type inOrder []string

func (o *inOrder) take(name []byte) bool {
	for i, want := range *o {
		if string(name) == want {
			*o = (*o)[i+1:]
			return true
		}
	}
	return false
}

func quickDecision(raw []byte, d *Decision) bool {
	order := inOrder{"id", "stage", "tenant", "principal", "asker", "resource", "action", "effect", "policy", "call_id", "evaluated_at",
		"took_us", "request", "trace_id", "plan", "command"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "id":
			return text(v, &d.ID)
		case "stage":
			return text(v, (*string)(&d.Stage))
		case "tenant":
			return text(v, &d.Tenant)
		case "principal":
			return quickPrincipal(v, &d.Principal)
		case "asker":
			return text(v, &d.Asker)
		case "resource":
			return quickResource(v, &d.Resource)
		case "action":
			return text(v, &d.Action)
		case "effect":
			return text(v, (*string)(&d.Effect))
		case "policy":
			return quickPolicy(v, &d.Policy)
		case "call_id":
			return text(v, &d.CallID)
		case "evaluated_at":
			return v[0] == '"' && d.EvaluatedAt.UnmarshalJSON(v) == nil
		case "took_us":
			return integer(v, &d.TookMicros)
		case "request":
			return quickRequest(v, &d.Request)
		case "trace_id":
			return text(v, &d.TraceID)
		case "plan":
			d.Plan = bytes.Clone(v)
			return json.Valid(v)
		case "command":
			d.Command = &CommandRef{}
			return quickCommandRef(v, d.Command)
		}
		return false
	})
}

func quickPrincipal(raw []byte, p *Principal) bool {
	order := inOrder{"id", "version", "roles", "attr"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "id":
			return text(v, &p.ID)
		case "version":
			return integer(v, &p.Version)
		case "roles":
			return texts(v, &p.Roles)
		case "attr":
			return attributes(v, &p.Attr)
		}
		return false
	})
}

func quickResource(raw []byte, r *Resource) bool {
	order := inOrder{"kind", "id", "version", "attr"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "kind":
			return text(v, &r.Kind)
		case "id":
			return text(v, &r.ID)
		case "version":
			return integer(v, &r.Version)
		case "attr":
			return attributes(v, &r.Attr)
		}
		return false
	})
}

func quickPolicy(raw []byte, p *Policy) bool {
	order := inOrder{"matched", "scope", "derived_roles", "revision", "reason"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "matched":
			return text(v, &p.Matched)
		case "scope":
			return text(v, &p.Scope)
		case "derived_roles":
			return texts(v, &p.DerivedRoles)
		case "revision":
			return text(v, &p.Revision)
		case "reason":
			return text(v, &p.Reason)
		}
		return false
	})
}

func quickRequest(raw []byte, r *RequestInfo) bool {
	order := inOrder{"id", "method", "route", "remote"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "id":
			return text(v, &r.ID)
		case "method":
			return text(v, &r.Method)
		case "route":
			return text(v, &r.Route)
		case "remote":
			return text(v, &r.Remote)
		}
		return false
	})
}

func quickCommandRef(raw []byte, c *CommandRef) bool {
	order := inOrder{"id", "sha256", "expires"}
	return Members(raw, func(name, v []byte) bool {
		if !order.take(name) {
			return false
		}
		switch string(name) {
		case "id":
			return text(v, &c.ID)
		case "sha256":
			return text(v, &c.SHA256)
		case "expires":
			return v[0] == '"' && c.Expires.UnmarshalJSON(v) == nil
		}
		return false
	})
}

// integer reads a JSON number without a fraction or an exponent.
func integer(v []byte, into *int64) bool {
	digits := bytes.TrimPrefix(v, []byte("-"))
	if len(digits) == 0 || digits[0] == '0' && len(digits) > 1 || digits[0] == '+' || digits[0] == '-' {
		return false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	*into = n
	return err == nil
}
