package server

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/problem"
)

// describeContent puts the routes that stream, which huma does not know, into
// the document.
func (s *Server) describeContent() {
	if s.Content == nil {
		return
	}
	sc := schemasOf(s.api, video.Kind)
	raw := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	header := func(name, doc string) *huma.Param {
		return &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	offset := map[string]*huma.Header{
		"Upload-Offset":   required("Bytes that are there: where to go on"),
		"Upload-Complete": required("?0: bytes are missing (a Boolean of RFC 8941)"),
	}
	served := map[string]*huma.Header{
		"ETag": required("The file's SHA-256, in hex"), "Repr-Digest": text("The file's SHA-256 (RFC 9530)"),
		"Accept-Ranges": text("bytes"), "Content-Disposition": text("attachment"), "X-Content-Type-Options": text("nosniff"),
	}
	id := func() *huma.Param {
		return &huma.Param{Name: "id", In: "path", Required: true, Description: "The video's id", Schema: &huma.Schema{Type: huma.TypeString, Format: "uuid"}}
	}

	// Not as describeHeaders would: the 204 here is no command's.
	done := sc.resource("The file is the video's, and waited for")
	done.Headers["Writ-Command"], done.Headers["Preference-Applied"] = required("The command's id"), required("wait (RFC 7240)")
	sc.accepted.Headers["Writ-Command"] = required("The command's id")

	put := s.describe(&huma.Operation{
		OperationID: "upload-video-content", Method: http.MethodPut, Path: pathContent,
		Summary:     "Send a video's file, whole or in pieces",
		Description: "Without Content-Range the body is the file. With it, pieces come in order, each from where the last one ended; a piece from 0 begins anew; a piece that is cut short is kept. A file that is complete is an accepted command. One upload of a video by one principal is under way at a time and is kept for a day.",
		RequestBody: &huma.RequestBody{Description: "Bytes of the file", Content: map[string]*huma.MediaType{"application/octet-stream": raw, "video/*": raw}},
		Parameters: []*huma.Param{id(),
			header("Content-Range", "bytes FIRST-LAST/TOTAL: a piece (RFC 9110, 14.4); bytes */TOTAL: how far has it got?"),
			header("Repr-Digest", "sha-256=:BASE64: of the whole file (RFC 9530); another file is refused"),
			header("Content-Digest", "The same, where the body is the whole file"),
			header("If-Match", "The ETag of the version of the video to change, or of the file that it has"),
			header("If-None-Match", "*: only if the video has no file; or the ETag of a file that is not to be replaced"),
			header("Idempotency-Key", "A retry with the same key is the same command"),
			header("Prefer", "wait=N: answer when the command is done, or after N seconds"),
		},
		Errors: []int{400, 401, 403, 404, 409, 412, 413, 415, 422},
		Responses: map[string]*huma.Response{
			"200": done, "202": sc.accepted,
			"204": {Description: "The piece is kept, the file is not complete", Headers: offset},
		},
	})
	put.Responses["409"].Description = "The piece does not start where the upload has got to (Upload-Offset tells where), there is no upload, or another request is sending it"
	put.Responses["409"].Headers = map[string]*huma.Header{"Upload-Offset": text("Where to go on")}
	put.Responses["413"].Description = "The file is larger than WRIT_MAX_UPLOAD"

	get := s.describe(&huma.Operation{
		OperationID: "get-video-content", Method: http.MethodGet, Path: pathContent, Summary: "Get a video's file",
		Description: "Ranges as in RFC 9110, section 14: one or, as multipart/byteranges, up to 16. Whether the caller may still read is decided again every 30 s; a download that they may not go on with is cut.",
		Parameters:  []*huma.Param{id(), header("Range", "bytes=FIRST-LAST, bytes=FIRST-, bytes=-LAST"), header("If-Range", "The ETag that the range is of"), header("If-None-Match", "Answer 304 if the file is still this one")},
		Errors:      []int{400, 401, 404, 412, 416, 422},
		Responses: map[string]*huma.Response{
			"200": {Description: "The file", Headers: served, Content: map[string]*huma.MediaType{"application/octet-stream": raw, "video/*": raw}},
			"206": {Description: "A range of it", Headers: served, Content: map[string]*huma.MediaType{"application/octet-stream": raw, "video/*": raw, "multipart/byteranges": raw}},
			"304": {Description: "Not modified"},
		},
	})
	get.Responses["416"].Description = "The file has no such range, or too many were asked for"
	get.Responses["416"].Headers = map[string]*huma.Header{"Content-Range": text("bytes */LENGTH: how long the file is")}

	s.describe(&huma.Operation{
		OperationID: "watch-video", Method: http.MethodGet, Path: pathEvents, Summary: "Watch what becomes of a video's file, as server-sent events",
		Description: "Events: status (the video's status and facts; its id is the version), progress (phase upload or probe, done and total bytes), end (reason final, gone, unavailable, stopping or long). A comment every 15 s keeps the connection. Whether the caller may still read is decided again every 30 s.",
		Parameters:  []*huma.Param{id()},
		Errors:      []int{400, 401, 404, 422},
		Responses:   map[string]*huma.Response{"200": {Description: "Events", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}},
	})
}

// describe adds an operation that is served outside huma to the document.
func (s *Server) describe(op *huma.Operation) *huma.Operation {
	op.Tags = []string{video.Kind.Plural}
	op.Errors = append(op.Errors, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable)
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: gate.TenantHeader, In: "header", Description: "The tenant that the request is about; default if it is not given",
		Schema: &huma.Schema{Type: huma.TypeString, Pattern: gate.TenantPattern},
	})
	problem.Describe(s.api, op)
	s.api.OpenAPI().AddOperation(op)
	return op
}
