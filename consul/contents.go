package consul

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
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
	for _, t := range b.nodeProxies.targets {
		b.readTarget(t)
	}
	n := needs{map[string]catalog.Target{}, map[string]*catalog.Destination{}}
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
	for _, t := range b.nodeProxies.targets {
		if t.served {
			n.targets[t.name] = t.Target
		}
	}
	for _, t := range n.targets {
		if t.Service != nil {
			c.Services = append(c.Services, t.Service)
		}
		if t.Endpoints != nil {
			c.Endpoints = append(c.Endpoints, t.Endpoints)
		}
	}
	// What nobody dials after an outage may be dialled again in a moment: a node that has another name
	// now has no proxies until its agent has registered them anew.
	if back, lost := b.serversBack(); !lost || !b.now.Before(back.Add(holdTime)) {
		maps.DeleteFunc(b.endpoints, func(target string, _ endpointState) bool {
			return a.known.endpoints[target] == nil
		})
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
	c.Sort()
	return c, true
}

// needs are what proxies that are served need, but for what they dial that is known from the agent:
// targets, of which either part may be nil, and what is said of their own services, of which nil is
// nothing.
type needs struct {
	targets    map[string]catalog.Target
	intentions map[string]*catalog.Destination
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
		t, e := b.nodeProxies.targets[name], b.agent.known.endpoints[name]
		if t == nil || t.Endpoints == nil || e == nil {
			continue // nobody dials it any more, or not all of it is known
		}
		if !slices.Equal(t.undialable, e.value.undialable) {
			return false, false
		}
		list := b.hold(name, e)
		i, found := slices.BinarySearchFunc(all, name, compareTarget)
		if !t.served || !found || slices.Equal(all[i].List, list) {
			continue
		}
		if !changed {
			all, changed = slices.Clone(all), true
		}
		all[i] = &catalog.Endpoints{Name: all[i].Name, Datacenter: all[i].Datacenter, List: list}
	}
	b.contents.Endpoints = all
	return changed, true
}

// compareTarget compares as contents are sorted.
func compareTarget(e *catalog.Endpoints, target string) int {
	name, datacenter := splitTarget(target)
	return cmp.Or(strings.Compare(e.Name.Service, name), strings.Compare(e.Datacenter, datacenter))
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
		for _, dc := range k.datacenters.value {
			if identity.CheckDatacenter(dc) == nil {
				b.datacenters[dc] = true
			}
		}
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
