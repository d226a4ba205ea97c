package api

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/internal/connlimit"
)

// conn is a connection, and the process at its other end once somebody asked for it.
type conn struct {
	*connlimit.Conn
	renewed    time.Time // of the one who writes
	tls        bool      // above this
	unfinished *shares
	phase      atomic.Int32
	read       atomic.Bool // something since the last answer
	answers    int         // of the one who answers
	open       *conns
	asked      atomic.Pointer[asked] // nil: nobody did yet

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

// Where a connection is between two answers.
const (
	quiet   = iota // nothing of a request has come
	begun          // something came by the first Read
	counted        // that was not all: it has a share of those that are unfinished
	heard          // the header is whole
	closed
)

// Bounds of the requests of one listener whose header did not come by one Read. Small fields cost ten times what they have on the wire,
// before anybody can tell whose they are. Over TLS handshakes count too, so there are more.
const (
	mostUnfinished       = 64
	mostUnfinishedOfPeer = 16
	handshaking          = 8 // times as many
)

const tooManyUnfinished = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"too many requests are unfinished: send a header at once, and less of it"

var errUnfinished = &net.OpError{Op: "read", Err: errors.New("too many requests are unfinished")} // which net/http does not answer

// Read reads. Whoever has begun a request needs a share to go on with its header.
func (c *conn) Read(b []byte) (int, error) {
	if c.phase.Load() == begun {
		times := 1
		if c.tls {
			times = handshaking
		}
		if !c.unfinished.take(c.Share(), times*mostUnfinishedOfPeer, times*mostUnfinished) {
			if !c.tls {
				_, _ = c.Write([]byte(tooManyUnfinished))
			}
			return 0, errUnfinished
		}
		if !c.phase.CompareAndSwap(begun, counted) {
			c.unfinished.give(c.Share())
		}
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.read.Store(true)
		c.phase.CompareAndSwap(quiet, begun)
	}
	return n, err
}

// answered is the end of an answer. Whoever sends many requests at once lets others have their turn after each, as far as that shows, else
// after some: it would wait for nothing, and have a processor for 10 ms at a time.
func (c *conn) answered() {
	c.move(quiet)
	if c.answers++; !c.read.Swap(false) || c.answers%16 == 0 {
		runtime.Gosched()
	}
}

// move is the next phase.
func (c *conn) move(to int32) {
	if c.phase.Swap(to) == counted {
		c.unfinished.give(c.Share())
	}
}

type connKey struct{}

type listener struct {
	*connlimit.Listener
	tls        bool
	unfinished *shares
	open       *conns
}

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
	accepted := &conn{Conn: limited, tls: l.tls, unfinished: l.unfinished, open: l.open}
	l.open.add(accepted)
	return accepted, nil
}

// connOf is the connection that a listener accepted, also below TLS; nil: it is none of a listener's.
func connOf(c net.Conn) *conn {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	accepted, _ := c.(*conn)
	return accepted
}

// Close closes the connection and forgets the process.
func (c *conn) Close() error {
	c.move(closed)
	c.open.remove(c)
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
	// share is whom bounds count it for: Name, or the network that an IPv6 address is of.
	share string
	// TCP says that it is at the other end of TCP, or of nobody knows what.
	TCP bool
	// Process asks the kernel which process it is. The error is that it cannot say, as of connections that do not come by a Unix
	// socket. The process is closed with the connection. Nil: nobody can say.
	Process func() (*attest.Process, error)
}

// peerOf is the other end of a request.
func peerOf(r *http.Request) Peer {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return Peer{Name: "unknown", share: "unknown", TCP: true}
	}
	return Peer{Name: c.Peer, share: c.Share(), TCP: !c.unix(), Process: c.attested}
}

// unix reports whether the connection came by a Unix socket.
func (c *conn) unix() bool {
	_, ok := c.LocalAddr().(*net.UnixAddr)
	return ok
}
