package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// Bounds of the connections of one listener. A question that waits has one to itself, and a service has thousands of clients.
const (
	maxConns        = 20_000
	maxConnsPerPeer = 8_000
	// maxHeader bounds the header of a request: a token of 8 KiB and a filter fit.
	maxHeader   = 32 << 10
	headerTime  = 10 * time.Second
	idleTimeout = 2 * time.Minute
)

// connections bounds a listener's connections, so that both listeners together leave a fifth of the files that the process may have
// open to all else: to Envoys, the catalog and its own state. Root counts like others, as it may pass on what others say. Whoever has few
// gets some though others have taken all. Over TLS each costs more, and may be a stranger's.
func connections(overTLS bool) connlimit.Config {
	c := connlimit.Config{Total: maxConns, PerPeer: maxConnsPerPeer, Spare: maxConns / 6, Few: 64, Root: true}
	if overTLS {
		c.Total, c.PerPeer = c.Total/4, c.PerPeer/4
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		n := int(min(files.Cur, 10*maxConns))
		c.Total, c.PerPeer, c.Spare = min(c.Total, n/3), min(c.PerPeer, n*3/10), min(c.Spare, n/15)
	}
	return c
}

// Serve answers on l until ctx ends, then gives open requests half a second; those that wait are answered no more. It returns nil when
// ctx ended. With a configuration of TLS it answers over that alone; HTTP/2 is not spoken.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	waiting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime, // a ReadTimeout would end waits: it bounds what tells us that the client is gone
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c := connOf(c); c != nil {
				return context.WithValue(ctx, connKey{}, c)
			}
			return ctx
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if c := connOf(c); c != nil && state == http.StateIdle {
				c.answered()
			}
		},
		BaseContext: func(net.Listener) context.Context { return waiting },
	}
	failed := make(chan error, 1)
	unfinished := &s.unfinished[0]
	if _, unix := l.Addr().(*net.UnixAddr); !unix {
		unfinished = &s.unfinished[1]
	}
	var limited net.Listener = listener{connlimit.Listen(l, connections(config != nil)), config != nil, unfinished, &s.open}
	if config != nil {
		limited = tls.NewListener(limited, config)
	}
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
