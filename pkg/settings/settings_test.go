package settings_test

import (
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/settings"
)

type config struct {
	URL      string `env:"WRIT_TEST_URL,required,notEmpty"`
	Replicas int    `env:"WRIT_TEST_REPLICAS" envDefault:"1"`
}

func TestSettingsAreRead(t *testing.T) {
	t.Setenv("WRIT_TEST_URL", "nats://127.0.0.1")
	got, err := settings.Load[config]()
	if want := (config{"nats://127.0.0.1", 1}); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestErrorIsOneLineThatNamesEachSetting(t *testing.T) {
	t.Setenv("WRIT_TEST_URL", "")
	t.Setenv("WRIT_TEST_REPLICAS", "hunter2")
	_, err := settings.Load[config]()
	if err == nil || !strings.Contains(err.Error(), "WRIT_TEST_URL") || !strings.Contains(err.Error(), "WRIT_TEST_REPLICAS") {
		t.Fatalf("%v", err)
	}
	if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, "hunter2") || strings.Contains(text, "Replicas\"") {
		t.Errorf("%s", text)
	}
}
