package auditor

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/auditor/internal/server"
)

// askers are what is needed to say who asks and what they may see. The copying
// needs none of it and goes on without: their outage is the queries' 503.
type askers struct {
	store    *store.Store
	authz    authz.Authorizer
	identity *identity.Client
}

// open opens all of them, which calls none of the servers behind them.
func (cfg Config) open(ctx context.Context) (a askers, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.store, err = store.Open(ctx, cfg.DatabaseURL); err != nil {
		return a, err
	}
	if a.authz, err = authz.Open(ctx, cfg.Cerbos, authz.WithRevision(cfg.PolicyRevision), authz.WithLogger(cfg.Log)); err != nil {
		return a, err
	}
	a.identity, err = identity.New(ctx, identity.Config{ProjectID: cfg.StytchProjectID, Secret: cfg.StytchSecret, BaseURL: cfg.StytchBaseURL, Log: cfg.Log})
	return a, err
}

func (a askers) close() (err error) {
	if a.identity != nil {
		a.identity.Close()
	}
	if a.authz != nil {
		err = a.authz.Close()
	}
	if a.store != nil {
		err = errors.Join(err, a.store.Close())
	}
	return err
}

// checks are not critical: an auditor without them still copies.
func (a askers) checks() []health.Check {
	return []health.Check{
		{Name: "database", Func: a.migrated},
		{Name: "cerbos", Func: a.authz.Ready},
		{Name: "stytch", Func: a.identity.Ready},
	}
}

// migrated is ready when the database answers and has the schema of this version.
func (a askers) migrated(ctx context.Context) error {
	pending, err := a.store.Pending(ctx)
	if err == nil && pending {
		err = errors.New("its schema is older than this version: the worker, or writ migrate, brings it up to date")
	}
	return err
}

// config completes what a server needs.
func (a askers) config(c server.Config) server.Config {
	c.Store, c.Authz, c.Identity = a.store, a.authz, a.identity
	return c
}

// httpServer bounds what a client may do; streams and exports set deadlines of their own.
func httpServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
