package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// tagDigest is how much of the SHA-256 of an answer stands in its tag, in bytes.
const tagDigest = 12

// etag is the entity tag of a row as somebody is shown it: "VERSION" where that is
// all of it, else "VERSION-DIGEST" of what they see, so that one tag never stands
// for two representations (RFC 9110, 8.8.1). If-Match takes both by their version.
func etag(row kind.Row, shown any) (string, error) {
	b, err := json.Marshal(shown)
	if err != nil {
		return "", err
	}
	whole, err := json.Marshal(public(row))
	if err != nil {
		return "", err
	}
	tag := strconv.FormatInt(row.Version, 10)
	if string(b) != string(whole) {
		sum := sha256.Sum256(b)
		tag += "-" + hex.EncodeToString(sum[:tagDigest])
	}
	return `"` + tag + `"`, nil
}

// public is what a row's version stands for: all of it, but of a user only what
// no sync changes without a new version.
func public(row kind.Row) any {
	if u, ok := row.Value.(*user.User); ok {
		return u.Seen(slices.Collect(maps.Keys(u.Tenants))...)
	}
	return row
}

// versionOf reads the version in a tag that etag made.
func versionOf(opaque string) (int64, bool) {
	version, digest, views := strings.Cut(opaque, "-")
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != version {
		return 0, false
	}
	if views {
		sum, err := hex.DecodeString(digest)
		return n, err == nil && len(sum) == tagDigest && digest == strings.ToLower(digest)
	}
	return n, true
}

// judged is what a write's preconditions come to for a row: unmet if it is certainly
// not what they want, else the versions that the command may be applied to, none
// for any. If-Match may name a version that commands on their way will make: the
// worker tells. What the others were judged by is to be there when it is applied, too.
func judged(c request.Conditions, row kind.Row) (versions []int64, unmet bool) {
	unmet = c.Judge(http.MethodPatch, request.Validators{
		Exists: true, Modified: row.UpdatedAt,
		Is: func(opaque string, strong bool) bool {
			version, ok := versionOf(opaque)
			return ok && (version == row.Version || strong && version > row.Version)
		},
	}) == request.Failed
	if c.BeyondIfMatch() {
		return []int64{row.Version}, unmet
	}
	for _, t := range c.IfMatch.List {
		if v, ok := versionOf(t.Opaque); ok && !t.Weak {
			versions = append(versions, v)
		}
	}
	return versions, unmet
}

// judgedFile is judged for an upload. If-Match is about the video's version, or the
// file that it has; If-None-Match about the file, which is what is written to.
func judgedFile(c request.Conditions, row kind.Row) (versions []int64, unmet bool) {
	v := row.Value.(*video.Video)
	file := request.Validators{
		Exists: v.ContentID != nil, Is: func(opaque string, _ bool) bool { return v.SHA256 != nil && opaque == *v.SHA256 },
	}
	if (request.Conditions{IfNoneMatch: c.IfNoneMatch}).Judge(http.MethodPut, file) == request.Failed {
		return nil, true
	}
	if len(c.IfMatch.List) > 0 && (request.Conditions{IfMatch: c.IfMatch}).Judge(http.MethodPut, file) == request.Proceed {
		return []int64{row.Version}, false
	}
	versions, unmet = judged(c.WithoutIfNoneMatch(), row)
	if c.IfNoneMatch.Given && !unmet {
		versions = []int64{row.Version}
	}
	return versions, unmet
}

// conditions reads the preconditions of the request in ctx.
func conditions(ctx context.Context) (request.Conditions, error) {
	return request.ReadConditions(request.HTTP(ctx).Header)
}

// stale is the answer where preconditions fail.
func stale(d *kind.Definition, row kind.Row) error {
	return fault.Conflict(problem.VersionConflict, "%s %s is at version %d", d.Name, row.ID, row.Version)
}

// preconditions judges those of writes that know no version: what is written to is
// there if it can be read, and has no tag. Operations with If-Match judge by themselves.
func (s *Server) preconditions(hc huma.Context, next func(huma.Context)) {
	op := hc.Operation()
	own := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "If-Match" })
	if op.Method == http.MethodGet || own {
		next(hc)
		return
	}
	r, _ := humachi.Unwrap(hc)
	c, err := request.ReadConditions(r.Header)
	if err != nil {
		problem.Answer(s.api, hc, problem.From(hc.Context(), s.Log, err))
		return
	}
	if c.Judge(op.Method, request.Validators{Exists: s.api.OpenAPI().Paths[op.Path].Get != nil}) == request.Failed {
		p := problem.PreconditionFailed()
		p.RequestID = request.Info(hc.Context()).ID
		problem.Answer(s.api, hc, p)
		return
	}
	next(hc)
}
