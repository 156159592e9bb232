// Command writ runs writ on one machine and looks after it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli are the commands.
type cli struct {
	Data string `help:"Where the local stack keeps its state." default:".writ" env:"WRIT_DATA" type:"path"`

	Dev     devCmd     `cmd:"" help:"Run everything in one process, for development."`
	Token   tokenCmd   `cmd:"" help:"Print a session JWT of a user of the local stack, made if new."`
	Audit   auditCmd   `cmd:"" help:"Look at the audit log, and check it."`
	Policy  policyCmd  `cmd:"" help:"Try policies before they are in force."`
	Dead    deadCmd    `cmd:"" help:"Look after dead letters: what could not be processed."`
	Jobs    jobsCmd    `cmd:"" help:"Look after background jobs."`
	Ledger  ledgerCmd  `cmd:"" help:"Look after the ledger."`
	Migrate migrateCmd `cmd:"" help:"Bring the database's schema up to date (the worker does it at its start)."`
	Config  configCmd  `cmd:"" help:"Print the settings in force, secrets hidden."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// app is what every command is given.
type app struct {
	ctx  context.Context
	data string
	in   io.Reader
	out  io.Writer
	err  io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// plainly words kong's errors for people who do not write Go.
var plainly = strings.NewReplacer(
	"expected a valid 64 bit uint but got", "want a whole number, 0 or more, not", "expected a valid 64 bit int but got", "want a whole number, not",
	"expected duration but got", "want a time such as 90s, 12h or 720h, not", ": time: invalid duration", ":", ": time: missing unit in duration", ":",
	"bool value must be true, 1, yes, false, 0 or no but got", "want true or false, not",
)

// run is main without the process: its exit code is the result.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("writ"), kong.Description("Commands that carry the decision that permits them."),
		kong.Writers(out, errOut), kong.Exit(func(code int) { exit = code }), kong.UsageOnError())
	if err != nil {
		fmt.Fprintln(errOut, "writ:", err)
		return 2
	}
	k, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintln(errOut, "writ:", plainly.Replace(err.Error()))
		return 2
	}
	if err := k.Run(&app{ctx: ctx, data: c.Data, in: in, out: out, err: errOut}); err != nil {
		if code, ok := errors.AsType[exitCode](err); ok {
			return int(code)
		}
		fmt.Fprintln(errOut, "writ:", err)
		return 1
	}
	return 0
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.out, version())
	return err
}

// version is the module's, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	if info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
