package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// Bounds of the connections of one listener. A question that waits has one to itself, and a service has thousands of clients.
const (
	maxConns        = 60_000
	maxConnsPerPeer = 20_000
	// maxHeader bounds the header of a request: a token of 8 KiB and a filter fit.
	maxHeader   = 32 << 10
	headerTime  = 10 * time.Second
	idleTimeout = 2 * time.Minute
)

// Serve answers on l until ctx ends, then gives open requests half a second; those that wait are answered no more. It returns nil when
// ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	waiting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime, // a ReadTimeout would end waits: it bounds what tells us that the client is gone
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		BaseContext:       func(net.Listener) context.Context { return waiting },
	}
	failed := make(chan error, 1)
	limited := listener{connlimit.Listen(l, connlimit.Config{Total: maxConns, PerPeer: maxConnsPerPeer})}
	go func() { failed <- h.Serve(limited) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second/2)
	defer cancel()
	if h.Shutdown(grace) != nil {
		_ = h.Close() // what is still open after the grace is cut off
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return nil
}
