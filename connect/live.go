package connect

import (
	"context"
	"crypto/x509"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// askedAgain is when it is asked once more after a change, each time after the one before: what answers
// may know of it a little later than what told of it.
var askedAgain = []time.Duration{100 * time.Millisecond, time.Second}

const (
	// askedAtOnce is how many questions are asked at the same time.
	askedAtOnce = 8
)

// connection is one that is open, as far as is known. It knows the raw connection and not the
// tls.Conn, so that it keeps nobody from forgetting that one.
type connection struct {
	conn    net.Conn
	inbound bool
	peer    spiffeid.ID
	chain   []*x509.Certificate // as the peer sent it
	began   time.Time
}

// handle is what a tls.Config of one connection has of it. The tls.Conn has the config, or a copy of it,
// for as long as it lives, the config's functions have the handle, and nobody else has: so a connection
// is forgotten when the application has forgotten it, whatever it did with it. A nil handle is none.
type handle struct{ *connection }

// handle makes a handle, if connections are to be ended.
func (s *Service) handle(conn net.Conn, inbound bool) *handle {
	if !s.options.EndOnRevocation {
		return nil
	}
	h := &handle{&connection{conn: conn, inbound: inbound}}
	runtime.AddCleanup(h, s.live.remove, h.connection)
	return h
}

// live are the connections that EndOnRevocation is about. The zero value is ready for use.
type live struct {
	wake chan struct{} // of capacity 1

	mu    sync.Mutex
	conns map[*connection]struct{}
}

func (l *live) add(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[*connection]struct{}{}
	}
	l.conns[c] = struct{}{}
}

// remove forgets a connection; one that is not there is nothing.
func (l *live) remove(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// look has the peers judged anew.
func (l *live) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// caller is whom a judgement is about.
type caller struct {
	peer    spiffeid.ID
	serial  string
	inbound bool
}

// callers are the connections by peer.
func (l *live) callers() map[caller][]*connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[caller][]*connection{}
	for c := range l.conns {
		k := caller{c.peer, serialNumber(c.chain[0]), c.inbound}
		out[k] = append(out[k], c)
	}
	return out
}

// endRevoked asks about the peers of inbound connections until the service ends.
func (s *Service) endRevoked() {
	every := time.NewTicker(s.options.RevocationInterval)
	defer every.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	left := []time.Duration{}
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.live.wake:
			left = askedAgain
		case <-again.C:
		case <-every.C:
		}
		s.endDenied()
		if len(left) > 0 {
			again.Reset(left[0])
			left = left[1:]
		}
	}
}

// endDenied ends the inbound connections whose peers the API says no to. No answer is no reason.
func (s *Service) endDenied() {
	var tasks sync.WaitGroup
	room := make(chan struct{}, askedAtOnce)
	for k, conns := range s.live.callers() {
		if !k.inbound {
			continue
		}
		room <- struct{}{}
		tasks.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
			defer cancel()
			if v, err := s.authorize(ctx, k.peer, k.serial); err == nil && !v.allowed {
				s.end(conns, "connections ended: the mesh does not let the peer connect any more", v.reason)
			}
		})
	}
	tasks.Wait()
}

// endUnrooted ends the connections whose peers' certificates hang under none of the roots. That they
// have ended since is no reason: their peers have newer ones.
func (s *Service) endUnrooted(roots *x509bundle.Bundle) {
	for k, conns := range s.live.callers() {
		usage := x509.ExtKeyUsageServerAuth
		if k.inbound {
			usage = x509.ExtKeyUsageClientAuth
		}
		if _, err := verify(conns[0].chain, roots, usage, x509svid.WithTime(conns[0].began)); err != nil {
			s.end(conns, "connections ended: the peer's root is none of the mesh's any more", err.Error())
		}
	}
}

func (s *Service) end(conns []*connection, what, reason string) {
	s.logger.Info(what, "peer", conns[0].peer, "reason", reason, "count", len(conns)) //nolint:sloglint // one of two texts
	for _, c := range conns {
		_ = c.conn.Close()
		s.live.remove(c)
		s.options.Metrics.ended(c.peer, c.inbound)
	}
}
