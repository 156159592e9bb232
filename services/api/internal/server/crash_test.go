package server

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/authz"
)

// crashing is an authorizer with a defect.
type crashing struct{ authz.Authorizer }

func (crashing) Plan(context.Context, authz.PlanRequest) (authz.Plan, error) { panic("a defect") }

// TestACrashIsCounted: it is answered 500, and the metric that the alert looks at says so.
func TestACrashIsCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.authz = crashing{r.authz}
	api := r.api()
	_, token := r.person("sam", "user")
	if a := r.do("GET", api+"/v1/contacts", token, ""); a.status != http.StatusInternalServerError {
		t.Errorf("%d %s", a.status, a.body)
	}
	page := string(r.do("GET", api+"/metrics", "", "").body)
	if !strings.Contains(page, `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="500",http_route="/v1/contacts"} 1`) {
		t.Error("no 500 is counted")
	}
}
