package catalog

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/latest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Store holds the newest View. Its zero value is ready for use. Views wakes those who wait for the next
// one.
type Store struct {
	Views latest.Value[*View]
	// Number gives changes their numbers, each greater than the last; nil: they are counted from 1. It is
	// set before the first Publish.
	Number func() uint64
	// Changed is called with each View and the one before, when it is published already; nil: nobody is
	// told. It should not block: the source waits for it.
	Changed func(old, next *View)
	// Logger is told of each change, once; nil: nobody is.
	Logger *slog.Logger

	mu        sync.Mutex
	next      uint64 // the number of the next change; zero: not taken yet
	federated []spiffeid.TrustDomain
	keys      map[KeySource]string
}

// Federate says which other trust domains' bundles are known, sorted by name: those of the Mesh of all Views from now on. It makes
// the next View, if there is one already. domains must not be changed any more. Like Publish it may be called by several goroutines.
func (s *Store) Federate(domains []spiffeid.TrustDomain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.federated = domains
	if view, ok := s.Views.Load(); ok && view.mesh != nil {
		c := view.contents
		c.Seen = time.Time{}
		s.publish(c)
	}
}

// Keys says which public keys there are, as jwks.Set has their text: those of the TokenProviders of all Views from now on that have them from
// there; see Federate. keys must not be changed any more.
func (s *Store) Keys(keys map[KeySource]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
	if view, ok := s.Views.Load(); ok && view.mesh != nil {
		c := view.contents
		c.Seen = time.Time{}
		s.publish(c)
	}
}

// withKeys are providers with the keys that are elsewhere.
func (s *Store) withKeys(providers []*TokenProvider) []*TokenProvider {
	var all []*TokenProvider
	for i, p := range providers {
		if p.From == (KeySource{}) || p.Keys == s.keys[p.From] {
			continue
		}
		if all == nil {
			all = slices.Clone(providers)
		}
		q := *p
		q.Keys = s.keys[p.From]
		all[i] = &q
	}
	if all == nil {
		return providers
	}
	return all
}

// Publish makes the next View out of c, and tells nobody if that is the one there is. It is what a Source
// is given; it does not block for longer than View.Next takes and may be called by several goroutines.
func (s *Store) Publish(c Contents) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish(c)
}

func (s *Store) publish(c Contents) {
	c.Mesh.Federated = s.federated
	c.TokenProviders = s.withKeys(c.TokenProviders)
	old, ok := s.Views.Load()
	if !ok {
		old = &View{}
	}
	if s.next == 0 {
		s.next = old.Change().Number + 1
		if s.Number != nil {
			s.next = s.Number()
		}
	}
	change := Change{Number: s.next, Seen: c.Seen}
	if change.Seen.IsZero() {
		change.Seen = time.Now()
	}
	next := old.next(c, change)
	if next == old {
		return
	}
	s.next = 0
	s.Views.Set(next)
	if s.Changed != nil {
		s.Changed(old, next)
	}
	if s.Logger != nil {
		concerned := 0
		for range next.Since(old) {
			concerned++
		}
		s.Logger.Info("catalog changed", "change", change.Number, "seen", change.Seen, "proxies", concerned)
	}
}
