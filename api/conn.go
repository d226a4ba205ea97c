package api

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/internal/connlimit"
)

// conn is a connection, and the process at its other end once somebody asked for it.
type conn struct {
	*connlimit.Conn
	renewed time.Time // of the one who writes

	mu      sync.Mutex
	closed  bool
	process *attest.Process
	err     error
}

// writeTime is what an answer may take at least on its way to its reader. The deadline is put off every renewDeadline, as that costs as
// much as half of an answer.
const (
	writeTime     = 30 * time.Second
	renewDeadline = 10 * time.Second
)

// Write writes, for writeTime and renewDeadline at most.
func (c *conn) Write(b []byte) (int, error) {
	if now := time.Now(); now.Sub(c.renewed) > renewDeadline {
		c.renewed = now
		if err := c.SetWriteDeadline(now.Add(renewDeadline + writeTime)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

type connKey struct{}

type listener struct{ *connlimit.Listener }

// Accept returns the next connection, a *conn.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	limited, ok := c.(*connlimit.Conn)
	if !ok {
		return nil, errors.Join(errors.New("the listener gives other connections than its own"), c.Close())
	}
	return &conn{Conn: limited}, nil
}

// Close closes the connection and forgets the process.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.process != nil {
		_ = c.process.Close()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// attested is the process at the other end, as it was when it connected.
func (c *conn) attested() (*attest.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.process == nil && c.err == nil {
		c.process, c.err = attest.Attest(c.Conn.Conn)
	}
	return c.process, c.err
}

// Peer is the other end of a request's connection.
type Peer struct {
	// Name is who made it: "uid 1000", "10.1.2.3".
	Name string
	// Process asks the kernel which process it is. The error is that it cannot say, as of connections that do not come by a Unix
	// socket. The process is closed with the connection. Nil: nobody can say.
	Process func() (*attest.Process, error)
}

// peerOf is the other end of a request.
func peerOf(r *http.Request) Peer {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return Peer{Name: "unknown"}
	}
	return Peer{Name: c.Peer, Process: c.attested}
}
