package files

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// maxServerName is how long a server name can be in a TLS handshake.
const maxServerName = 255

// assembly puts what files say together and checks what no file shows alone.
type assembly struct {
	report
	config  Config
	longest int // that the name of a service may be

	files         []*file
	ids           map[string]registration
	names         map[string]*name
	routing       map[title]*routing
	providers     map[string]*tokenProvider
	chains        chains
	proxyDefaults *proxyDefaults               // nil: none
	meshEntry     *mesh                        // nil: none
	sidecars      []*sidecar                   // sorted by ID
	sorted        []*name                      // names, sorted
	natives       map[*service][]claim.Address // where those listen themselves that are native
	claims        *claim.Table
	named         namedPorts
	turn          int // counts updates

	ports    map[string]uint16 // chosen ones
	newPorts bool              // since the last update
	contents catalog.Contents

	// Of one update:
	proxies  []*proxy // whose sidecars are to be made
	created  []*name
	arrived  []*service // instances that are not among the others yet
	departed []*service // instances that have gone
}

// name is what is said of all services of one name; there is one of the wildcard too.
type name struct {
	name      string
	instances []*service
	defaults  *serviceDefaults   // nil: none
	entry     destination        // its intentions; zero: none
	service   *catalog.Service   // nil: to be made
	endpoints *catalog.Endpoints // nil: to be made

	served  int // the last turn in which it had a proxy
	dialled int // the last turn in which it was an upstream
	led     int // the last turn in which a chain that somebody dials led to it, and wanted its subsets, or all of it
	wanted  map[string]bool

	resolver *routing                      // nil: none
	subsets  map[string]*catalog.Endpoints // of its resolver's subsets, by name; they are made with endpoints

	members     []member // while endpoints are made
	touched     bool     // by this update: instances or defaults
	newProtocol bool     // by this update
	tooLong     bool     // and reported
}

func newAssembly(config Config) *assembly {
	return &assembly{
		config: config, longest: maxServerName - len(config.serverName("")),
		ids: map[string]registration{}, names: map[string]*name{}, routing: map[title]*routing{}, providers: map[string]*tokenProvider{}, claims: claim.NewTable(), natives: map[*service][]claim.Address{},
	}
}

// serverName is the one by which a service is dialled.
func (c *Config) serverName(service string) string {
	name := identity.NewName(service)
	return identity.Service{TrustDomain: c.TrustDomain, Datacenter: c.Datacenter, Name: name}.SNI()
}

// update makes a, which has seen no mistake so far, the assembly of files, and takes from before
// what is equal. If they are not whole, no more is checked than what they claim. It is false if a
// cannot follow: every proxy is concerned, or there is a problem, which is told as of files that
// are read for the first time. An assembly that is new always can.
func (a *assembly) update(
	files []*file, whole bool, remembered map[string]uint16, before catalog.Contents,
) bool {
	follows, proxyDefaults, named := a.files != nil, a.proxyDefaults, a.named
	a.newPorts = false
	a.turn++
	gone, added := differing(a.files, files)
	if follows && len(gone)+len(added) == 0 {
		return true
	}
	a.report, a.files, a.proxies, a.created, a.arrived, a.departed = report{}, files, nil, nil, nil, nil
	for _, d := range gone {
		a.remove(d)
	}
	for _, d := range added {
		a.add(d)
	}
	if !whole || follows && (len(a.problems) > 0 || !proxyDefaults.equal(a.proxyDefaults)) {
		return false
	}
	removed := a.removeSidecars()
	made := a.makeSidecars()
	a.named = a.namedPorts()
	if !follows || named != a.named || !slices.EqualFunc(removed, made, (*sidecar).samePort) {
		a.choosePorts(remembered)
	}
	for _, s := range made {
		s.chosen = a.ports[s.id] // 0 if it names one
	}
	a.publish(before)
	return !follows || len(a.problems) == 0
}

// add takes d, and reports what contradicts others.
func (a *assembly) add(d *definitions) {
	for _, r := range d.registrations {
		id, at := r.id()
		if first, taken := a.ids[id]; taken {
			_, first := first.id()
			a.twice(title{aService, id}, at, first)
			continue
		}
		a.ids[id] = r
		if r.proxy != nil {
			a.proxies = append(a.proxies, r.proxy)
			continue
		}
		n := a.touch(r.service.name)
		n.instances = append(n.instances, r.service)
		a.arrived = append(a.arrived, r.service)
		if r.service.registration.Native {
			n.endpoints = nil
		}
		a.check(n, at)
	}
	if e := d.destination; e.Destination != nil {
		if n := a.name(e.Name.Service); n.entry.Destination != nil {
			a.twice(title{ofDestination, n.name}, e.at, n.entry.at)
		} else {
			n.entry = e
		}
	}
	if e := d.defaults; e != nil {
		a.chains.stale = true
		if n := a.touch(e.name); n.defaults != nil {
			a.twice(title{ofService, e.name}, e.at, n.defaults.at)
		} else {
			n.defaults = e
		}
	}
	if e := d.provider; e != nil {
		a.addProvider(e)
	}
	if e := d.routing; e != nil {
		a.addRouting(e)
	}
	if e := d.proxyDefaults; e != nil {
		if a.proxyDefaults != nil {
			a.twice(title{of: ofProxies}, e.at, a.proxyDefaults.at)
		} else {
			a.proxyDefaults = e
		}
	}
	if e := d.mesh; e != nil {
		if a.meshEntry != nil {
			a.twice(title{of: ofMesh}, e.at, a.meshEntry.at)
		} else {
			a.meshEntry = e
		}
	}
}

// remove takes back what add did for d, which contradicted nothing.
func (a *assembly) remove(d *definitions) {
	for _, r := range d.registrations {
		id, _ := r.id()
		delete(a.ids, id)
		if r.proxy != nil {
			i, _ := a.find(id)
			a.sidecars[i].gone = true
			continue
		}
		n := a.touch(r.service.name)
		i := slices.Index(n.instances, r.service)
		n.instances = slices.Delete(n.instances, i, i+1)
		a.departed = append(a.departed, r.service)
		if r.service.registration.Native {
			n.endpoints = nil
		}
	}
	if e := d.destination; e.Destination != nil {
		a.name(e.Name.Service).entry = destination{}
	}
	if e := d.defaults; e != nil {
		a.touch(e.name).defaults, a.chains.stale = nil, true
	}
	if e := d.provider; e != nil {
		delete(a.providers, e.Name)
	}
	if e := d.routing; e != nil {
		a.removeRouting(e)
	}
	if d.proxyDefaults != nil {
		a.proxyDefaults = nil
	}
	if d.mesh != nil {
		a.meshEntry = nil
	}
}

func (r registration) id() (id string, at definition.Position) {
	if r.proxy != nil {
		return r.proxy.id, r.proxy.at
	}
	return r.service.id, r.service.at
}

// name is the one of that name. What is not mentioned when an update ends is forgotten.
func (a *assembly) name(s string) *name {
	n := a.names[s]
	if n == nil {
		n = &name{name: s}
		a.names[s] = n
		a.created = append(a.created, n)
	}
	return n
}

// touch is name, for a change of what others depend on.
func (a *assembly) touch(s string) *name {
	n := a.name(s)
	n.touched = true
	return n
}

// check reports a name that is too long, once.
func (a *assembly) check(n *name, at definition.Position) {
	if len(n.name) <= a.longest || n.tooLong {
		return
	}
	n.tooLong = true
	server := a.config.serverName(n.name)
	a.problem(at,
		"the name of the service is too long: its server name %.40q... would have %d bytes, and TLS takes %d",
		server, len(server), maxServerName)
}

// removeSidecars removes those that are gone, and those whose services' registrations, defaults or
// protocols changed, which are to be made again.
func (a *assembly) removeSidecars() (removed []*sidecar) {
	newProtocol := func(n *name) bool { return n.newProtocol }
	protocols := false
	for _, n := range a.sorted {
		if !n.touched || n.service == nil {
			continue
		}
		if protocol, _ := a.protocolOf(n); n.service.Protocol != protocol {
			n.newProtocol, n.service, protocols = true, nil, true
		}
	}
	for _, s := range a.sidecars {
		if !s.gone && (s.of.touched || protocols && slices.ContainsFunc(s.dials, newProtocol)) {
			s.gone = true
			a.proxies = append(a.proxies, s.proxy)
		}
		if s.gone {
			a.disclaim(s)
			s.of.endpoints = nil
			removed = append(removed, s)
		}
	}
	return removed
}

// makeSidecars makes those of a.proxies and puts them among the others.
func (a *assembly) makeSidecars() (made []*sidecar) {
	for _, p := range a.proxies {
		if s := a.sidecar(p); s != nil {
			s.of.endpoints = nil
			made = append(made, s)
		}
	}
	byID := func(a, b *sidecar) int { return strings.Compare(a.id, b.id) }
	slices.SortFunc(made, byID)
	var others []*sidecar
	for _, s := range made {
		if i, ok := a.find(s.id); ok {
			a.sidecars[i] = s
		} else {
			others = append(others, s)
		}
	}
	a.sidecars = slices.DeleteFunc(a.sidecars, func(s *sidecar) bool { return s.gone })
	if len(others) > 0 {
		a.sidecars = append(a.sidecars, others...)
		slices.SortFunc(a.sidecars, byID)
	}
	return made
}

// find is where the sidecar of that ID is in a.sidecars.
func (a *assembly) find(id string) (i int, ok bool) {
	return slices.BinarySearchFunc(a.sidecars, id, func(s *sidecar, id string) int {
		return strings.Compare(s.id, id)
	})
}

// publish makes the contents.
func (a *assembly) publish(before catalog.Contents) {
	c := catalog.Contents{Mesh: a.mesh(), Whole: true, Proxies: make([]*catalog.Proxy, len(a.sidecars)), Registrations: a.registrations()}
	for _, s := range a.sidecars {
		s.of.served = a.turn
	}
	a.compileChains()
	for i, s := range a.sidecars {
		if s.published == nil {
			s.published, s.registered = a.proxy(s), a.register(s)
			a.claim(s)
			s.settings = nil
		}
		c.Proxies[i] = s.published
		for k, n := range s.dials {
			n.dialled = a.turn
			a.warnOfUnreached(n, s.upstreams[k].at)
		}
		a.warnOfMeaningless(s)
		if s.of.endpoints == nil {
			s.of.members = append(s.of.members, s.member())
		}
	}
	c.Chains, c.ChainEntries = a.dialledChains(), a.chains.entries
	for _, e := range a.tokenProviders() {
		c.TokenProviders = append(c.TokenProviders, e.TokenProvider)
	}
	a.sorted = slices.DeleteFunc(append(a.sorted, a.created...), func(n *name) bool {
		if n.served == a.turn || n.dialled == a.turn || n.led == a.turn || len(n.instances) > 0 ||
			n.defaults != nil || n.entry.Destination != nil {
			return false
		}
		delete(a.names, n.name)
		return true
	})
	if len(a.created) > 0 {
		slices.SortFunc(a.sorted, func(a, b *name) int { return strings.Compare(a.name, b.name) })
	}
	a.checkProviders()
	a.warnOfSpellings()
	a.warnOfDefaults()
	c.Services = make([]*catalog.Service, 0, len(a.sorted))
	c.Endpoints = make([]*catalog.Endpoints, 0, len(a.sorted))
	c.Intentions = make([]*catalog.Destination, 0, len(before.Intentions))
	for _, n := range a.sorted {
		if n.name != identity.Wildcard {
			a.target(n)
			a.warnOfProtocol(n)
			if d := n.defaults; d != nil {
				a.warnOfRequestTimeout(n, d.settings.RequestTimeout.At, d.settings.RequestTimeout.Set)
			}
			c.Services, c.Endpoints = append(c.Services, n.service), append(append(c.Endpoints, n.endpoints), a.ledTo(n)...)
		}
		if n.entry.Destination != nil {
			c.Intentions = append(c.Intentions, n.entry.Destination)
		}
	}
	c.Sidecars, c.Entries = a.registered(), a.entries()
	c.Reuse(&before)
	for i, s := range a.sidecars {
		s.published, s.registered = c.Proxies[i], c.Sidecars[i]
	}
	for _, chain := range c.Chains {
		a.chains.compiled[chain.Service.Service] = chain
	}
	a.contents = c
}

// target makes n's service and endpoints, and checks those names that nothing but an entry mentions.
func (a *assembly) target(n *name) {
	n.touched, n.newProtocol = false, false
	if n.service == nil {
		if n.defaults != nil {
			a.check(n, n.defaults.at)
		}
		a.check(n, n.entry.at)
		protocol, _ := a.protocolOf(n)
		n.service = &catalog.Service{Name: identity.NewName(n.name), Protocol: protocol}
	}
	if n.endpoints == nil {
		a.makeEndpoints(n)
	}
}

// warnOfProtocol names a service that would have another protocol without its service-defaults.
func (a *assembly) warnOfProtocol(n *name) {
	d, e := n.defaults, a.proxyDefaults
	if d == nil || d.settings.Protocol.Set || e == nil || e.settings.Protocol.Value == catalog.TCP {
		return
	}
	a.warning(d.at, "service-defaults of %s have no Protocol, so it is tcp, as in Consul, though proxy-defaults (%s) say %s: write it down here",
		n.name, e.settings.Protocol.At, e.settings.Protocol.Value)
}

// mesh is what holds for all services.
func (a *assembly) mesh() catalog.Mesh {
	m := catalog.Mesh{
		TrustDomain: a.config.TrustDomain,
		Datacenter:  a.config.Datacenter,
		Datacenters: []string{a.config.Datacenter},
		Default:     a.config.Default,
	}
	if e := a.meshEntry; e != nil {
		m.Incoming.Allow12, m.Outgoing.Allow12 = e.Incoming.Allow12.Value, e.Outgoing.Allow12.Value
		m.DropForwardedClientCert = e.DropForwardedClientCert
	}
	return m
}

// protocolOf is what a service speaks, and which entry says so. As in Consul's discovery chains,
// service-defaults without a Protocol say tcp, whatever proxy-defaults say.
func (a *assembly) protocolOf(n *name) (catalog.Protocol, string) {
	switch e := n.defaults; {
	case e == nil:
	case e.settings.Protocol.Set:
		return e.settings.Protocol.Value, "service-defaults at " + e.settings.Protocol.At.String()
	default:
		return catalog.TCP, "service-defaults at " + e.at.String() + " have no Protocol"
	}
	if e := a.proxyDefaults; e != nil && e.settings.Protocol.Set {
		return e.settings.Protocol.Value, "proxy-defaults at " + e.settings.Protocol.At.String()
	}
	return catalog.TCP, "no service-defaults say otherwise"
}
