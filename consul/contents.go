package consul

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// assemble returns all that is known; ok is false as long as that is not enough to say anything.
// registered says that the proxies of the node are known. Agent.mu is held.
func (b *assembly) assemble(registered bool) (c catalog.Contents, ok bool) {
	a := b.agent
	b.live = true
	mesh, own, ok := b.mesh()
	if a.seed != nil && ok && a.seed.contents.Mesh.TrustDomain != mesh.TrustDomain {
		a.log.Warn("last known good contents are of another trust domain, and forgotten",
			"file", a.config.LKGFile)
		a.seed = nil
	}
	if !ok || !registered {
		b.live = false
		if a.seed == nil {
			return c, false
		}
		if end := b.started.Add(seedWait); b.now.Before(end) {
			b.wake(end)
			return c, false
		}
		b.fromFile = true
		return a.seed.contents, true
	}
	c.Mesh = mesh
	b.readChecks()
	b.readTargets()
	n := needs{map[string]*catalog.Service{}, map[string]*chain.Chain{}, map[string]*catalog.Endpoints{}, map[string]*catalog.Destination{}}
	for _, r := range b.nodeProxies.list {
		b.problems = append(b.problems, r.sidecar.problems...)
		if r.nobody {
			continue
		}
		if p, ok := b.proxy(r, own, &n); ok {
			c.Proxies = append(c.Proxies, p)
			b.served[p.ID] = true
		}
	}
	for i, r := range b.nodeProxies.applications {
		if status := b.statusOf(r); status != r.Status {
			other := *r
			other.Status = status
			r, b.nodeProxies.applications[i] = &other, &other
		}
		if text, ok := r.Meta[catalog.MetaSelectors]; ok {
			if _, err := attest.Parse(text); err != nil {
				b.problem("", "", r.Origin, "%s of its meta names nobody: %v", catalog.MetaSelectors, err)
			}
		}
		if b.application(r, &n) {
			c.Registrations = append(c.Registrations, r)
		}
	}
	b.inquiries(&n)
	c.Services = slices.Collect(maps.Values(n.services))
	c.Chains = slices.Collect(maps.Values(n.chains))
	c.Endpoints = slices.Collect(maps.Values(n.endpoints))
	// What nobody dials after an outage may be dialled again in a moment: a node that has another name
	// now has no proxies until its agent has registered them anew.
	if back, lost := b.serversBack(); !lost || !b.now.Before(back.Add(holdTime)) {
		maps.DeleteFunc(b.endpoints, func(_ string, s endpointState) bool { return a.known.endpoints[s.asked] == nil })
	}
	if len(n.intentions) > 0 {
		n.intentions[identity.Wildcard] = b.wildcard()
	}
	for _, d := range n.intentions {
		if d == nil {
			continue
		}
		c.Intentions = append(c.Intentions, d)
		for _, i := range d.Intentions {
			if i.Unsupported != "" {
				b.problem("", "", i.Origin,
					"the source %s is denied, for its intention has what is not supported yet: %s", i.Source, i.Unsupported)
			}
		}
	}
	if !b.tokenProviders(&c) {
		return c, false
	}
	c.Sort()
	return c, true
}

// needs are what proxies that are served need: what they dial, each part by its target, and what is
// said of their own services, of which nil is nothing.
type needs struct {
	services   map[string]*catalog.Service
	chains     map[string]*chain.Chain
	endpoints  map[string]*catalog.Endpoints
	intentions map[string]*catalog.Destination
}

// add adds what is dialled. now says that it is known from the agent, before which what the
// last-known-good file has does not go.
func (n *needs) add(t *target, now bool) {
	service, datacenter, _ := splitTarget(t.name)
	if name := targetName(service, datacenter, ""); now || n.services[name] == nil {
		n.services[name] = t.service
	}
	if t.chain != nil {
		if name := targetName(service, datacenter, protocolMark+t.chain.Protocol); now || n.chains[name] == nil {
			n.chains[name] = t.chain
		}
	}
	for _, e := range t.endpoints {
		g := group{name: e.Name, datacenter: e.Datacenter, subset: e.Subset}
		if name := g.published(); now || n.endpoints[name] == nil {
			n.endpoints[name] = e
		}
	}
}

// wildcard is what is said of all destinations; nil: nothing.
func (b *assembly) wildcard() *catalog.Destination {
	if k, seed := &b.agent.known, b.agent.seed; k.matched || seed == nil {
		return k.wildcard
	}
	b.fromFile = true
	return b.agent.seed.destinations[identity.Wildcard]
}

// takeEndpoints takes new endpoints of targets into the contents. ok is false if the contents must
// be put together anew, as something else depends on them. Agent.mu is held.
func (b *assembly) takeEndpoints(targets []string) (changed, ok bool) {
	all := b.contents.Endpoints
	for _, name := range targets {
		e, known := b.agent.known.endpoints[name], b.asked[name]
		if e == nil || len(known.groups) == 0 {
			continue // nobody dials it any more, or not all of it is known
		}
		if !slices.Equal(known.undialable, e.value.undialable) {
			return false, false
		}
		for _, g := range known.groups {
			list := b.hold(g, e)
			i, found := slices.BinarySearchFunc(all, g, compareGroup)
			if !found || slices.Equal(all[i].List, list) {
				continue
			}
			if !changed {
				all, changed = slices.Clone(all), true
			}
			all[i] = &catalog.Endpoints{Name: g.name, Datacenter: g.datacenter, Subset: g.subset, List: list}
		}
	}
	b.contents.Endpoints = all
	return changed, true
}

// compareGroup compares as contents are sorted.
func compareGroup(e *catalog.Endpoints, g group) int {
	return cmp.Or(strings.Compare(e.Name.Service, g.name.Service), strings.Compare(e.Datacenter, g.datacenter), strings.Compare(e.Subset, g.subset))
}

// datacenter is the agent's; empty if it is not known. Agent.mu is held.
func (b *assembly) datacenter() string {
	k := &b.agent.known
	if k.self.ok {
		return k.self.value.Config.Datacenter
	}
	if k.services.ok {
		if n := k.services.value.Node; n != nil && n.Datacenter != "" {
			return n.Datacenter
		}
		for _, r := range k.services.value.Services {
			if r != nil && r.Datacenter != "" {
				return r.Datacenter
			}
		}
	}
	if b.agent.seed != nil {
		return b.agent.seed.contents.Mesh.Datacenter
	}
	return ""
}

// mesh is what holds for all, and what proxy-defaults say; ok is false if something of it is not
// known.
func (b *assembly) mesh() (m catalog.Mesh, own meshDefaults, ok bool) {
	k := &b.agent.known
	var seed *catalog.Mesh
	if s := b.agent.seed; s != nil {
		seed = &s.contents.Mesh
	}
	m.TrustDomain, ok = b.agent.trustDomain()
	m.Datacenter = b.datacenter()
	if !ok || m.Datacenter == "" || identity.CheckDatacenter(m.Datacenter) != nil {
		return m, own, false
	}
	switch {
	case k.datacenters.ok:
		b.noteDatacenters()
		m.Datacenters = slices.Collect(maps.Keys(b.datacenters))
	case seed != nil:
		m.Datacenters = slices.Clone(seed.Datacenters)
		b.fromFile = true
	default:
		return m, own, false
	}
	m.Datacenters = append(m.Datacenters, m.Datacenter)
	slices.Sort(m.Datacenters)
	m.Datacenters = slices.Compact(m.Datacenters)
	if m.Default, ok = b.defaultPolicy(seed); !ok {
		return m, own, false
	}
	switch {
	case k.mesh.ok:
		b.problems = append(b.problems, k.mesh.value.readMesh(&m)...)
	case seed != nil:
		m.Incoming, m.Outgoing, m.DropForwardedClientCert = seed.Incoming, seed.Outgoing, seed.DropForwardedClientCert
		b.fromFile = true
	default:
		return m, own, false
	}
	if !k.proxyDefaults.ok {
		return m, own, false
	}
	own, problems := k.proxyDefaults.value.settings()
	b.problems = append(b.problems, problems...)
	return m, own, true
}

// noteDatacenters remembers the datacenters that Consul knows. Agent.mu is held.
func (b *assembly) noteDatacenters() {
	for _, dc := range b.agent.known.datacenters.value {
		if identity.CheckDatacenter(dc) == nil {
			b.datacenters[dc] = true
		}
	}
}

// defaultPolicy is what holds where no intention does: the agent's default_intention_policy, else
// the default of its ACLs (Consul, "default_intention_policy"). Where neither can be read it is to
// deny.
func (b *assembly) defaultPolicy(seed *catalog.Mesh) (intention.Action, bool) {
	s, acls := b.agent.known.self, b.basis.contact.policy
	switch {
	case s.ok:
		if p := s.value.DebugConfig.DefaultIntentionPolicy; p != nil && *p != "" {
			return actionOf(*p), true
		}
		if acls == "" {
			b.problem("", "", "agent configuration",
				"neither default_intention_policy nor the default of its ACLs can be read: what no intention allows is denied")
		}
		return actionOf(acls), true
	case hasStatus(s.err, http.StatusForbidden):
		if acls == "allow" {
			b.problem("", "", "agent configuration",
				"default_intention_policy cannot be read (it needs agent:read): what no intention allows is denied")
		}
		return intention.Deny, true
	case seed != nil:
		b.fromFile = true
		return seed.Default, true
	}
	return intention.Deny, false
}

func actionOf(policy string) intention.Action {
	if policy == "allow" {
		return intention.Allow
	}
	return intention.Deny
}
