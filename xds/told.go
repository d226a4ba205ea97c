package xds

import (
	"maps"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// told is up to where the publisher has looked. It is immutable.
type told struct {
	view *catalog.View
	// bounded are the policies that hold in place of view's; nil, or none: view's own does.
	bounded map[identity.Name]*intention.Policy
}

// Told is what Envoys are told in place of policy, which is one of view's: of a destination whose
// live connections end when access is taken away, nobody may be let in before this allows it, too.
// It lags behind the newest View, and behind the disk, and denies everybody as long as nothing is
// known. policy must not be nil. Told takes no lock and does not allocate.
func (s *Server) Told(view *catalog.View, policy *intention.Policy) *intention.Policy {
	t, ok := s.told.Load()
	if !ok {
		return nil
	}
	if bounded := t.bounded[policy.Destination()]; bounded != nil {
		return bounded
	}
	if t.view == view {
		return policy
	}
	return t.view.Policy(policy.Destination())
}

// ToldChanged returns a channel that is closed when Told may answer otherwise. Take it before Told.
func (s *Server) ToldChanged() <-chan struct{} { return s.told.Changed() }

// tell lets Told know what p has observed.
func (p *publisher) tell() {
	if p.stale {
		p.stale = false
		p.server.told.Set(told{view: p.view, bounded: maps.Clone(p.waiting)})
	}
}

// observe notes the policy of w's service, and returns the generation of its filter chain and as
// much of the policy as may be told. Only where live connections are to end is there a generation;
// nil: there is none.
func (p *publisher) observe(w *catalog.ProxyView) (g *generation, told *intention.Policy) {
	if w.Proxy.Inbound.Revocation != catalog.Drain {
		return nil, w.Policy
	}
	service := w.Proxy.Service
	drain := func() (longest time.Duration) {
		for _, n := range p.sessionsOfService(service) {
			longest = max(longest, n.features.DrainTime)
		}
		return longest
	}
	g, raised, retryAt := p.server.generations.observe(service, w.Policy, drain, time.Now())
	if raised {
		p.server.metrics.renames.Inc()
		p.server.log.Info("access revoked, closing live connections", "service", service, "generation", g.number)
	}
	if retryAt.IsZero() {
		delete(p.renames, service)
	} else {
		p.renames[service] = retryAt
	}
	told = p.server.generations.publishable(g)
	was, waited := p.waiting[service]
	waits := told != w.Policy || g.unnamed()
	p.stale = p.stale || waits != waited || was != told && waits
	if waits {
		p.waiting[service] = told
	} else {
		delete(p.waiting, service)
	}
	return g, told
}

// EndConnections has all live connections of the mesh's services end, as after a rotation of a root whose key others may have: each
// listener drains. Whoever may connect connects again. It does not block.
func (s *Server) EndConnections() {
	select {
	case s.ending <- struct{}{}:
	default: // they are about to
	}
}

// endConnections gives all listeners another name of their chain.
func (p *publisher) endConnections() {
	p.server.generations.end(time.Now())
	p.server.log.Info("closing all live connections", "audit", "rotation")
	for _, w := range p.view.Since(&catalog.View{}) {
		if w != nil {
			p.observe(w)
		}
	}
	p.stale = true
	p.tell()
	p.publish(p.server.sessions(), time.Now(), false)
}
