// Command bench drives a running stack with a closed loop and prints what it did beside what its parts can do alone.
//
//	go run ./test/bench                          a local stack of its own, in a temporary folder
//	go run ./test/bench -data .writ              the local stack that runs on this folder
//	go run ./test/bench -url U -token T -other T any other; T of two users, of whom neither may change the other's contacts
//
// It ends with 1 when anything was answered that should not have been, when an accepted command was not applied, or
// when a request did not cost exactly one message on the ledger.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	connections int
	duration    time.Duration
	warmup      time.Duration
	raw         time.Duration
	mix         mix
	data        string
	url         string
	tokens      [2]string
}

// mix is how often each operation is asked for, in any unit.
type mix [operations]int

// String implements flag.Value.
func (m *mix) String() string {
	words := make([]string, len(m))
	for i, n := range m {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, "/")
}

// Set implements flag.Value.
func (m *mix) Set(s string) error {
	words := strings.Split(s, "/")
	if len(words) != len(m) {
		return errors.New("want create/update/denied/read, such as 40/25/15/20")
	}
	sum := 0
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a share", w)
		}
		m[i], sum = n, sum+n
	}
	if sum == 0 {
		return errors.New("all shares are 0")
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{mix: mix{40, 25, 15, 20}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.connections, "c", 32, "connections, each with one request at a time")
	f.DurationVar(&o.duration, "d", 15*time.Second, "how long is measured")
	f.DurationVar(&o.warmup, "w", 3*time.Second, "how long is warmed up before")
	f.DurationVar(&o.raw, "raw", 2*time.Second, "how long each part is driven alone; 0 leaves that out")
	f.Var(&o.mix, "mix", "shares of create/update/denied update/read")
	f.StringVar(&o.data, "data", "", "drive the local stack on this folder instead of a new one")
	f.StringVar(&o.url, "url", "", "drive the API at this URL")
	f.StringVar(&o.tokens[0], "token", "", "with -url: a session token")
	f.StringVar(&o.tokens[1], "other", "", "with -url: another user's session token")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.connections < 1 || o.connections > 1024:
		return o, errors.New("-c wants 1 to 1024")
	case o.duration <= 0:
		return o, errors.New("-d wants a time")
	case o.url != "" && (o.tokens[0] == "" || o.tokens[1] == ""):
		return o, errors.New("-url wants -token and -other too")
	case o.url != "" && o.data != "":
		return o, errors.New("-url and -data exclude each other")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := repository()
	if err != nil {
		return err
	}
	s, err := openStack(ctx, o, root)
	if err != nil {
		return err
	}
	m, err := measure(ctx, o, s)
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	var raws []raw
	if o.raw > 0 { // with the stack stopped, if it was ours: they would share its processors
		if raws, err = rawLimits(ctx, o, root); err != nil {
			return fmt.Errorf("raw limits: %w", err)
		}
	}
	if err := report(out, o, m, raws); err != nil {
		return err
	}
	return m.verdict()
}

// measure warms the stack up, drives it, and reads from the ledger what became of it all.
func measure(ctx context.Context, o options, s *stack) (*measurement, error) {
	l, err := newLoad(ctx, o, s)
	if err != nil {
		return nil, fmt.Errorf("prepare the load: %w", err)
	}
	defer l.close()
	warm, err := l.drive(ctx, o.warmup)
	if err != nil {
		return nil, err
	}
	m := &measurement{warm: warm}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	if m.before, err = s.observe(ctx); err != nil {
		return nil, err
	}
	if m.load, err = l.drive(ctx, o.duration); err != nil {
		return nil, err
	}
	// What was accepted is applied and audited before the processor time is read: it belongs to the requests.
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	if m.after, err = s.observe(ctx); err != nil {
		return nil, err
	}
	if s.nats != nil {
		if m.ledger, err = readLedger(ctx, s.nats, m.before.sequence+1, m.after.sequence); err != nil {
			return nil, fmt.Errorf("read the ledger: %w", err)
		}
	}
	return m, nil
}
