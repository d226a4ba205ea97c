package consul

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// endpointState is which endpoints are held.
type endpointState struct {
	asked   string             // for which they were answered
	healthy []catalog.Endpoint // the last with a healthy one among them
	since   time.Time          // since when they are held; zero: they are not
}

// proxy assembles r; ok is false while it must not be served. Targets and intentions that it needs
// are added to n. Agent.mu is held, as for all below.
func (b *assembly) proxy(r *nodeProxy, own meshDefaults, n *needs) (p *catalog.Proxy, ok bool) {
	name, id := r.proxy.Service.Service, r.proxy.ID
	if b.first[id].IsZero() {
		b.first[id] = b.now
	}
	intentions, ok := b.intentions(name)
	if !ok {
		b.pending(id, "", "service-intentions/"+name,
			"the intentions are not known yet: the proxy waits")
		return nil, false
	}
	c := b.agent.known.chains[name]
	if c == nil || !c.ok {
		old := b.former(id)
		if old == nil {
			b.pending(id, "", "service-defaults/"+name,
				"the protocol is not known yet: the proxy waits")
			return nil, false
		}
		// Its registration is known, its service's protocol is not: as it was.
		for _, u := range append(slices.Clone(old.Upstreams), catalog.Upstream{Destination: old.Service}) {
			if u.Foreign == "" { // else it is in no catalog
				n.add(b.formerTarget(u), false)
			}
		}
		n.intentions[name] = intentions
		return old, true
	}
	if r.discovery != c.value || r.own != own {
		r.discovery, r.own = c.value, own
		r.finished, r.finishedProblems = r.finish(c.value, own, b.agent.config)
	}
	finished := r.finished
	p = &finished
	b.problems = append(b.problems, r.finishedProblems...)
	if r.checks {
		checks, ok := b.exposedChecks(r.sidecar)
		// One that is there goes on without them for the moment: it would lose its streams.
		if !ok && !b.served[id] {
			b.pending(id, "", r.proxy.Origin,
				"the agent's checks, which go through the proxy, are not known yet: the proxy waits")
			return nil, false
		}
		p.Exposed = slices.Concat(p.Exposed, checks)
		slices.SortFunc(p.Exposed, catalog.CompareExposed)
	}
	p.Upstreams = make([]catalog.Upstream, 0, len(r.upstreams)+len(r.foreign))
	dialled := make([]*target, 0, len(r.upstreams))
	for i := range r.upstreams {
		u := &r.upstreams[i]
		up, t, reason := b.upstream(id, u, r.targets[i], &own)
		b.waits = b.waits || reason == waiting
		switch {
		case reason == "":
			p.Upstreams, dialled = append(p.Upstreams, up), append(dialled, t)
			if up.Limits.MaxConcurrentRequests.Set && up.Speaks(t.service) == catalog.TCP {
				b.problem(id, u.Name(), u.Origin, "max_concurrent_requests has no meaning for protocol tcp: max_connections limits it")
			}
		case reason == waiting && !b.served[id] && b.now.Sub(b.first[id]) < firstWait:
			b.wake(b.first[id].Add(firstWait))
			b.pending(id, u.Name(), u.Origin,
				"its endpoints are not known yet: the proxy waits for them up to %s", firstWait)
			return nil, false
		case reason == waiting:
			b.problem(id, u.Name(), u.Origin,
				"its endpoints are not known yet: its listener is not there")
		default:
			b.problem(id, u.Name(), u.Origin, "%s: its listener is not there", reason)
		}
	}
	p.Upstreams = append(p.Upstreams, r.foreign...)
	for _, t := range dialled {
		t.served = true
		n.add(t, t.lead != nil)
	}
	if n.services[name] == nil {
		n.services[name] = &catalog.Service{Name: p.Service, Protocol: definition.Protocol(c.value.protocol)}
	}
	n.intentions[name] = intentions
	return p, true
}

// application reports whether r can be known: who may reach its service is. What that is is added to n.
func (b *assembly) application(r *catalog.Registration, n *needs) bool {
	name := r.Service.Service
	intentions, ok := b.intentions(name)
	if !ok {
		if b.waiting[r.Origin].IsZero() {
			b.waiting[r.Origin] = b.now
		}
		b.pending("", "", r.Origin, "the intentions for %s are not known yet: the application waits", name)
		return false
	}
	delete(b.waiting, r.Origin)
	n.intentions[name] = intentions
	return true
}

// waiting is why an upstream of which something is not known is not there.
const waiting = "waiting"

// upstream is an upstream and what it dials; reason says why it is not there.
func (b *assembly) upstream(
	id identity.ProxyID, u *upstream, t *target, own *meshDefaults,
) (up catalog.Upstream, _ *target, reason string) {
	known := t.newest != nil
	if known {
		d := cmp.Or(t.force, t.newest)
		t = b.targets[overridden(t.name, own.spoken(u.protocol, definition.Protocol(d.protocol)), d)]
	}
	switch {
	case t != nil && t.service != nil:
		up, reason = u.routed(t, own)
		return up, t, reason
	// What is not known now is what was known last.
	case !known && b.agent.seed.service(u.target) != nil:
		if old := b.former(id); old != nil {
			for _, was := range old.Upstreams {
				if was.Destination == u.Destination && was.Datacenter == u.Datacenter {
					return was, b.formerTarget(was), ""
				}
			}
		}
	}
	if _, datacenter, _ := splitTarget(u.target); b.isNowhere(datacenter) {
		return up, nil, fmt.Sprintf("the datacenter %.60q is not known to Consul", datacenter)
	}
	return up, nil, waiting
}

// formerTarget is what u dialled by the last-known-good file. A part of it may be missing.
func (b *assembly) formerTarget(u catalog.Upstream) *target {
	t, s := &target{name: targetOf(u, b.nodeProxies.datacenter)}, b.agent.seed
	if t.service = s.service(t.name); t.service == nil {
		t.service = &catalog.Service{Name: u.Destination}
		return t
	}
	service, datacenter, _ := splitTarget(t.name)
	published := []string{targetName(service, datacenter, "")}
	if t.chain = s.chain(t.name, u.Speaks(t.service)); t.chain != nil {
		published = nil
		for _, x := range t.chain.Targets {
			g := group{name: x.Service, datacenter: x.Datacenter, subset: x.Subset}
			if g.datacenter == b.nodeProxies.datacenter {
				g.datacenter = ""
			}
			published = append(published, g.published())
		}
	}
	for _, name := range published {
		if e := s.endpoints(name); e != nil {
			t.endpoints = append(t.endpoints, e)
		}
	}
	return t
}

// routed is the upstream as its target's chain has it; reason says why it is not there.
func (u *upstream) routed(t *target, own *meshDefaults) (up catalog.Upstream, reason string) {
	up = u.Upstream
	switch gateway := gatewayProblem(cmp.Or(u.gateway, t.lead.gateway)); {
	case t.lead.err != nil:
		return up, t.lead.err.Error()
	// Where those who dial differ, what is dialled directly by its chain may be so by them.
	case gateway != "" && t.lead.far && (t.lead.chain == nil || t.mixed):
		return up, gateway
	}
	if p := own.spoken(u.protocol, t.service.Protocol); p != t.service.Protocol {
		up.Protocol = catalog.OptionalProtocol{Set: true, Protocol: p}
	}
	return up, ""
}

// hold is what the endpoints of a group are taken to be: while none is healthy for a moment after
// those who know of them came back, the last healthy ones. An agent that is a server answers long
// before it has a leader; its checks turn critical only when it has one. One
// whose node has another name now registers its services anew, critical, up to 10 s after the old
// ones are gone: so none at all counts as critical.
func (b *assembly) hold(g group, e *watch[instances]) []catalog.Endpoint {
	name := g.published()
	s, ok := b.endpoints[name]
	if old := b.agent.seed.endpoints(name); !ok && old != nil && anyHealthy(old.List) {
		s.healthy = old.List
	}
	endpoints := e.value.endpoints
	if g.passing {
		endpoints = e.value.passing()
	}
	back, lost := b.serversBack()
	if g.datacenter != "" {
		back, lost = e.recovered, !e.recovered.IsZero()
	}
	if lost && e.recovered.After(back) { // this query was answered only later
		back = e.recovered
	}
	end := back.Add(holdTime)
	if !s.since.IsZero() && s.since.Add(holdTime).Before(end) {
		end = s.since.Add(holdTime)
	}
	switch {
	case anyHealthy(endpoints):
		s = endpointState{healthy: endpoints}
	case len(s.healthy) == 0 || !lost || !b.now.Before(end):
		s.healthy = nil // they are gone: a later loss of the agent does not bring them back
	default:
		if s.since.IsZero() {
			s.since = b.now
		}
		b.wake(end)
		endpoints = s.healthy
	}
	s.asked = g.asked()
	b.endpoints[name] = s
	return endpoints
}

// serversBack is when the servers answered again after the agent was lost, now if they do not yet;
// lost is false if it never was.
func (b *assembly) serversBack() (back time.Time, lost bool) {
	c := &b.basis.contact
	if c.served.IsZero() {
		return b.now, !c.back.IsZero()
	}
	return c.served, true
}

// intentions are what is known of who may reach a service, but for what is said of all
// destinations.
func (b *assembly) intentions(name string) (d *catalog.Destination, ok bool) {
	if w := b.agent.known.intentions[name]; w != nil && w.ok {
		return w.value.own, true
	}
	if s := b.agent.seed; s != nil && s.protected[name] {
		b.fromFile = true
		return s.destinations[name], true
	}
	return nil, false
}

// former is the proxy of the last-known-good file; nil: there is none.
func (b *assembly) former(id identity.ProxyID) *catalog.Proxy {
	p := b.agent.seed.proxy(id)
	b.fromFile = b.fromFile || p != nil
	return p
}
