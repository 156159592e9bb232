package events

import (
	"slices"
	"strings"
)

// acts are what a request that only reads can be about; another action is one that it was asked about.
var acts = []string{"list", "read", "export", "verify", "tail", "stream"}

// IsQuestion reports whether a decision answered what somebody may do, where nobody was about to do it: the plans of
// GET /v1/me, the permissions of ?include=permissions, fields and rows that an answer leaves out, AuthZEN's evaluations.
// Its denial refused no request.
func (d *Decision) IsQuestion() bool {
	route := d.Request.Route
	switch {
	case d.Command != nil || d.Stage == StageApply || d.Request.Method == "": // an act, of a client or of the worker
		return false
	case strings.HasPrefix(route, "/access/"):
		return d.Resource.Kind != "authzen" // which is leave to ask
	case strings.HasPrefix(d.Action, "view:"):
		return true
	case strings.HasPrefix(route, "/v1/me"):
		return len(d.Plan) > 0
	case d.Request.Method != "GET" && d.Request.Method != "HEAD":
		return false
	case !slices.Contains(acts, d.Action):
		return true
	}
	// One of the rows that a list looked at; * stands for all of them.
	return d.Resource.ID != "" && d.Resource.ID != "*" && d.Resource.Kind != "audit" && !strings.Contains(route, "{")
}
