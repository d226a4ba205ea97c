package consul

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// proxy is a sidecar with all that is known of what it protects and dials; ok is false as long as it must not be served. What it needs is put into services
// and intentions.
func (b *assembly) proxy(r *readProxy, own definition.Own, services map[string]*catalog.Service, intentions map[string][]intention.Intention) (p *catalog.Proxy, ok bool) {
	s := r.sidecar
	name := s.proxy.Service.Service
	id := s.proxy.ID
	if b.first[id].IsZero() {
		b.first[id] = b.now
	}
	list, ok := b.intentionsOf(name)
	if !ok {
		b.waits = true
		b.problem(id, "", "service-intentions/"+name, "the intentions are not known yet: the proxy waits")
		return p, false
	}
	chain := b.agent.known.chains[name]
	if chain == nil || !chain.ok {
		old, ok := b.formerly(id)
		if !ok {
			b.waits = true
			b.problem(id, "", "service-defaults/"+name, "the protocol is not known yet: the proxy waits")
			return p, false
		}
		// Its registration is known, its service's protocol is not: as it was.
		b.keep(old, services, intentions)
		return old, true
	}
	finished, problems := r.finish(chain.value, own, b.agent.config)
	p = &finished
	b.problems = append(b.problems, problems...)
	if s.checks {
		checks, ok := b.exposedChecks(s)
		if !ok && !b.admitted[id] { // one that is there goes on without them for the moment: it would lose its streams
			b.waits = true
			b.problem(id, "", s.proxy.Origin, "the agent's checks, which go through the proxy, are not known yet: the proxy waits")
			return nil, false
		}
		p.Exposed = slices.Concat(p.Exposed, checks)
		slices.SortFunc(p.Exposed, catalog.CompareExposed)
	}
	upstreams := make([]catalog.Upstream, 0, len(s.upstreams))
	needed := make(map[string]*catalog.Service, len(s.upstreams))
	for _, u := range s.upstreams {
		up, service, reason := b.upstream(id, u)
		b.waits = b.waits || reason == waiting
		switch {
		case reason == "":
			upstreams = append(upstreams, up)
			needed[targetOf(up, b.datacenter())] = service
		case reason == waiting && !b.admitted[id] && b.now.Sub(b.first[id]) < firstWait:
			b.at(b.first[id].Add(firstWait))
			b.problem(id, u.Name(), u.Origin, "its endpoints are not known yet: the proxy waits for them up to %s", firstWait)
			return p, false
		case reason == waiting:
			b.problem(id, u.Name(), u.Origin, "its endpoints are not known yet: its listener is not there")
		default:
			b.problem(id, u.Name(), u.Origin, "%s: its listener is not there", reason)
		}
	}
	p.Upstreams = upstreams
	maps.Copy(services, needed)
	if services[name] == nil {
		services[name] = &catalog.Service{Name: p.Service, Protocol: definition.Protocol(chain.value.Protocol)}
	}
	intentions[name] = list
	return p, true
}

// waiting is why an upstream of which something is not known is not there.
const waiting = "waiting"

// upstream is an upstream and the service that it dials; reason says why it is not there.
func (b *assembly) upstream(id identity.ProxyID, u dialled) (up catalog.Upstream, service *catalog.Service, reason string) {
	target := targetOf(u.Upstream, b.datacenter())
	_, datacenter := splitTarget(target)
	up = u.Upstream
	c := b.agent.known.chains[target]
	e := b.agent.known.endpoints[target]
	if c == nil || !c.ok || e == nil || !e.ok {
		// Of what is not known now, what was known last.
		if old, ok := b.formerly(id); ok && (c == nil || !c.ok) {
			for _, was := range old.Upstreams {
				if was.Destination != u.Destination || was.Datacenter != u.Datacenter {
					continue
				}
				if service := b.serviceOf(target); service != nil {
					b.fromFile = true
					return was, service, ""
				}
			}
		}
		if c != nil && c.ok {
			// Of a service that nobody dialled the file has no endpoints, which does not say that there are none.
			if service := b.serviceOf(target); service != nil && len(service.Endpoints) > 0 && service.Protocol == definition.Protocol(c.value.Protocol) {
				b.fromFile = true
				return b.routed(up, c.value, u, service)
			}
		}
		if datacenter != "" && b.agent.known.datacenters.ok && !b.datacenters[datacenter] {
			return up, nil, fmt.Sprintf("the datacenter %.60q is not known to Consul", datacenter)
		}
		return up, nil, waiting
	}
	if service = b.dialled[target]; service == nil {
		service = &catalog.Service{Name: u.Destination, Datacenter: datacenter, Protocol: definition.Protocol(c.value.Protocol), Endpoints: b.endpoints(target, e)}
		b.dialled[target] = service
	}
	return b.routed(up, c.value, u, service)
}

// routed is the upstream as its chain has it.
func (b *assembly) routed(up catalog.Upstream, c *chain, u dialled, service *catalog.Service) (catalog.Upstream, *catalog.Service, string) {
	r, err := c.defaultRoute(u.Destination.Service, cmp.Or(u.Datacenter, b.datacenter()))
	if err != nil {
		return up, nil, err.Error()
	}
	if reason := gatewayed(cmp.Or(u.gateway, r.gateway)); reason != "" && service.Datacenter != "" {
		return up, nil, reason
	}
	if u.protocol.Set && u.protocol.Value != service.Protocol {
		return up, nil, "protocol " + u.protocol.Value.String() + " of its config is not that of the service, " + service.Protocol.String() + ", which is not supported yet"
	}
	if up.ConnectTimeout == 0 {
		up.ConnectTimeout = r.connectTimeout
	}
	return up, service, ""
}

// endpoints are those of a target.
func (b *assembly) endpoints(target string, e *watched[[]*instance]) []catalog.Endpoint {
	m := b.mapped[target]
	if m == nil {
		m = &mapped{}
		b.mapped[target] = m
		if s := b.serviceOf(target); s != nil && anyHealthy(s.Endpoints) {
			m.healthy = s.Endpoints
		}
	}
	_, datacenter := splitTarget(target)
	far := datacenter != ""
	if m.at != e.at {
		m.endpoints, m.skipped = readEndpoints(e.value, far)
		m.at = e.at
	}
	for _, s := range m.skipped {
		b.problem("", "", "service "+s, "it has no address or port that can be dialled: it gets no traffic")
	}
	if far {
		return b.hold(m, e.back)
	}
	return b.hold(m, b.back)
}

func anyHealthy(list []catalog.Endpoint) bool {
	return slices.ContainsFunc(list, func(e catalog.Endpoint) bool { return e.Healthy })
}

// hold is what a service's endpoints are taken to be. back is when those who know of them came back.
func (b *assembly) hold(m *mapped, back time.Time) []catalog.Endpoint {
	if anyHealthy(m.endpoints) {
		m.healthy, m.since = m.endpoints, time.Time{}
		return m.endpoints
	}
	end := back.Add(holdTime)
	if !m.since.IsZero() && m.since.Add(holdTime).Before(end) {
		end = m.since.Add(holdTime)
	}
	if len(m.endpoints) == 0 || len(m.healthy) == 0 || back.IsZero() || !b.now.Before(end) {
		m.healthy = nil // they are gone: a later loss of the agent does not bring them back
		return m.endpoints
	}
	if m.since.IsZero() {
		m.since = b.now
	}
	b.at(end)
	return m.healthy
}

// intentionsOf is what is known of who may reach a service.
func (b *assembly) intentionsOf(name string) ([]intention.Intention, bool) {
	if w := b.agent.known.intentions[name]; w != nil && w.ok {
		return w.value, true
	}
	return b.formerIntentions(name)
}

// formerIntentions are those of the last-known-good file.
func (b *assembly) formerIntentions(name string) ([]intention.Intention, bool) {
	seed := b.agent.seed
	if seed == nil || !slices.ContainsFunc(seed.Contents.Proxies, func(p *catalog.Proxy) bool { return p.Service.Service == name }) {
		return nil, false
	}
	b.fromFile = true
	var out []intention.Intention
	for _, i := range seed.Contents.Intentions {
		if i.Destination.Service == name || i.Destination.IsWildcard() {
			out = append(out, i)
		}
	}
	return out, true
}

// formerly is the proxy of the last-known-good file.
func (b *assembly) formerly(id identity.ProxyID) (*catalog.Proxy, bool) {
	if seed := b.agent.seed; seed != nil {
		for _, p := range seed.Contents.Proxies {
			if p.ID == id {
				b.fromFile = true
				return p, true
			}
		}
	}
	return nil, false
}

// serviceOf is the service of the last-known-good file; nil if there is none.
func (b *assembly) serviceOf(target string) *catalog.Service {
	name, datacenter := splitTarget(target)
	if seed := b.agent.seed; seed != nil {
		for _, s := range seed.Contents.Services {
			if s.Name == identity.NewName(name) && s.Datacenter == datacenter {
				return s
			}
		}
	}
	return nil
}

// keep puts what a proxy of the last-known-good file needs into services and intentions, where nothing newer is.
func (b *assembly) keep(p *catalog.Proxy, services map[string]*catalog.Service, intentions map[string][]intention.Intention) {
	name := p.Service.Service
	for _, u := range append(slices.Clone(p.Upstreams), catalog.Upstream{Destination: p.Service}) {
		t := targetOf(u, b.datacenter())
		if services[t] != nil {
			continue
		}
		if s := b.serviceOf(t); s != nil {
			services[t] = s
		}
	}
	if list, ok := b.intentionsOf(name); ok {
		intentions[name] = list
	}
}
