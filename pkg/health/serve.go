package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Serve runs server on ln until ctx ends or it fails, then drains: not ready,
// no new connections, requests in flight answered, at most within.
func (h *Health) Serve(ctx context.Context, server *http.Server, ln net.Listener, within time.Duration) error {
	stopped := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		<-ctx.Done()
		h.Drain()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		stopped <- server.Shutdown(ctx)
	}()
	err := server.Serve(ln)
	cancel()
	if stopErr := <-stopped; stopErr != nil {
		err = errors.Join(err, stopErr, server.Close())
	}
	if errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// OperationsServer serves h and /metrics, for a service that serves nothing else.
func (h *Health) OperationsServer(metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", h.Livez)
	mux.HandleFunc("GET /readyz", h.Readyz)
	mux.Handle("GET /metrics", metrics)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}
