package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// stack is the stack that is driven. Of one that is only known by its URL neither ledger nor process can be looked at.
type stack struct {
	url   string
	data  string
	bin   string // the CLI, for tokens; "" with given tokens
	given [2]string
	pid   int

	nats  *nats.Conn
	redis *redis.Client

	process *exec.Cmd
	exited  chan struct{}
	output  bytes.Buffer // read after exited only
	temp    string
}

const (
	startTimeout  = time.Minute
	stopTimeout   = 15 * time.Second
	settleTimeout = time.Minute
)

// repository is the closest folder upwards that holds go.work.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("run it inside the repository: there is no go.work above this folder")
		}
		dir = filepath.Dir(dir)
	}
}

func openStack(ctx context.Context, o options, root string) (s *stack, err error) {
	s = &stack{url: o.url, data: o.data, given: o.tokens}
	if o.url != "" {
		return s, nil
	}
	if s.temp, err = os.MkdirTemp("", "writ-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.bin, err = binary(ctx, root, s.temp, "./cmd/writ"); err != nil {
		return nil, err
	}
	if s.data == "" {
		s.data = filepath.Join(s.temp, "data")
		if err = s.start(ctx, root); err != nil {
			return nil, err
		}
	}
	return s, s.connect()
}

// binary gives a program: from WRIT_BIN_DIR, or built now from its package.
func binary(ctx context.Context, root, temp, pkg string) (string, error) {
	name := filepath.Base(pkg)
	if dir := os.Getenv("WRIT_BIN_DIR"); dir != "" {
		return exec.LookPath(filepath.Join(dir, name))
	}
	bin := filepath.Join(temp, name)
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, pkg)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return bin, nil
}

// start starts `writ dev` and waits until it has written its addresses.
func (s *stack) start(ctx context.Context, root string) error {
	any := "127.0.0.1:0"
	s.process = exec.Command(s.bin, "dev", "--data", s.data, "--seed=false", "--cerbos", "embed:"+filepath.Join(root, "policies"),
		"--rate-limit", "0", // a few users send all of it
		"--api-addr", any, "--auditor-addr", any, "--worker-addr", any, "--mailbox-addr", any, "--nats-addr", any, "--redis-addr", any)
	s.process.Stdout, s.process.Stderr = &s.output, &s.output
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us: we stop it
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("start writ dev: %w", err)
	}
	s.exited = make(chan struct{})
	go func() {
		_ = s.process.Wait() // its output says why
		close(s.exited)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if _, err := os.Stat(filepath.Join(s.data, "dev.json")); err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("writ dev ended at once: %s", s.output.String())
		case <-ctx.Done():
			return fmt.Errorf("writ dev is not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// connect reads the addresses and connects to ledger and audit log.
func (s *stack) connect() error {
	b, err := os.ReadFile(filepath.Join(s.data, "dev.json"))
	if err != nil {
		return fmt.Errorf("no local stack runs on %s: %w", s.data, err)
	}
	var at struct {
		API, NATS, Redis string
		PID              int
	}
	if err := json.Unmarshal(b, &at); err != nil {
		return fmt.Errorf("read dev.json: %w", err)
	}
	s.url, s.pid = at.API, at.PID
	if s.nats, err = nats.Connect(at.NATS, nats.Name("writ-bench")); err != nil {
		return err
	}
	options, err := redis.ParseURL(at.Redis)
	if err != nil {
		return err
	}
	s.redis = redis.NewClient(options)
	return nil
}

func (s *stack) close() error {
	if s.nats != nil {
		s.nats.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close() // nothing is lost with it
	}
	var err error
	if s.exited != nil {
		_ = s.process.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-s.exited:
			if code := s.process.ProcessState.ExitCode(); code != 0 {
				err = fmt.Errorf("writ dev ended with %d: %s", code, lastLines(s.output.String()))
			}
		case <-time.After(stopTimeout):
			err = errors.Join(errors.New("writ dev does not stop"), s.process.Process.Kill())
			<-s.exited
		}
	}
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return err
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// token gives a session JWT of a user of the local stack with the role user, made if new. It lives for five minutes.
func (s *stack) token(ctx context.Context, n int) (string, error) {
	if s.bin == "" {
		return s.given[n%2], nil
	}
	cmd := exec.CommandContext(ctx, s.bin, "--data", s.data, "token", fmt.Sprintf("bench-%02d@example.com", n), "--role", "user")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("writ token: %w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// settle waits until everything on the ledger is applied and in the audit log: the ledger has not grown for a while
// and the audit streams stand at its end.
func (s *stack) settle(ctx context.Context) error {
	if s.nats == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	const quiet = 300 * time.Millisecond // far longer than a batch
	since, seen := time.Now(), uint64(0)
	for {
		last, err := s.sequence(ctx)
		if err != nil {
			return err
		}
		audited, err := s.audited(ctx)
		if err != nil {
			return err
		}
		if last != seen || audited != last {
			since, seen = time.Now(), last
		} else if time.Since(since) >= quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the stack does not come to rest: ledger at %d, audit log at %d: %w", last, audited, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sequence is the ledger's last.
func (s *stack) sequence(ctx context.Context) (uint64, error) {
	if s.nats == nil {
		return 0, nil
	}
	js, err := jetstream.New(s.nats)
	if err != nil {
		return 0, err
	}
	stream, err := js.Stream(ctx, events.StreamLedger)
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// audited is the sequence of the last message of the ledger for which the audit log accounts.
func (s *stack) audited(ctx context.Context) (uint64, error) {
	sequence, err := s.redis.HGet(ctx, audit.MarksKey, "sequence").Uint64()
	if errors.Is(err, redis.Nil) || err == nil && sequence == 0 {
		return 0, nil
	}
	return events.SequenceOf(sequence+1) - 1, err // the mark is an address, and after a whole message its last one
}

// tokens are the users' session JWTs, renewed before they expire.
type tokens struct {
	mu   sync.RWMutex
	all  []string
	stop context.CancelFunc
	done sync.WaitGroup
	err  error
}

// renewEvery is well below a session JWT's five minutes.
const renewEvery = 3 * time.Minute

func newTokens(ctx context.Context, s *stack, users int) (*tokens, error) {
	ctx, stop := context.WithCancel(ctx)
	t := &tokens{all: make([]string, users), stop: stop}
	if err := t.renew(ctx, s); err != nil {
		stop()
		return nil, err
	}
	t.done.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := t.renew(ctx, s); err != nil && ctx.Err() == nil {
				t.mu.Lock()
				t.err = err // the old ones go on for two minutes; then 401s tell
				t.mu.Unlock()
			}
		}
	})
	return t, nil
}

func (t *tokens) renew(ctx context.Context, s *stack) error {
	for i := range t.all {
		token, err := s.token(ctx, i)
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.all[i] = token
		t.mu.Unlock()
	}
	return nil
}

func (t *tokens) of(user int) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.all[user]
}

func (t *tokens) close() error {
	t.stop()
	t.done.Wait()
	return t.err
}
