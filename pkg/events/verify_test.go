package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// assemble builds a writ by hand, as somebody who can write to NATS would:
// from a decision and a command of their choice and a seal that fits, or not.
func assemble(t *testing.T, id string, decision, command []byte, s events.Seal) *events.Event {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": id, "source": "/writ/api", "type": events.TypeWrit, "time": at,
		"data": map[string]any{"decision": json.RawMessage(decision), "command": json.RawMessage(command), "seal": s},
	})
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, data)
}

// raw is JSON without HTML escapes, so that json.Marshal in assemble keeps it.
func raw(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

// TestWritsThatDoNotFitAreRefused: promise 9, one difference at a time. The
// seal always fits, as if the api itself had made the mistake.
func TestWritsThatDoNotFitAreRefused(t *testing.T) {
	k := ring(t, key1)
	cases := map[string]struct {
		change func(d *events.Decision, c *events.Command) // before the digest is taken
		after  func(d *events.Decision)                    // after it
		id     string
		move   func(subject string) string
		want   error
	}{
		"nothing":                 {},
		"principal":               {change: func(_ *events.Decision, c *events.Command) { c.PrincipalID = "user-2" }, want: events.ErrMismatch},
		"action":                  {change: func(_ *events.Decision, c *events.Command) { c.Action = "delete" }, want: events.ErrMismatch},
		"resource":                {change: func(_ *events.Decision, c *events.Command) { c.ResourceID = "other" }, want: events.ErrMismatch},
		"kind":                    {change: func(_ *events.Decision, c *events.Command) { c.Kind = "user" }, want: events.ErrMismatch},
		"tenant":                  {change: func(_ *events.Decision, c *events.Command) { c.Tenant = "globex" }, want: events.ErrMismatch},
		"decision of a principal": {change: func(d *events.Decision, _ *events.Command) { d.Principal.ID = "user-2" }, want: events.ErrMismatch},
		"denied":                  {change: func(d *events.Decision, _ *events.Command) { d.Effect = events.Deny }, want: events.ErrMismatch},
		"unknown effect":          {change: func(d *events.Decision, _ *events.Command) { d.Effect = "ALLOW" }, want: events.ErrMismatch},
		"stage apply":             {change: func(d *events.Decision, _ *events.Command) { d.Stage = events.StageApply }, want: events.ErrMismatch},
		"no stage":                {change: func(d *events.Decision, _ *events.Command) { d.Stage = "" }, want: events.ErrMismatch},
		"digest":                  {after: func(d *events.Decision) { d.Command.SHA256 = events.Digest(nil) }, want: events.ErrMismatch},
		"digest in capitals":      {after: func(d *events.Decision) { d.Command.SHA256 = strings.ToUpper(d.Command.SHA256) }, want: events.ErrMismatch},
		"command id":              {after: func(d *events.Decision) { d.Command.ID = "other" }, want: events.ErrMismatch},
		"permits no command":      {after: func(d *events.Decision) { d.Command = nil }, want: events.ErrMismatch},
		"event id":                {id: "other", want: events.ErrMismatch},
		"subject: decisions":      {move: func(string) string { return events.SubjectDecisions }, want: events.ErrMismatch},
		"subject: outcomes":       {move: func(string) string { return events.OutcomeSubject(1) }, want: events.ErrMismatch},
		"subject: no shard":       {move: func(string) string { return "writ.cmd." }, want: events.ErrMismatch},
		"subject: none":           {move: func(string) string { return "" }, want: events.ErrMismatch},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := decision()
			cmd := commandOf(d)
			cmd.Body = json.RawMessage(`{"first_name":"Zoe"}`)
			if c.change != nil {
				c.change(d, cmd)
			}
			command := raw(t, cmd)
			d.Command = &events.CommandRef{ID: cmd.ID, SHA256: events.Digest(command), Expires: at}
			if c.after != nil {
				c.after(d)
			}
			id := cmd.ID
			if c.id != "" {
				id = c.id
			}
			subject := events.CommandSubject(1)
			if c.move != nil {
				subject = c.move(subject)
			}
			sealed := raw(t, d)
			if err := assemble(t, id, sealed, command, k.Seal(sealed)).Verify(k, subject); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestDecisionOfAnotherWritIsRefused(t *testing.T) {
	k := ring(t, key1)
	d1, d2 := decision(), decision()
	c1, c2 := commandOf(d1), commandOf(d2)
	c2.ID, c2.Body = "019d0000-0000-7000-8000-0000000000dd", json.RawMessage(`{"first_name":"Mallory"}`)
	one, two := writ(t, k, d1, c1), writ(t, k, d2, c2)
	e1, e2 := parse(t, one.Data), parse(t, two.Data)

	forged := *e2
	forged.RawDecision, forged.Decision, forged.Seal = e1.RawDecision, e1.Decision, e1.Seal
	if err := forged.Verify(k, subjectOf(two)); !errors.Is(err, events.ErrMismatch) {
		t.Errorf("another's decision and seal: %v", err)
	}
	forged.Seal = e2.Seal
	if err := forged.Verify(k, subjectOf(two)); !errors.Is(err, events.ErrSeal) {
		t.Errorf("another's decision, own seal: %v", err)
	}
	replaced := bytes.Replace(two.Data, []byte("Mallory"), []byte("Malcolm"), 1)
	if err := parse(t, replaced).Verify(k, subjectOf(two)); !errors.Is(err, events.ErrMismatch) {
		t.Errorf("changed body: %v", err)
	}
}

// TestDecisionTakenOutOfAWritIsRefused: it stands on the ledger already, with
// its command; alone it would be recorded twice.
func TestDecisionTakenOutOfAWritIsRefused(t *testing.T) {
	k := ring(t, key1)
	d := decision()
	e := parse(t, writ(t, k, d, commandOf(d)).Data)
	m, err := events.DecisionMessage(k, events.SourceAPI, &e.Decision, e.RawDecision)
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, m.Data).Verify(k, subjectOf(m)); !errors.Is(err, events.ErrMismatch) {
		t.Errorf("%v, want %v", err, events.ErrMismatch)
	}
	// The second decision about a command stands alone: it was taken at apply.
	d.Stage = events.StageApply
	if m, err = events.NewDecision(k, events.SourceAPI, d); err != nil {
		t.Fatal(err)
	}
	if err := parse(t, m.Data).Verify(k, events.OutcomeSubject(1)); err != nil {
		t.Error(err)
	}
	if err := parse(t, m.Data).Verify(k, events.SubjectDecisions); !errors.Is(err, events.ErrMismatch) {
		t.Errorf("a second decision among those of requests: %v, want %v", err, events.ErrMismatch)
	}
}

// TestACommandInAnotherShardIsRefused: there it would leave its resource's order.
func TestACommandInAnotherShardIsRefused(t *testing.T) {
	d := decision()
	e := parse(t, writ(t, ring(t, key1), d, commandOf(d)).Data)
	for _, shards := range []int{1, 2, 4, 16} {
		own := events.Shard(d.Resource.ID, shards)
		for shard := range shards {
			if err := e.InShard(shard, shards); (err == nil) != (shard == own) || err != nil && !errors.Is(err, events.ErrMismatch) {
				t.Errorf("in shard %d of %d: %v; its own is %d", shard, shards, err, own)
			}
		}
	}
}

func TestDecisionsAndOutcomesThatDoNotFitAreRefused(t *testing.T) {
	k := ring(t, key1)
	all := examples(t)
	for name, wrong := range map[string]string{
		"decision": events.OutcomeSubject(1),
		"outcome":  events.SubjectDecisions,
	} {
		m := all[name]
		if err := parse(t, m.Data).Verify(k, wrong); !errors.Is(err, events.ErrMismatch) {
			t.Errorf("%s on another subject: %v", name, err)
		}
		e := parse(t, m.Data)
		e.ID = "other"
		if err := e.Verify(k, subjectOf(m)); !errors.Is(err, events.ErrMismatch) {
			t.Errorf("%s with another id: %v", name, err)
		}
	}
	forged := bytes.Replace(all["outcome"].Data, []byte(`"status":"applied"`), []byte(`"status":"rejected"`), 1)
	if err := parse(t, forged).Verify(k, events.OutcomeSubject(1)); !errors.Is(err, events.ErrSeal) {
		t.Errorf("forged outcome: %v", err)
	}
	forged = bytes.Replace(all["decision"].Data, []byte(`"effect":"deny"`), []byte(`"effect":"allow"`), 1)
	if err := parse(t, forged).Verify(k, events.SubjectDecisions); !errors.Is(err, events.ErrSeal) {
		t.Errorf("forged decision: %v", err)
	}
	// A seal is over the record alone: a decision's must not pass as an outcome's.
	d := parse(t, all["decision"].Data)
	data, err := json.Marshal(map[string]any{"specversion": "1.0", "id": d.ID, "type": events.TypeOutcome, "time": at,
		"data": map[string]any{"outcome": d.RawDecision, "seal": d.Seal}})
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, data).Verify(k, events.OutcomeSubject(1)); err == nil {
		t.Error("a decision passes as an outcome")
	}
}

func TestEverySealedByteCounts(t *testing.T) {
	k := ring(t, key1)
	for name, m := range examples(t) {
		e := parse(t, m.Data)
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for i := range e.Seal.MAC {
			flipped := []byte(e.Seal.MAC)
			flipped[i] = alphabet[strings.IndexByte(alphabet, flipped[i])^1]
			bad := *e
			bad.Seal.MAC = string(flipped)
			if err := bad.Verify(k, subjectOf(m)); !errors.Is(err, events.ErrSeal) {
				t.Errorf("%s: seal flipped at %d: %v", name, i, err)
			}
		}
		for what, mac := range map[string]string{
			"none": "", "cut": e.Seal.MAC[:20], "longer": e.Seal.MAC + "AAAA", "padded": e.Seal.MAC + "=", "broken": e.Seal.MAC[:42] + "\n" + e.Seal.MAC[42:],
		} {
			bad := *e
			bad.Seal.MAC = mac
			if err := bad.Verify(k, subjectOf(m)); !errors.Is(err, events.ErrSeal) {
				t.Errorf("%s: seal %s: %v", name, what, err)
			}
		}
		for _, id := range []string{"", "k2", "K1"} {
			bad := *e
			bad.Seal.KeyID = id
			if err := bad.Verify(k, subjectOf(m)); !errors.Is(err, events.ErrSeal) {
				t.Errorf("%s: key %q: %v", name, id, err)
			}
		}
		record := &e.RawDecision
		if e.Type == events.TypeOutcome {
			record = &e.RawOutcome
		}
		whole := *record
		for i := range whole {
			*record = bytes.Clone(whole)
			(*record)[i] ^= 1
			if err := e.Verify(k, subjectOf(m)); !errors.Is(err, events.ErrSeal) {
				t.Fatalf("%s: byte %d flipped: %v", name, i, err)
			}
		}
	}
}

func TestKeysRotate(t *testing.T) {
	old, both, only := ring(t, key1), ring(t, key2+", "+key1), ring(t, key2)
	record := []byte("record")
	before, after := old.Seal(record), both.Seal(record)
	if before.KeyID != "k1" || after.KeyID != "k2" {
		t.Fatalf("sealed with %s, then %s", before.KeyID, after.KeyID)
	}
	for name, c := range map[string]struct {
		ring *events.Keyring
		seal events.Seal
		want error
	}{
		"new ring, old seal":          {both, before, nil},
		"new ring, new seal":          {both, after, nil},
		"old ring, new seal":          {old, after, events.ErrSeal},
		"old key dropped, old seal":   {only, before, events.ErrSeal},
		"the other key under this id": {ring(t, "k1:"+strings.TrimPrefix(key2, "k2:")), before, events.ErrSeal},
	} {
		if err := c.ring.Verify(record, c.seal); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyringsAreReadStrictly(t *testing.T) {
	good := strings.TrimPrefix(key1, "k1:")
	for _, text := range []string{
		"", ",", "k1", ":" + good, "k1:", "k1:AAAA", "k1:" + good[:40], "k1:not base64 at all, really not ........",
		key1 + ",", key1 + "," + key1, key1 + ",k1:" + strings.TrimPrefix(key2, "k2:"),
	} {
		if _, err := events.ParseKeyring(text); err == nil {
			t.Errorf("%q was taken", text)
		} else if strings.Contains(err.Error(), good) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
	for _, text := range []string{key1, key2, key1 + "=", events.GenerateKey("a"), events.GenerateKey("b") + "," + events.GenerateKey("c")} {
		if _, err := events.ParseKeyring(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if one, two := events.GenerateKey("a"), events.GenerateKey("a"); one == two {
		t.Error("two keys are the same")
	}
}

func TestExpiryIsJudgedWithLeeway(t *testing.T) {
	d := decision()
	e := parse(t, writ(t, ring(t, key1), d, commandOf(d)).Data) // expires an hour after at
	end := at.Add(time.Hour)
	for _, c := range []struct {
		now  time.Time
		want error
	}{
		{at, nil}, {end, nil}, {end.Add(events.Leeway), nil},
		{end.Add(events.Leeway + time.Nanosecond), events.ErrExpired}, {end.AddDate(1, 0, 0), events.ErrExpired},
		{at.AddDate(-1, 0, 0), nil}, // a clock that steps back does not refuse
	} {
		if err := e.Expired(c.now); !errors.Is(err, c.want) {
			t.Errorf("at %s: %v", c.now, err)
		}
	}
	if err := parse(t, examples(t)["decision"].Data).Expired(end.AddDate(9, 0, 0)); err != nil {
		t.Errorf("a decision that permits no command expires: %v", err)
	}
}

func TestDerivedKeysAreOfTheirPurpose(t *testing.T) {
	a, b := events.GenerateKey("a"), events.GenerateKey("b")
	derive := func(ring, purpose string) [][]byte {
		t.Helper()
		k, err := events.ParseKeyring(ring)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := k.Derive(purpose)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	one, two := derive(a, "x"), derive(b+","+a, "x")
	if len(one) != 1 || len(two) != 2 || len(one[0]) != 32 {
		t.Fatalf("%d and %d keys", len(one), len(two))
	}
	if !bytes.Equal(one[0], two[1]) || bytes.Equal(two[0], two[1]) {
		t.Error("a key does not keep its derived key when the ring rotates")
	}
	if bytes.Equal(one[0], derive(a, "y")[0]) {
		t.Error("two purposes have one key")
	}
}
