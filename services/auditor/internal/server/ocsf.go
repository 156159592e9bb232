package server

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/writ-project/writ/pkg/events"
)

// The class of the events: API Activity of OCSF 1.8 (https://schema.ocsf.io/1.8.0/classes/api_activity).
const (
	ocsfVersion  = "1.8.0"
	ocsfCategory = 6 // Application Activity
	ocsfClass    = 6003
)

// ocsfEvent is a decision as an event of the class, with the profile
// security_control, to which the disposition belongs.
type ocsfEvent struct {
	ActivityID    int            `json:"activity_id"`
	ActivityName  string         `json:"activity_name"`
	CategoryUID   int            `json:"category_uid"`
	CategoryName  string         `json:"category_name"`
	ClassUID      int            `json:"class_uid"`
	ClassName     string         `json:"class_name"`
	TypeUID       int            `json:"type_uid"`
	SeverityID    int            `json:"severity_id"`
	Time          int64          `json:"time"` // ms since 1970
	StatusID      int            `json:"status_id"`
	ActionID      int            `json:"action_id"`
	DispositionID int            `json:"disposition_id"`
	Message       string         `json:"message,omitempty"`
	Metadata      ocsfMetadata   `json:"metadata"`
	Actor         ocsfActor      `json:"actor"`
	API           ocsfAPI        `json:"api"`
	Source        ocsfEndpoint   `json:"src_endpoint"`
	HTTPRequest   *ocsfHTTP      `json:"http_request,omitempty"`
	Resources     []ocsfResource `json:"resources"`
	// RawData is the decision's bytes: what the leaf hash is of.
	RawData  string       `json:"raw_data"`
	Unmapped ocsfUnmapped `json:"unmapped"`
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	Product        ocsfProduct `json:"product"`
	Profiles       []string    `json:"profiles"`
	LogName        string      `json:"log_name"`
	UID            string      `json:"uid"`
	CorrelationUID string      `json:"correlation_uid,omitempty"`
	TenantUID      string      `json:"tenant_uid"`
	LoggedTime     int64       `json:"logged_time"`
	Sequence       uint64      `json:"sequence"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
}

type ocsfActor struct {
	User           ocsfUser            `json:"user"`
	Authorizations []ocsfAuthorization `json:"authorizations"`
}

type ocsfUser struct {
	UID    string      `json:"uid"`
	TypeID int         `json:"type_id"`
	Groups []ocsfGroup `json:"groups,omitempty"`
}

type ocsfGroup struct {
	Name string `json:"name"`
}

type ocsfAuthorization struct {
	Decision string     `json:"decision"`
	Policy   ocsfPolicy `json:"policy"`
}

type ocsfPolicy struct {
	Name    string `json:"name"`
	Desc    string `json:"desc,omitempty"`
	Version string `json:"version,omitempty"`
}

type ocsfAPI struct {
	Operation string      `json:"operation"`
	Service   ocsfService `json:"service"`
	Request   ocsfRequest `json:"request"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfRequest struct {
	UID string `json:"uid"`
}

// ocsfEndpoint has an address, or a name where none was recorded: one is required.
type ocsfEndpoint struct {
	IP   string `json:"ip,omitempty"`
	Name string `json:"name,omitempty"`
}

type ocsfHTTP struct {
	Method string `json:"http_method"`
	UID    string `json:"uid"`
}

type ocsfResource struct {
	Type    string `json:"type"`
	UID     string `json:"uid,omitempty"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// ocsfUnmapped is what OCSF has no place for: the proof.
type ocsfUnmapped struct {
	Index      int64          `json:"index"`
	LeafHash   string         `json:"leaf_hash"`
	Seal       string         `json:"seal,omitempty"`
	Checkpoint ocsfCheckpoint `json:"checkpoint"`
	Stage      events.Stage   `json:"stage"`
	Command    string         `json:"command,omitempty"`
	Route      string         `json:"route,omitempty"`
}

// ocsfCheckpoint is the tree that the leaf is in; the signed note is in the header.
type ocsfCheckpoint struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   string `json:"root"`
	Note   string `json:"note,omitempty"` // in the first event only
}

type ocsf struct{ jsonl }

func newOCSF(s *sink, x *export) format { return &ocsf{jsonl{s, x}} }

func (f *ocsf) end() error { return nil } // every line is an event

func (f *ocsf) entry(e found) error {
	var d events.Decision
	if err := json.Unmarshal(e.Record, &d); err != nil {
		return err
	}
	c := f.export.checkpoint
	id, name := activity(&d)
	out := ocsfEvent{
		ActivityID: id, ActivityName: name, CategoryUID: ocsfCategory, CategoryName: "Application Activity", ClassUID: ocsfClass, ClassName: "API Activity",
		TypeUID: ocsfClass*100 + id, SeverityID: 1, Time: d.EvaluatedAt.UnixMilli(), StatusID: 1, ActionID: 1, DispositionID: 1, Message: d.Policy.Reason,
		Metadata: ocsfMetadata{
			Version: ocsfVersion, Product: ocsfProduct{"writ", "writ", f.export.Version}, Profiles: []string{"security_control"}, LogName: "writ:decisions",
			UID: d.ID, CorrelationUID: d.TraceID, TenantUID: d.Tenant, LoggedTime: at(e.Entry.ID).UnixMilli(), Sequence: e.Entry.ID.Sequence,
		},
		Actor: ocsfActor{
			User:           ocsfUser{UID: d.Principal.ID, TypeID: 1},
			Authorizations: []ocsfAuthorization{{"allowed", ocsfPolicy{d.Policy.Matched, d.Policy.Reason, d.Policy.Revision}}},
		},
		API:       ocsfAPI{d.Resource.Kind + "." + d.Action, ocsfService{"writ"}, ocsfRequest{d.Request.ID}},
		Source:    endpoint(d),
		Resources: []ocsfResource{resource(d)},
		RawData:   string(e.Record),
		Unmapped: ocsfUnmapped{
			Index: e.Index, LeafHash: leafHash(e.LeafHash()), Seal: e.Seal, Stage: d.Stage, Route: d.Request.Route,
			Checkpoint: ocsfCheckpoint{Origin: c.Origin, Size: c.Tree.N, Root: c.Tree.Hash.String()},
		},
	}
	for _, role := range d.Principal.Roles {
		out.Actor.User.Groups = append(out.Actor.User.Groups, ocsfGroup{role})
	}
	if d.Policy.Matched == "" { // nothing matched, or nothing was asked
		out.Actor.Authorizations[0].Policy.Name = "none"
	}
	if d.Effect != events.Allow { // Failure, Denied, Blocked
		out.StatusID, out.ActionID, out.DispositionID, out.Actor.Authorizations[0].Decision = 2, 2, 2, "denied"
	}
	if d.IsQuestion() { // it was answered (Success), and nothing was let through or stopped: Observed, Logged
		out.StatusID, out.ActionID, out.DispositionID = 1, 3, 17
	}
	if d.Request.Method != "" {
		out.HTTPRequest = &ocsfHTTP{d.Request.Method, d.Request.ID}
	}
	if d.Command != nil {
		out.Unmapped.Command = d.Command.ID
	}
	if f.export.written == 1 {
		out.Unmapped.Checkpoint.Note = string(c.Note)
	}
	return f.line(out)
}

// activity is the kind of activity that a decision was about. What changes something is one only where a command was
// permitted or a request refused: the rest, as questions about permissions, has done nothing.
func activity(d *events.Decision) (id int, name string) {
	switch action := d.Action; {
	case d.IsQuestion():
		return 99, "Ask whether " + action + " is permitted"
	case action == "read" || action == "list" || strings.HasPrefix(action, "view"):
		return 2, "Read"
	case d.Command == nil && d.Effect == events.Allow:
	case action == "create":
		return 1, "Create"
	case action == "update":
		return 3, "Update"
	case action == "delete":
		return 4, "Delete"
	}
	return 99, d.Action // Other: its name is the source's own
}

func endpoint(d events.Decision) ocsfEndpoint {
	if _, err := netip.ParseAddr(d.Request.Remote); err == nil {
		return ocsfEndpoint{IP: d.Request.Remote}
	}
	return ocsfEndpoint{Name: "unknown"}
}

func resource(d events.Decision) ocsfResource {
	name := d.Resource.Kind
	if d.Resource.ID != "" {
		name += "/" + d.Resource.ID
	}
	return ocsfResource{Type: d.Resource.Kind, UID: d.Resource.ID, Name: name}
}
