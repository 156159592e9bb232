package server

import (
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// describeHeaders puts into the document which answer has which of our headers.
// huma knows them from the type of the output alone and puts them all at the
// default status.
func describeHeaders(doc *huma.OpenAPI) {
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				describeAnswers(op.Responses)
			}
		}
	}
}

func describeAnswers(all map[string]*huma.Response) {
	accepted, isMutation := all["202"]
	isMutation = isMutation && accepted.Headers["Writ-Command"] != nil && accepted.Headers["Preference-Applied"] != nil
	for status, r := range all {
		if r.Headers == nil {
			r.Headers = map[string]*huma.Header{}
		}
		if r.Headers["Cache-Control"] == nil {
			r.Headers["Cache-Control"] = text("no-store, for a request with the session's cookie")
		}
		r.Headers["X-Request-ID"] = required("The request's own id, if it had a reasonable one")
		if status == "304" {
			r.Headers["ETag"] = required("The version")
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
