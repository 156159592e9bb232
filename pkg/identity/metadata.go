package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/writ-project/writ/pkg/kind/user"
)

// Memberships are kept in Stytch's trusted_metadata, those of the default
// tenant on top and those of others beneath:
//
//	{"roles": ["user"], "attr": {"region": "eu-east-1"},
//	 "tenants": {"acme": {"roles": ["manager"], "attr": {}}},
//	 "writ": {"roles_command": "<id>"}}
//
// writ.roles_command is the command that wrote them last, if one did. It tells
// whether what was read here is from before or after a role change.
//
// Other top-level keys are somebody else's: they are passed over when reading
// and kept when writing, because Stytch merges at the top level.
const (
	rolesKey   = "roles"
	attrKey    = "attr"
	tenantsKey = "tenants"
	ownKey     = "writ"
	commandKey = "roles_command"
)

// MaxMetadata is the most that Stytch keeps of trusted_metadata, in bytes of
// JSON (https://stytch.com/docs/api/metadata).
const MaxMetadata = 4096

// NoCommand is written in the place of a command to take the one away that is there.
const NoCommand = "none"

// EncodeMetadata gives the trusted_metadata that replaces all memberships: a
// nil takes a key away. A membership without roles and attributes is none.
// command is the id of the command that does so; with "" the one that is
// there stays.
func EncodeMetadata(tenants map[string]user.Membership, command string) map[string]any {
	md := map[string]any{rolesKey: nil, attrKey: nil, tenantsKey: nil}
	others := map[string]any{}
	for tenant, m := range tenants {
		if len(m.Roles) == 0 && len(m.Attr) == 0 {
			continue
		}
		entry := map[string]any{rolesKey: append([]string{}, m.Roles...)}
		if len(m.Attr) > 0 {
			entry[attrKey] = m.Attr
		}
		if tenant != user.DefaultTenant {
			others[tenant] = entry
			continue
		}
		for k, v := range entry {
			md[k] = v
		}
	}
	if len(others) > 0 {
		md[tenantsKey] = others
	}
	if command != "" {
		md[ownKey] = map[string]any{commandKey: command}
	}
	return md
}

// commandIn gives the command that wrote the memberships last, "" for none.
// What is there instead of a command's id is of nobody's making but a human's.
func commandIn(md map[string]any) string {
	own, _ := md[ownKey].(map[string]any)
	id, _ := own[commandKey].(string)
	if id == NoCommand {
		return ""
	}
	return id
}

// membership is a user.Membership as it is read: strictly.
type membership struct {
	Roles []string       `json:"roles"`
	Attr  map[string]any `json:"attr"`
}

// DecodeMetadata reads memberships out of trusted_metadata. What cannot be
// read is an error: half of somebody's attributes is not less than all of
// them, because policies deny by attributes, too.
func DecodeMetadata(md map[string]any) (map[string]user.Membership, error) {
	tenants := map[string]user.Membership{}
	top := map[string]any{}
	for _, k := range []string{rolesKey, attrKey} {
		if v, ok := md[k]; ok {
			top[k] = v
		}
	}
	if err := decodeMembership(tenants, user.DefaultTenant, top); err != nil {
		return nil, err
	}
	others, ok := md[tenantsKey].(map[string]any)
	if !ok && md[tenantsKey] != nil {
		return nil, errors.New("trusted_metadata: tenants is not an object")
	}
	for tenant, v := range others {
		if tenant == "" || tenant == user.DefaultTenant {
			return nil, fmt.Errorf("trusted_metadata: tenants names the tenant %q", tenant)
		}
		if err := decodeMembership(tenants, tenant, v); err != nil {
			return nil, err
		}
	}
	return tenants, nil
}

func decodeMembership(into map[string]user.Membership, tenant string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("trusted_metadata: tenant %q: %w", tenant, err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var m *membership
	if err := d.Decode(&m); err != nil {
		return fmt.Errorf("trusted_metadata: tenant %q: %w", tenant, err)
	}
	if m == nil {
		return fmt.Errorf("trusted_metadata: tenant %q is null", tenant)
	}
	for _, r := range m.Roles {
		if r == "" { // a null in the list, too
			return fmt.Errorf("trusted_metadata: tenant %q: an empty role", tenant)
		}
	}
	if len(m.Roles) > 0 || len(m.Attr) > 0 {
		into[tenant] = user.Membership{Roles: m.Roles, Attr: m.Attr}
	}
	return nil
}
