package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PG is a private PostgreSQL cluster on a free port, in a temporary folder of its own. It does not fsync: it
// survives being killed, not a power failure.
type PG struct {
	process *Process
	addr    string
	dir     string
	created atomic.Int64
}

// PGOption changes how [PostgresServer] starts.
type PGOption func(*[]string)

// PGSetting sets a parameter of postgresql.conf, for example "max_connections", "20".
func PGSetting(name, value string) PGOption {
	return func(args *[]string) { *args = append(*args, "-c", name+"="+value) }
}

var sharedPG *PG // guarded by shared

// Postgres returns the URL of a new, empty database, dropped when the test ends. All tests of a package share one
// cluster if its TestMain calls [Main]; otherwise each call starts one, which takes a second or two.
func Postgres(t testing.TB) (url string) {
	t.Helper()
	initdb, err := postgresProgram("initdb")
	if err != nil {
		Need(t, "PostgreSQL", err)
	}
	shared.Lock()
	defer shared.Unlock()
	if !shared.active {
		return PostgresServer(t).Database(t)
	}
	if sharedPG == nil {
		server, err := newPostgres(filepath.Dir(initdb), nil)
		if err != nil {
			t.Fatal(err)
		}
		sharedPG = server
		shared.stop = append(shared.stop, server.remove)
	}
	return sharedPG.Database(t)
}

// PostgresServer starts a cluster for one test, to be stopped, killed and started again.
func PostgresServer(t testing.TB, options ...PGOption) *PG {
	t.Helper()
	initdb, err := postgresProgram("initdb")
	if err != nil {
		Need(t, "PostgreSQL", err)
	}
	var settings []string
	for _, option := range options {
		option(&settings)
	}
	server, err := newPostgres(filepath.Dir(initdb), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.remove()
		if t.Failed() {
			t.Logf("output of postgres:\n%s", server.process.Output())
		}
	})
	return server
}

// postgresProgram finds one of PostgreSQL's programs; Debian keeps them off PATH.
func postgresProgram(name string) (string, error) {
	if dir := os.Getenv("WRIT_POSTGRES_BIN"); dir != "" {
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("WRIT_POSTGRES_BIN: %w", err)
		}
		return filepath.Abs(path)
	}
	path, err := find(name, "", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
	if err != nil {
		return "", fmt.Errorf("%w; install it or set WRIT_POSTGRES_BIN", err)
	}
	// A link on PATH need not have the other programs beside it.
	return filepath.EvalSymlinks(path)
}

func newPostgres(bin string, settings []string) (server *PG, err error) {
	credential, err := unprivileged()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir, which only this user can enter.
	dir, err := os.MkdirTemp("", "writ-postgres-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if credential != nil {
		if err := os.Chown(dir, int(credential.Uid), int(credential.Gid)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	initdb.Dir = dir
	initdb.SysProcAttr = childAttributes(credential)
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	server = &PG{addr: loopback(port), dir: dir}
	server.process = newProcess(Spec{
		Name: "postgres",
		Path: filepath.Join(bin, "postgres"),
		Dir:  dir,
		Args: append([]string{
			"-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-c", "unix_socket_directories=",
			// A commit still waits until it is written to the log, so that it survives Kill.
			"-c", "fsync=off", "-c", "full_page_writes=off",
			"-c", "max_connections=200", "-c", "shared_buffers=32MB",
		}, settings...),
		Ready:      func(ctx context.Context) error { return server.exec(ctx, "SELECT 1") },
		credential: credential,
	})
	return server, server.process.start()
}

// unprivileged is the user postgres when this is root, as whom PostgreSQL refuses to run; else nil.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Database creates an empty database, dropped when the test ends, and returns its URL.
func (p *PG) Database(t testing.TB) (url string) {
	t.Helper()
	name := fmt.Sprintf("test_%d", p.created.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := p.exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create database: %v", err)
	}
	t.Cleanup(func() {
		if !p.process.Running() {
			return // goes with its cluster
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		if err := p.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop database: %v", err)
		}
	})
	return p.url(name)
}

// URL is that of the cluster's maintenance database, the same after a restart; see also Database.
func (p *PG) URL() string { return p.url("postgres") }

func (p *PG) url(database string) string {
	return "postgres://postgres@" + p.addr + "/" + database + "?sslmode=disable"
}

// Addr is 127.0.0.1:PORT.
func (p *PG) Addr() string { return p.addr }

// Stop shuts down in order and cuts open connections (PostgreSQL's "fast").
func (p *PG) Stop(testing.TB) { p.process.end(syscall.SIGINT) }

// Kill ends all of the cluster's processes at once without a checkpoint (PostgreSQL's "immediate"), so that the next
// start recovers from the log. A kill -9 of the first process alone would leave its children to end by themselves.
func (p *PG) Kill() { p.process.end(syscall.SIGQUIT) }

// Start starts the cluster again on the same port and data.
func (p *PG) Start(t testing.TB) { t.Helper(); p.process.Start(t) }

func (p *PG) remove() {
	p.process.end(syscall.SIGQUIT)
	_ = os.RemoveAll(p.dir) // what is left of a temporary folder harms nobody
}

func (p *PG) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
