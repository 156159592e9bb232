package settings_test

import (
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/settings"
)

// TestNoSettingShowsASecret: hunter2 and everything that begins so is one.
func TestNoSettingShowsASecret(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"WRIT_DATABASE_URL", "postgres://writ:hunter2@db:5432/writ?sslmode=require", "postgres://writ:(hidden)@db:5432/writ?sslmode=require"},
		{"WRIT_DATABASE_URL", "postgres://u@h/db?password=hunter2", "postgres://u@h/db?password=(hidden)"},
		{"WRIT_DATABASE_URL", "postgres://u@h/db?PASSWORD=hunter2&sslmode=disable", "postgres://u@h/db?PASSWORD=(hidden)&sslmode=disable"},
		{"WRIT_DATABASE_URL", "postgres://u@h/db?pass%77ord=hunter2", "postgres://u@h/db?pass%77ord=(hidden)"},
		{"WRIT_DATABASE_URL", "postgres://u@h/db?sslmode=require&sslpassword=hunter2&sslkey=hunter2.key", "postgres://u@h/db?sslmode=require&sslpassword=(hidden)&sslkey=(hidden)"},
		{"WRIT_DATABASE_URL", "postgres://u@h/db?user=a;password=hunter2", "postgres://u@h/db?user=a&password=(hidden)"},
		{"WRIT_DATABASE_URL", "postgres://u:hunter2@h1:5432,h2:5432/db", "postgres://u:(hidden)@h1:5432,h2:5432/db"},
		{"WRIT_DATABASE_URL", "postgres://u:hunter2,hunter2@h/db", "postgres://u:(hidden)@h/db"},
		{"WRIT_DATABASE_URL", "postgres://u:hunter2/?@h:port/db", "postgres://u:(hidden)@h:port/db"},
		{"WRIT_DATABASE_URL", "postgres://u:hunter2@hunter2@h/db", "postgres://u:(hidden)@h/db"},
		{"WRIT_DATABASE_URL", "host=h user=u password=hunter2", "(hidden)"},
		{"WRIT_DATABASE_URL", "sqlite:/var/lib/writ.db", "sqlite:/var/lib/writ.db"},
		{"WRIT_DATABASE_URL", "sqlite:/var/lib/writ.db?_pragma=key('hunter2')", "sqlite:/var/lib/writ.db?_pragma=(hidden)"},
		{"WRIT_REDIS_URL", "redis://:hunter2@redis:6379/0", "redis://:(hidden)@redis:6379/0"},
		{"WRIT_REDIS_URL", "rediss://redis:6379/0?password=hunter2&db=1", "rediss://redis:6379/0?password=(hidden)&db=1"},
		{"WRIT_REDIS_URL", "redis://h/0#hunter2", "redis://h/0#(hidden)"},
		{"WRIT_NATS_URL", "nats://hunter2@n1:4222", "nats://(hidden)@n1:4222"},
		{"WRIT_NATS_URL", "hunter2@n1:4222", "(hidden)@n1:4222"},
		{"WRIT_NATS_URL", "nats://u:hunter2@n1:4222,nats://u:hunter2@n2:4222", "nats://(hidden)@n1:4222,nats://(hidden)@n2:4222"},
		{"WRIT_NATS_URL", "nats://u:hunter2@n1:4222,u:hunter2@n2:4222", "nats://(hidden)@n2:4222"},
		{"WRIT_NATS_URL", "nats://n1:4222,n2:4222", "nats://n1:4222,n2:4222"},
		{"WRIT_NATS_URL", "nats://n1:4222?jwt=hunter2&nkey=hunter2", "nats://n1:4222?jwt=(hidden)&nkey=(hidden)"},
		{"STYTCH_BASE_URL", "https://u:hunter2@stytch.example.com", "https://u:(hidden)@stytch.example.com"},
		{"WRIT_CERBOS", "grpc://u:hunter2@pdp:3593", "grpc://u:(hidden)@pdp:3593"},
		{"WRIT_CERBOS", "u:hunter2@pdp:3593", "u:(hidden)@pdp:3593"},
		{"WRIT_CERBOS", "embed:policies", "embed:policies"},
		{"STYTCH_SECRET", "hunter2", "(hidden)"},
		{"STYTCH_WEBHOOK_SECRET", "hunter2", "(hidden)"},
		{"WRIT_SEAL_KEYS", "k1:hunter2", "(hidden)"},
		{"WRIT_BOOTSTRAP_ADMIN", "alice@example.com", "alice@example.com"},
		{"WRIT_PUBLIC_URL", "https://writ.example.com", "https://writ.example.com"},
	} {
		got := settings.Hide(c.name, c.value)
		if got != c.want || strings.Contains(got, "hunter2") {
			t.Errorf("%s=%s is shown as %s, want %s", c.name, c.value, got, c.want)
		}
	}
}
