package catalog

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// View is one state of the catalog, ready for look-ups. It is immutable, and so is all that it returns. The zero View is a mesh of which nothing is
// known yet; its Mesh is nil.
type View struct {
	mesh       *Mesh
	services   map[serviceKey]*Service
	proxies    map[identity.ProxyID]*Proxy
	order      []*Proxy // by ID
	instances  map[string][]*Proxy
	intentions map[identity.Name][]intention.Intention // by destination
	policies   map[identity.Name]*intention.Policy
}

// serviceKey is what a service is found by. The datacenter is empty if it is the mesh's own.
type serviceKey struct {
	identity.Name
	datacenter string
}

// key leaves out the mesh's own datacenter.
func (m *Mesh) key(name identity.Name, datacenter string) serviceKey {
	if m != nil && datacenter == m.Datacenter {
		datacenter = ""
	}
	return serviceKey{name, datacenter}
}

// Next returns the view of c. Whatever is equal in v is taken from v, pointer and all; if everything is, v itself is
// returned. Of two services of one name and datacenter, or two proxies of one ID, the later one in c counts. It does not block and does not change v; v must not be nil.
func (v *View) Next(c Contents) *View {
	n := &View{
		mesh:      v.mesh,
		services:  make(map[serviceKey]*Service, len(c.Services)),
		proxies:   make(map[identity.ProxyID]*Proxy, len(c.Proxies)),
		instances: make(map[string][]*Proxy, len(c.Proxies)),
	}
	changed := n.takeMesh(c.Mesh)
	for i := range c.Services {
		s := &c.Services[i]
		key := n.mesh.key(s.Name, s.Datacenter)
		n.services[key] = v.internService(key, s)
	}
	for i := range c.Proxies {
		n.proxies[c.Proxies[i].ID] = v.internProxy(&c.Proxies[i])
	}
	// A service that somebody dials or protects but that has no instance is a service without endpoints.
	for _, p := range n.proxies {
		n.nameService(v, serviceKey{Name: p.Service})
		for _, u := range p.Upstreams {
			n.nameService(v, n.mesh.key(u.Destination, u.Datacenter))
		}
	}
	changed = n.takePolicies(v, c.Intentions) || changed
	if !changed && maps.Equal(n.services, v.services) && maps.Equal(n.proxies, v.proxies) {
		return v
	}
	n.order = slices.SortedFunc(maps.Values(n.proxies), func(a, b *Proxy) int { return cmp.Compare(a.ID, b.ID) })
	for _, p := range n.order {
		n.instances[p.Instance] = append(n.instances[p.Instance], p)
	}
	return n
}

// takeMesh puts m in place of the mesh that n has from its predecessor, and reports whether it differs.
func (n *View) takeMesh(m Mesh) bool {
	m.Datacenters = slices.Clone(m.Datacenters)
	slices.Sort(m.Datacenters)
	if n.mesh != nil && n.mesh.equal(&m) {
		return false
	}
	n.mesh = &m
	return true
}

func (v *View) internService(key serviceKey, s *Service) *Service {
	// A copy, as for proxies: a pointer into the contents would keep all of them in memory as long as this one service stays.
	c := *s
	c.Datacenter = key.datacenter
	if !slices.IsSortedFunc(s.Endpoints, compareEndpoints) {
		c.Endpoints = slices.SortedFunc(slices.Values(s.Endpoints), compareEndpoints)
	}
	if old := v.services[key]; old != nil && old.equal(&c) {
		return old
	}
	return &c
}

func (v *View) internProxy(p *Proxy) *Proxy {
	if old := v.proxies[p.ID]; old != nil && old.equal(p) {
		return old
	}
	c := *p
	return &c
}

func (n *View) nameService(old *View, key serviceKey) {
	if n.services[key] == nil {
		n.services[key] = old.internService(key, &Service{Name: key.Name})
	}
}

// takePolicies compiles the policies of all destinations, taking those of v whose intentions did not change, and reports
// whether any changed.
func (n *View) takePolicies(v *View, all []intention.Intention) bool {
	n.intentions = map[identity.Name][]intention.Intention{}
	for _, i := range all {
		n.intentions[i.Destination] = append(n.intentions[i.Destination], i)
	}
	changes := map[identity.Name]bool{} // destinations, the wildcard among them, about which something else is said than in v
	for dst, list := range n.intentions {
		slices.SortFunc(list, intention.Compare)
		if old, ok := v.intentions[dst]; ok && slices.Equal(old, list) {
			n.intentions[dst] = old
		} else {
			changes[dst] = true
		}
	}
	for dst := range v.intentions {
		if _, ok := n.intentions[dst]; !ok {
			changes[dst] = true
		}
	}
	scope := intention.Scope{TrustDomain: n.mesh.TrustDomain, Datacenters: n.mesh.Datacenters, Default: n.mesh.Default}
	n.policies = make(map[identity.Name]*intention.Policy, len(n.services))
	changed := false
	compile := func(dst identity.Name) {
		if dst.IsWildcard() || n.policies[dst] != nil {
			return
		}
		wildcard := identity.Name{Partition: dst.Partition, Namespace: dst.Namespace, Service: identity.Wildcard}
		if old := v.policies[dst]; old != nil && n.mesh == v.mesh && !changes[dst] && !changes[wildcard] {
			n.policies[dst] = old
			return
		}
		n.policies[dst] = intention.Compile(dst, slices.Concat(n.intentions[dst], n.intentions[wildcard]), scope)
		changed = true
	}
	for key := range n.services {
		if key.datacenter == "" { // who may reach the others is decided where they are
			compile(key.Name)
		}
	}
	for dst := range n.intentions {
		compile(dst)
	}
	return changed || len(changes) > 0 || len(n.policies) != len(v.policies)
}

// Mesh is what holds for all services; nil before anything is known.
func (v *View) Mesh() *Mesh { return v.mesh }

// Service is the service of that name in the mesh's own datacenter, or nil. Every service that a proxy protects or dials is there, if only without endpoints.
func (v *View) Service(name identity.Name) *Service { return v.services[serviceKey{Name: name}] }

// Upstream is the service that u dials, in whichever datacenter, or nil.
func (v *View) Upstream(u Upstream) *Service {
	return v.services[v.mesh.key(u.Destination, u.Datacenter)]
}

// Proxy is the proxy of that ID, or nil.
func (v *View) Proxy(id identity.ProxyID) *Proxy { return v.proxies[id] }

// Proxies yields all proxies, sorted by ID.
func (v *View) Proxies() iter.Seq[*Proxy] { return slices.Values(v.order) }

// Sidecars are the proxies of the service instance with that ID ("web-1"), sorted by ID. The slice must not be changed.
func (v *View) Sidecars(instance string) []*Proxy { return v.instances[instance] }

// Services yields all services, sorted by name and datacenter.
func (v *View) Services() iter.Seq[*Service] {
	return slices.Values(slices.SortedFunc(maps.Values(v.services), func(a, b *Service) int {
		return cmp.Or(strings.Compare(a.Name.String(), b.Name.String()), strings.Compare(a.Datacenter, b.Datacenter))
	}))
}

// Policy is the policy of a destination: any service of the mesh's own datacenter, and any name that an intention has as its destination. Of all others
// it is nil, which denies everybody.
func (v *View) Policy(destination identity.Name) *intention.Policy { return v.policies[destination] }

// Identity is the identity that a service of that name has in this mesh. The mesh must be known.
func (v *View) Identity(name identity.Name) identity.Service {
	return identity.Service{TrustDomain: v.mesh.TrustDomain, Datacenter: v.mesh.Datacenter, Name: name}
}

func (m *Mesh) equal(o *Mesh) bool {
	return m.TrustDomain == o.TrustDomain && m.Datacenter == o.Datacenter && slices.Equal(m.Datacenters, o.Datacenters) &&
		m.Default == o.Default && m.Incoming == o.Incoming && m.Outgoing == o.Outgoing && m.DropForwardedClientCert == o.DropForwardedClientCert
}

func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.Datacenter == o.Datacenter && s.Protocol == o.Protocol && slices.Equal(s.Endpoints, o.Endpoints)
}

func (p *Proxy) equal(o *Proxy) bool {
	return p.ID == o.ID && p.Service == o.Service && p.Instance == o.Instance && p.Origin == o.Origin &&
		p.Inbound == o.Inbound && p.Bootstrap == o.Bootstrap && slices.Equal(p.Upstreams, o.Upstreams) && slices.Equal(p.Exposed, o.Exposed)
}

func compareEndpoints(a, b Endpoint) int {
	return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Weight, b.Weight), boolCompare(a.Healthy, b.Healthy))
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// IntentionCount is the number of intentions.
func (v *View) IntentionCount() int {
	n := 0
	for _, list := range v.intentions {
		n += len(list)
	}
	return n
}
