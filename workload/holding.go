package workload

import (
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
)

const (
	// patience is how long a process waits for the leafs of all its services; after it, it is told
	// those that are there.
	patience = 3 * time.Second
	// idle is how long leafs are held that no stream uses, so that a process that asks again, or is
	// started anew, gets the same ones.
	idle = 10 * time.Minute
)

// grant is a service that a process may be, and in whose name its leaf is fetched.
type grant struct {
	id     identity.Service
	caller identity.Caller
}

// holding is the leafs of a user's processes that are the same services.
type holding struct {
	server *Server
	key    string
	grants []grant // sorted by service
	leafs  []*sds.Leafs
	// told is the newest answer; empty: there is none yet.
	told latest.Value[*answer]
	late *time.Timer // when patience ends

	// mu is held while an answer is made, so that they are told in order.
	mu      sync.Mutex
	expired bool // patience has ended

	// Guarded by Server.mu.
	users int
	since time.Time // when it lost its last user
}

// hold returns the holding of grants, which must be released.
func (s *Server) hold(grants []grant) *holding {
	var key strings.Builder
	for _, g := range grants {
		key.WriteString(g.caller.Application + "\x00" + g.caller.Token + "\x00" + g.id.String() + "\x00")
	}
	s.mu.Lock()
	h := s.holdings[key.String()]
	if h != nil {
		h.users++
		s.mu.Unlock()
		return h
	}
	h = &holding{server: s, key: key.String(), grants: grants, users: 1}
	s.holdings[h.key] = h
	wake := func() { s.refresh(h) }
	for _, g := range grants {
		h.leafs = append(h.leafs, s.credentials.Open(g.caller, wake))
	}
	s.mu.Unlock()
	h.update()
	h.late = time.AfterFunc(patience, func() {
		h.mu.Lock()
		h.expired = true
		h.mu.Unlock()
		s.refresh(h)
	})
	return h
}

// release ends the use of h.
func (s *Server) release(h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.users--; h.users == 0 {
		h.since = time.Now()
	}
}

// sweep gives back what nobody has used for a while; all: what nobody uses.
func (s *Server) sweep(now time.Time, all bool) {
	s.mu.Lock()
	var gone []*holding
	for key, h := range s.holdings {
		if h.users == 0 && (all || now.Sub(h.since) >= idle) {
			delete(s.holdings, key)
			gone = append(gone, h)
		}
	}
	s.mu.Unlock()
	for _, h := range gone {
		h.close()
	}
}

func (h *holding) close() {
	if h.late != nil {
		h.late.Stop()
	}
	for _, l := range h.leafs {
		l.Close()
	}
}

// update makes the answer of what is there now. It does not block.
func (h *holding) update() {
	h.mu.Lock()
	defer h.mu.Unlock()
	roots, ok := h.server.credentials.Roots()
	next := &answer{roots: roots}
	for i, g := range h.grants {
		s := h.leafs[i].SVID(g.id)
		if s == nil {
			continue
		}
		made, err := newSVID(g.id, s)
		if err != nil {
			h.server.log.Error("leaf not handed out", "service", g.id.Service, "err", err)
			continue
		}
		next.svids = append(next.svids, made)
	}
	if !ok || len(next.svids) == 0 || len(next.svids) < len(h.grants) && !h.expired {
		return
	}
	next.foreign = h.server.foreign(next.svids[0].id.TrustDomain)
	if old, _ := h.told.Load(); old.same(next) {
		return
	}
	next.bundle = bundleOf(roots)
	h.told.Set(next)
}
