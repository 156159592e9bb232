package testkit

import (
	"context"
	"errors"
	"strconv"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// RedisProc is a redis-server of one test.
type RedisProc struct {
	*Process
	addr string
}

// RedisOption changes how [RedisServer] starts.
type RedisOption func(*redisConfig)

type redisConfig struct{ args []string }

// RedisAppendOnly keeps data over restarts. fsync is Redis' appendfsync: "always" or "everysec"; a process that is
// killed loses nothing of what was written to the file, a machine that fails loses up to a second of it.
func RedisAppendOnly(fsync string) RedisOption {
	return RedisArgs("--appendonly", "yes", "--appendfsync", fsync)
}

// RedisArgs adds redis-server settings, for example "--maxmemory", "16mb".
func RedisArgs(args ...string) RedisOption {
	return func(c *redisConfig) { c.args = append(c.args, args...) }
}

// Redis starts an empty redis-server that keeps nothing on disk and returns its URL, redis://127.0.0.1:PORT/0.
func Redis(t testing.TB) (url string) {
	t.Helper()
	return RedisServer(t).URL()
}

// RedisServer starts a redis-server. Kill and Start run it again on the same port and folder.
func RedisServer(t testing.TB, options ...RedisOption) *RedisProc {
	t.Helper()
	path, err := find("redis-server", "WRIT_REDIS_BIN", "/usr/local/bin", "/opt/homebrew/bin", "/opt/redis*/bin")
	if err != nil {
		Need(t, "redis-server", err)
	}
	var config redisConfig
	for _, option := range options {
		option(&config)
	}
	port := FreePort(t)
	addr := loopback(port)
	args := append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "",
	}, config.args...)
	process := StartProcess(t, Spec{Name: "redis-server", Path: path, Args: args, Ready: func(ctx context.Context) error {
		return pingRedis(ctx, addr)
	}})
	return &RedisProc{Process: process, addr: addr}
}

// URL is redis://127.0.0.1:PORT/0, the same after a restart.
func (r *RedisProc) URL() string { return "redis://" + r.addr + "/0" }

// Addr is 127.0.0.1:PORT.
func (r *RedisProc) Addr() string { return r.addr }

// Stop ends Redis in order (SIGTERM) and waits for it.
func (r *RedisProc) Stop(testing.TB) { r.end(syscall.SIGTERM) }

func pingRedis(ctx context.Context, addr string) error {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, PoolSize: 1, DisableIdentity: true})
	err := client.Ping(ctx).Err() // "LOADING" while the append-only file is read
	return errors.Join(err, client.Close())
}
