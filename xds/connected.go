package xds

import (
	"maps"
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// proxy is the state of a proxy that outlives its streams. Server.mu guards it.
type proxy struct {
	sessions map[*session]bool
	lastACK  time.Time
	lastNACK *NACK
	rejected *Rejection
	// nacked and last are of the last stream that ended; see subscription, and memory.
	nacked [kinds]map[string]bool
	last   memory
}

// proxy returns the state of a proxy, a new one if there is none. s.mu is held.
func (s *Server) proxy(id identity.ProxyID) *proxy {
	p := s.proxies[id]
	if p == nil {
		p = &proxy{sessions: map[*session]bool{}}
		s.proxies[id] = p
	}
	return p
}

// join adds a session to those that the publisher serves. The error is a gRPC status.
func (s *Server) join(n *session) error {
	last := s.lastOf(n.caller.Proxy)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return errEnding
	}
	p := s.proxy(n.caller.Proxy)
	if len(p.sessions) >= maxStreams {
		return status.Errorf(codes.ResourceExhausted, "the proxy has %d streams already", len(p.sessions))
	}
	if len(p.sessions) == 0 {
		s.metrics.connected.Inc()
	}
	p.sessions[n] = true
	p.rejected = nil // it is let in again
	for k := range kinds {
		n.subs[k].nacked, p.nacked[k] = p.nacked[k], nil
	}
	if len(p.sessions) == 1 {
		last, p.last = p.last, memory{}
	}
	n.stages, n.before = last.stages, last.target
	s.enqueue(n)
	return nil
}

// leave ends a session and removes it.
func (s *Server) leave(n *session) {
	r, nacked, last := n.close()
	n.leafs.Close()
	n.acceptance.Close(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, n)
	p := s.proxies[n.caller.Proxy]
	delete(p.sessions, n)
	if len(p.sessions) == 0 {
		s.metrics.connected.Dec()
		s.disconnected = append(s.disconnected, n.caller.Proxy)
	}
	p.nacked, p.last = nacked, last
	p.lastACK = later(p.lastACK, r.lastACK)
	if r.lastNACK != nil && (p.lastNACK == nil || p.lastNACK.Time.Before(r.lastNACK.Time)) {
		p.lastNACK = r.lastNACK
	}
}

// lastOf is what the last open stream of a proxy remembers: one that has broken may not have ended yet.
func (s *Server) lastOf(id identity.ProxyID) memory {
	open := s.sessionsOf(id)
	if len(open) == 0 {
		return memory{}
	}
	return slices.MaxFunc(open, func(a, b *session) int { return a.opened.Compare(b.opened) }).remembers()
}

// sessions are all open sessions.
func (s *Server) sessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*session
	for _, p := range s.proxies {
		for n := range p.sessions {
			all = append(all, n)
		}
	}
	return all
}

// sessionsOf are the open ones of a proxy.
func (s *Server) sessionsOf(id identity.ProxyID) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[id]; p != nil {
		return slices.Collect(maps.Keys(p.sessions))
	}
	return nil
}

// takeDisconnected returns the proxies that have no streams any more.
func (s *Server) takeDisconnected() []identity.ProxyID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []identity.ProxyID
	for _, id := range s.disconnected {
		if p := s.proxies[id]; p == nil || len(p.sessions) == 0 {
			out = append(out, id)
		}
	}
	s.disconnected = nil
	return out
}

// forget drops the state of a proxy that has left the catalog, unless it has streams.
func (s *Server) forget(id identity.ProxyID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[id]; p != nil && len(p.sessions) == 0 {
		delete(s.proxies, id)
	}
}
