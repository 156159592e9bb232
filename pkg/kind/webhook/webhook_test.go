package webhook_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func created(t *testing.T, body string) kind.Row {
	t.Helper()
	r, err := webhook.Kind.Create("w1", "acme", "amy", json.RawMessage(body), noon)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func act(t *testing.T, r kind.Row, action, body string, at time.Time) (kind.Row, *webhook.Webhook, error) {
	t.Helper()
	next, err := webhook.Kind.Act(r, action, kind.By{PrincipalID: "amy", At: at, Body: json.RawMessage(body)})
	if err != nil {
		return r, r.Value.(*webhook.Webhook), err
	}
	return next, next.Value.(*webhook.Webhook), nil
}

// TestLifeOfAWebhook also pins the bodies of version 1; "later" is a member of a later version.
func TestLifeOfAWebhook(t *testing.T) {
	r := created(t, `{"url":"https://example.com/","secret_id":"s1","secret_key":"k1"}`)
	w := r.Value.(*webhook.Webhook)
	if w.Status != webhook.Active || w.Kinds == nil || !w.Since().Equal(noon) {
		t.Errorf("%+v", w)
	}
	if _, _, err := act(t, r, webhook.ActionEnable, "", noon); !fault.Is(err, fault.KindConflict) {
		t.Errorf("enabled although it is: %v", err)
	}
	trouble := `{"reason":"gone","last_error":"410","attempts":3,"since":"2026-11-22T12:30:00Z","later":{"x":1}}`
	r, w, err := act(t, r, webhook.ActionDisable, trouble, noon.Add(time.Hour))
	if err != nil || w.Status != webhook.Disabled || *w.DisabledReason != "gone" || *w.LastError != "410" || *w.Attempts != 3 || !w.DisabledAt.Equal(noon.Add(time.Hour)) {
		t.Fatalf("%+v %v", w, err)
	}
	if _, _, err := act(t, r, webhook.ActionDisable, trouble, noon.Add(time.Hour)); !fault.Is(err, fault.KindConflict) {
		t.Errorf("disabled twice: %v", err)
	}
	r, w, err = act(t, r, webhook.ActionEnable, "", noon.Add(2*time.Hour))
	if err != nil || w.Status != webhook.Active || w.DisabledReason != nil || w.LastError != nil || w.Attempts != nil || !w.Since().Equal(noon.Add(2*time.Hour)) {
		t.Fatalf("%+v %v", w, err)
	}
	// What was before it was enabled disables it no more, however late it comes.
	if _, _, err := act(t, r, webhook.ActionDisable, trouble, noon.Add(3*time.Hour)); !fault.Is(err, fault.KindConflict) {
		t.Errorf("disabled for what was before: %v", err)
	}
	for _, bad := range []string{`{}`, `{"secret_id":"s2","secret_key":"k1","overlap":-1}`, `{"secret_id":"s2","secret_key":"k1","overlap":86401}`, `[]`} {
		if _, _, err := act(t, r, webhook.ActionRotate, bad, noon); err == nil {
			t.Errorf("rotated by %s", bad)
		}
	}
	r, w, err = act(t, r, webhook.ActionRotate, `{"secret_id":"s2","secret_key":"k2","overlap":60,"later":1}`, noon)
	if err != nil || w.SecretID != "s2" || w.SecretKey != "k2" || *w.PreviousSecretID != "s1" || *w.PreviousSecretKey != "k1" || !w.PreviousUntil.Equal(noon.Add(time.Minute)) {
		t.Fatalf("%+v %v", w, err)
	}
	if _, w, err = act(t, r, webhook.ActionRotate, `{"secret_id":"s3","secret_key":"k2","overlap":0}`, noon); err != nil || w.PreviousSecretID != nil || w.PreviousUntil != nil {
		t.Errorf("%+v %v", w, err)
	}
}

func TestSecretsFollowFromTheSealKey(t *testing.T) {
	one, two := events.GenerateKey("k1"), events.GenerateKey("k2")
	keys := ring(t, one)
	secret, err := webhook.Secret(keys, "k1", "w1", "s1")
	if err != nil || !strings.HasPrefix(secret, "whsec_") || len(secret) != len("whsec_")+44 {
		t.Fatalf("%s %v", secret, err)
	}
	rotated := ring(t, two+","+one)
	same, err := webhook.Secret(rotated, "k1", "w1", "s1")
	if err != nil || same != secret {
		t.Errorf("after the seal keys were rotated: %v", err)
	}
	seen := map[string]bool{secret: true}
	for _, other := range [][3]string{{"k2", "w1", "s1"}, {"k1", "w2", "s1"}, {"k1", "w1", "s2"}} {
		s, err := webhook.Secret(rotated, other[0], other[1], other[2])
		if err != nil || seen[s] {
			t.Errorf("%v: %v", other, err)
		}
		seen[s] = true
	}
	if _, err := webhook.Secret(ring(t, two), "k1", "w1", "s1"); err == nil {
		t.Error("a secret of a key that is gone")
	}

	w := &webhook.Webhook{Meta: kind.Meta{ID: "w1"}, SecretID: "s2", SecretKey: "k2"}
	before, key, until := "s1", "k1", noon
	w.PreviousSecretID, w.PreviousSecretKey, w.PreviousUntil = &before, &key, &until
	for at, want := range map[time.Time]int{noon.Add(-time.Second): 2, noon: 1} {
		if got, err := w.Keys(rotated, at); err != nil || len(got) != want {
			t.Errorf("%s: %d keys, %v", at, len(got), err)
		}
	}
	if got, err := w.Keys(ring(t, two), noon.Add(-time.Second)); err != nil || len(got) != 1 {
		t.Errorf("without the key of the one before: %d keys, %v", len(got), err)
	}
}

func TestFilters(t *testing.T) {
	outcome := func(tenant, kind, action string, status events.Status) *events.Event {
		return &events.Event{Type: events.TypeOutcome, Outcome: events.Outcome{Tenant: tenant, Kind: kind, Action: action, Status: status}}
	}
	decision := func(effect events.Effect) *events.Event {
		return &events.Event{Type: events.TypeDecision, Decision: events.Decision{Tenant: "acme", Resource: events.Resource{Kind: "contact"}, Action: "read", Effect: effect}}
	}
	for what, c := range map[string]struct {
		body string
		e    *events.Event
		want bool
	}{
		"everything":            {`{}`, outcome("acme", "contact", "create", "applied"), true},
		"a denial":              {`{}`, decision(events.Deny), true},
		"what was allowed":      {`{}`, decision(events.Allow), false},
		"a writ":                {`{}`, &events.Event{Type: events.TypeWrit}, false},
		"another tenant":        {`{}`, outcome("globex", "contact", "create", "applied"), false},
		"a webhook's own":       {`{"kinds":["webhook"]}`, outcome("acme", "webhook", "disable", "applied"), false},
		"its kind":              {`{"kinds":["video","contact"]}`, outcome("acme", "contact", "create", "applied"), true},
		"another kind":          {`{"kinds":["video"]}`, outcome("acme", "contact", "create", "applied"), false},
		"another action":        {`{"actions":["delete"]}`, outcome("acme", "contact", "create", "applied"), false},
		"its result":            {`{"results":["deny"]}`, decision(events.Deny), true},
		"another result":        {`{"results":["applied","deny"]}`, outcome("acme", "contact", "create", "failed"), false},
		"one of three does not": {`{"kinds":["contact"],"actions":["create"],"results":["failed"]}`, outcome("acme", "contact", "create", "applied"), false},
	} {
		w := created(t, c.body).Value.(*webhook.Webhook)
		if got := w.Matches(c.e); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
		if w.Status = webhook.Disabled; w.Matches(c.e) {
			t.Errorf("%s: although it is disabled", what)
		}
	}
}

func ring(t *testing.T, text string) *events.Keyring {
	t.Helper()
	k, err := events.ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
