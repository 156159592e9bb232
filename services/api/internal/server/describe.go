package server

import (
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// describeHeaders puts into the document which answer has which of our headers.
// huma knows them from the type of the output alone and puts them all at the
// default status.
func describeHeaders(doc *huma.OpenAPI) {
	mutations := map[*huma.Operation]bool{}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			accepted, is := op.Responses["202"]
			mutations[op] = is && accepted.Headers["Writ-Command"] != nil && accepted.Headers["Preference-Applied"] != nil
		}
	}
	for op, is := range mutations { // after all of them were looked at: the operations of a kind share their 202
		describeAnswers(op.Responses, is)
	}
}

func describeAnswers(all map[string]*huma.Response, isMutation bool) {
	for status, r := range all {
		if r.Headers == nil {
			r.Headers = map[string]*huma.Header{}
		}
		if r.Headers["Cache-Control"] == nil {
			r.Headers["Cache-Control"] = text("private, no-cache, with Vary: Authorization, Cookie, Writ-Tenant; no-store for a request with the session's cookie")
		}
		r.Headers["X-Request-ID"] = required("The request's own id, if it had a reasonable one")
		if status == "304" {
			r.Headers["ETag"] = required("The tag of what the caller has")
		}
		if !isMutation || !strings.HasPrefix(status, "2") {
			continue
		}
		r.Headers["Writ-Command"] = required("The command's id")
		if status == "202" {
			r.Headers["Location"] = required("The command")
			delete(r.Headers, "ETag") // there is no version yet, and nothing was waited for
			delete(r.Headers, "Preference-Applied")
			continue
		}
		r.Headers["Preference-Applied"] = required("wait (RFC 7240)")
		if status == "201" {
			r.Headers["Location"] = required("The resource")
		}
	}
}

// required describes a header that is always there.
func required(description string) *huma.Header {
	h := text(description)
	h.Required = true
	return h
}
