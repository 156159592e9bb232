package testkit

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Spec describes a program to run.
type Spec struct {
	Name string   // what messages call it; the path if empty
	Path string   // the executable
	Args []string // without the program's name
	Env  []string // KEY=value, added to this process's environment
	Dir  string   // working folder; the current one if empty

	// The process is ready once all of these that are set hold.
	ReadyLine string                      // a line of its output contains this
	ReadyURL  string                      // GET answers 200
	Ready     func(context.Context) error // returns nil; called repeatedly
	Within    time.Duration               // how long that may take; 60 s if zero

	credential *syscall.Credential // run as another user; only root may
}

// Process is a program under test's control. It may be started again after it has ended; its methods are for one
// goroutine, except Output.
type Process struct {
	spec   Spec
	output *output
	cmd    *exec.Cmd
	done   chan struct{} // closed once the current run has been waited for
}

// StartProcess starts a program and waits until it is ready; the test fails if it ends before. The program is killed
// when the test ends, and if the test has failed the end of its output is logged.
func StartProcess(t testing.TB, spec Spec) *Process {
	t.Helper()
	p := newProcess(spec)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", p.spec.Name, p.Output())
		}
	})
	p.Start(t)
	return p
}

func newProcess(spec Spec) *Process {
	if spec.Name == "" {
		spec.Name = spec.Path
	}
	if spec.Within == 0 {
		spec.Within = startTimeout
	}
	return &Process{spec: spec, output: newOutput()}
}

// Start starts the program again with the same arguments and waits until it is ready.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

func (p *Process) start() error {
	if p.Running() {
		return fmt.Errorf("%s is already running", p.spec.Name)
	}
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Dir = p.spec.Dir
	cmd.Env = append(os.Environ(), p.spec.Env...)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.SysProcAttr = childAttributes(p.spec.credential)
	// A grandchild that keeps the output open must not keep Wait from returning.
	cmd.WaitDelay = 5 * time.Second
	mark := p.output.Mark()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait() // the exit status is read from ProcessState
	}()

	ctx, cancel := context.WithTimeout(context.Background(), p.spec.Within)
	defer cancel()
	if err := p.ready(ctx, mark); err != nil {
		p.Kill()
		return fmt.Errorf("%s is not ready: %w\n%s", p.spec.Name, err, p.Output())
	}
	return nil
}

// ready waits for everything that the spec asks for, and gives up as soon as the process has ended.
func (p *Process) ready(ctx context.Context, mark int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := p.done
	go func() {
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := p.checkReady(ctx, mark)
	// Asked last: another server on the same port could have answered in its place.
	if !p.Running() {
		return fmt.Errorf("it ended with exit code %d", p.cmd.ProcessState.ExitCode())
	}
	return err
}

func (p *Process) checkReady(ctx context.Context, mark int64) error {
	if p.spec.ReadyLine != "" {
		if _, err := p.output.Wait(ctx, mark, p.spec.ReadyLine); err != nil {
			return err
		}
	}
	if url := p.spec.ReadyURL; url != "" {
		if err := poll(ctx, func(ctx context.Context) error { return get(ctx, url) }); err != nil {
			return err
		}
	}
	if p.spec.Ready != nil {
		return poll(ctx, p.spec.Ready)
	}
	return nil
}

// WaitLine waits until a line of the output, from the first start on, contains text and returns that line. Lines that
// have left the output's last 256 KiB are not seen.
func (p *Process) WaitLine(t testing.TB, within time.Duration, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	line, err := p.output.Wait(ctx, 0, text)
	if err != nil {
		t.Fatalf("%s: %v\n%s", p.spec.Name, err, p.Output())
	}
	return line
}

// Output is the last 256 KiB that the process wrote, over all its starts. It may be called at any time.
func (p *Process) Output() string { return p.output.String() }

// Pid is the process id of the current or last run.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Running reports whether the process has been started and has not ended.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process with SIGKILL, paused or not, and waits until it is gone. Killing an ended one does nothing.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill() // fails only if it has just ended by itself
		<-p.done
	}
}

// Signal sends a signal to the running process.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if !p.Running() {
		t.Fatalf("signal %s: %s is not running", sig, p.spec.Name)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("signal %s to %s: %v", sig, p.spec.Name, err)
	}
}

// Pause stops the process where it stands (SIGSTOP): its connections stay open and nothing answers on them.
func (p *Process) Pause(t testing.TB) { t.Helper(); p.Signal(t, syscall.SIGSTOP) }

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume(t testing.TB) { t.Helper(); p.Signal(t, syscall.SIGCONT) }

// Wait waits until the process has ended and returns its exit code, -1 if a signal ended it. The test fails if it is
// still running after within.
func (p *Process) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	code, err := p.wait(within)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	return code
}

func (p *Process) wait(within time.Duration) (int, error) {
	if p.cmd == nil {
		return 0, fmt.Errorf("%s was not started", p.spec.Name)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		return 0, fmt.Errorf("%s is still running after %s", p.spec.Name, within)
	}
}

// Stop asks the process to end (SIGTERM), waits for it and returns its exit code. The test fails if it is still
// running after within.
func (p *Process) Stop(t testing.TB, within time.Duration) int {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	return p.Wait(t, within)
}

// end is Stop without a test: with the signal sig, and with SIGKILL when that takes too long.
func (p *Process) end(sig os.Signal) {
	const patience = 10 * time.Second
	if !p.Running() {
		return
	}
	if err := p.cmd.Process.Signal(sig); err == nil {
		if _, err := p.wait(patience); err == nil {
			return
		}
	}
	p.Kill()
}

// get asks url once, on a connection of its own so that none is left behind.
func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := probe.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}

var probe = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
