package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/writ-project/writ/pkg/events"
)

// local is what the running local stack tells the other commands, in
// dev.json: the addresses in use.
type local struct {
	API      string `json:"api"`
	Auditor  string `json:"auditor"`
	Worker   string `json:"worker"`
	NATS     string `json:"nats"`
	Redis    string `json:"redis"`
	Mailbox  string `json:"mailbox"`
	Database string `json:"database"`
	PID      int    `json:"pid"`
}

const localFile = "dev.json"

// errNoStack is what a command says that needs the local stack.
var errNoStack = errors.New("no local stack is running here: start one with writ dev, or name its folder with --data")

func readLocal(data string) (local, error) {
	var l local
	b, err := os.ReadFile(filepath.Join(data, localFile))
	if errors.Is(err, os.ErrNotExist) {
		return l, errNoStack
	}
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("read %s: %w", localFile, err)
	}
	return l, nil
}

func writeLocal(data string, l local) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(data, localFile), append(b, '\n'))
}

// writeFile is [writeWhole] of bytes.
func writeFile(path string, b []byte) error {
	return writeWhole(context.Background(), path, bytes.NewReader(b))
}

// The local Stytch project: the emulator's. Its secret is made on first start.
const localProject = "project-test-00000000-0000-4000-8000-000000000000"

// secrets are the local stack's keys, kept in the data folder.
type secrets struct {
	SealKeys     string `json:"seal_keys"`
	StytchSecret string `json:"stytch_secret"`
}

func secretsFile(data string) string { return filepath.Join(data, "keys", "secrets.json") }

// auditKeyFile holds the key that signs the local audit log's checkpoints.
func auditKeyFile(data string) string { return filepath.Join(data, "keys", "audit.key") }

func readSecrets(data string) (secrets, error) {
	var s secrets
	b, err := os.ReadFile(secretsFile(data))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// makeSecrets reads the keys, or makes them on the first start.
func makeSecrets(data string) (secrets, error) {
	s, err := readSecrets(data)
	if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	if err := os.MkdirAll(filepath.Dir(secretsFile(data)), 0o700); err != nil {
		return s, err
	}
	s.SealKeys = events.GenerateKey("local-1")
	_, random, _ := strings.Cut(events.GenerateKey("stytch"), ":")
	s.StytchSecret = "secret-test-" + strings.NewReplacer("+", "-", "/", "_").Replace(random)
	b, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	return s, writeFile(secretsFile(data), b)
}
