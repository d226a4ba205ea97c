package files

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// maxServerName is how long a server name can be in a TLS handshake.
const maxServerName = 255

// assembly puts what was read together and checks what no file shows alone.
type assembly struct {
	*directory
	byName   map[string][]*service
	byID     map[string]*service
	services map[string]*catalog.Service
	dialled  map[string]bool // services that have a proxy
	sidecars []*sidecar
}

// sidecar is a proxy with all that holds for it.
type sidecar struct {
	*proxy
	service  string
	instance *service // nil: the proxy does not say which, and there are several
	host     string   // proxies with one host are taken to be on one machine
	address  string   // what others dial
	settings settings // the proxy's own over its service's over the mesh's
}

// assemble returns the contents and the ports to remember. If problems were found both mean nothing.
func (d *directory) assemble(remembered map[string]uint16) (catalog.Contents, map[string]uint16) {
	a := &assembly{
		directory: d,
		byName:    map[string][]*service{}, byID: map[string]*service{},
		services: map[string]*catalog.Service{}, dialled: map[string]bool{},
	}
	for _, s := range d.services {
		a.byName[s.name] = append(a.byName[s.name], s)
		a.byID[s.id] = s
		a.service(s.name, s.at)
	}
	for _, p := range d.proxies {
		if s := a.sidecar(p); s != nil {
			a.sidecars = append(a.sidecars, s)
			a.dialled[s.service] = true
		}
	}
	slices.SortFunc(a.sidecars, func(a, b *sidecar) int { return strings.Compare(a.id, b.id) })
	ports := a.choosePorts(remembered)

	c := catalog.Contents{Mesh: a.mesh(), Proxies: make([]catalog.Proxy, 0, len(a.sidecars))}
	for _, s := range a.sidecars {
		c.Proxies = append(c.Proxies, a.proxy(s))
		e := a.endpoint(s)
		service := a.service(s.service, s.at)
		service.Endpoints = append(service.Endpoints, e)
	}
	a.checkListeners()
	for name, e := range a.defaults {
		a.service(name, e.at)
	}
	for _, name := range slices.Sorted(maps.Keys(a.destinations)) {
		if name != identity.Wildcard {
			a.service(name, a.destinations[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.services)) {
		s := a.services[name]
		slices.SortFunc(s.Endpoints, func(a, b catalog.Endpoint) int {
			return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
		})
		c.Services = append(c.Services, *s)
	}
	c.Intentions = slices.Clone(d.intentions)
	slices.SortFunc(c.Intentions, intention.Compare)
	return c, ports
}

func (a *assembly) mesh() catalog.Mesh {
	m := catalog.Mesh{
		TrustDomain: a.config.TrustDomain,
		Datacenter:  a.config.Datacenter,
		Datacenters: []string{a.config.Datacenter},
		Default:     a.config.Default,
	}
	if e := a.directory.mesh; e != nil {
		m.Incoming, m.Outgoing, m.DropForwardedClientCert = e.incoming, e.outgoing, e.dropForwarded
	}
	return m
}

// service is the service of that name, which is mentioned at a place.
func (a *assembly) service(name string, at position) *catalog.Service {
	if s := a.services[name]; s != nil {
		return s
	}
	protocol, _ := a.protocolOf(name)
	s := &catalog.Service{Name: identity.NewName(name), Protocol: protocol}
	a.services[name] = s
	id := identity.Service{TrustDomain: a.config.TrustDomain, Datacenter: a.config.Datacenter, Name: s.Name}
	if n := len(id.SNI()); n > maxServerName {
		a.problem(at, "the name of the service is too long: its server name %.40q... would have %d bytes, and TLS takes %d", id.SNI(), n, maxServerName)
	}
	return s
}

// protocolOf is what a service speaks, and which entry says so.
func (a *assembly) protocolOf(name string) (catalog.Protocol, string) {
	if e := a.defaults[name]; e != nil && e.settings.protocol.set {
		return e.settings.protocol.value, "service-defaults at " + e.settings.protocol.at.String()
	}
	if e := a.proxyDefaults; e != nil && e.settings.protocol.set {
		return e.settings.protocol.value, "proxy-defaults at " + e.settings.protocol.at.String()
	}
	return catalog.TCP, "no service-defaults say otherwise"
}

// sidecar finds out whose proxy p is and what holds for it; nil if that is a problem.
func (a *assembly) sidecar(p *proxy) *sidecar {
	own := *p // the port that is chosen for it is not the file's
	s := &sidecar{proxy: &own, instance: p.parent, service: p.destination.value}
	switch {
	case p.instance.set:
		s.instance = a.byID[p.instance.value]
		if s.instance == nil {
			a.problem(p.instance.at, "destination_service_id %.60q: there is no service with that ID", p.instance.value)
			return nil
		}
	case p.parent == nil:
		list := a.byName[s.service]
		if len(list) == 0 {
			a.problem(p.destination.at, "destination_service_name %q: there is no service of that name", s.service)
			return nil
		}
		if len(list) == 1 {
			s.instance = list[0]
		}
	}
	if s.service == "" {
		s.service = s.instance.name
	}
	if s.instance != nil && s.instance.name != s.service {
		a.problem(p.destination.at, "destination_service_name is %q, but the service with the ID %q is called %q", s.service, s.instance.id, s.instance.name)
		return nil
	}
	address := p.address
	if s.instance != nil {
		address = address.or(s.instance.address)
	}
	s.address = address.value
	if s.address == "" {
		s.address = "127.0.0.1"
	}
	s.host = s.address
	if ip, ok := parseIP(s.address); ok && ip.IsLoopback() || s.address == "localhost" {
		s.host = "loopback"
	}
	s.settings = a.over(s)
	if !s.settings.bindAddress.set {
		ip, ok := parseIP(address.value)
		if !ok {
			ip = netip.IPv4Unspecified()
		}
		s.settings.bindAddress.value = ip
	}
	return s
}

// over is what holds for s by precedence, with what contradicts its protocol reported, or left out where it was meant for
// the whole mesh.
func (a *assembly) over(s *sidecar) settings {
	protocol, why := a.protocolOf(s.service)
	if own := s.proxy.settings.protocol; own.set && own.value != protocol {
		a.problem(own.at, "protocol %s contradicts that of service %s, which is %s (%s): say it in service-defaults", own.value, s.service, protocol, why)
	}
	own := s.proxy.settings
	if e := a.defaults[s.service]; e != nil {
		own = own.over(e.settings)
	}
	if r := own.revocation; r.set && !r.value.Fits(protocol) {
		a.problem(r.at, "revocation %q is not for protocol %s, which %s has: use %s", r.value, protocol, s.service, fitting(protocol))
	}
	if f := own.serverFirst; f.set && f.value && protocol.L7() {
		a.problem(f.at, "server_first is for services of protocol tcp; %s is %s (%s)", s.service, protocol, why)
	}
	all := own
	if e := a.proxyDefaults; e != nil {
		mesh := e.settings
		mesh.revocation.set = mesh.revocation.set && mesh.revocation.value.Fits(protocol)
		mesh.serverFirst.set = mesh.serverFirst.set && !protocol.L7()
		all = own.over(mesh)
	}
	all.protocol.value = protocol
	if !all.revocation.set {
		all.revocation.value = catalog.DefaultRevocation(protocol)
		if r := a.config.Revocation; r != nil && r.Fits(protocol) {
			all.revocation.value = *r
		}
	}
	if !all.enforcement.set {
		all.enforcement.value = a.config.Enforcement
	}
	if all.enforcement.value == catalog.ExtAuthz && all.serverFirst.set && all.serverFirst.value {
		at := all.enforcement.or(setting[catalog.Enforcement]{at: all.serverFirst.at}).at
		a.problem(at, `ext_authz cannot protect %s, whose server speaks first (server_first at %s): it decides at the client's first byte. Use intention_enforcement = "both"`, s.service, all.serverFirst.at)
	}
	if !all.uid.set {
		all.uid.value = -1
	}
	return all
}

func fitting(p catalog.Protocol) string {
	if p.L7() {
		return `"next-request" or "drain"`
	}
	return `"drain" or "new"`
}

func (a *assembly) proxy(s *sidecar) catalog.Proxy {
	p := catalog.Proxy{
		ID:        identity.ProxyID(s.id),
		Service:   identity.NewName(s.service),
		Origin:    s.at.String(),
		Inbound:   a.inbound(s),
		Bootstrap: catalog.Bootstrap{UID: s.settings.uid.value},
	}
	if s.instance != nil {
		p.Instance = s.instance.id
	}
	if s.settings.prometheus.set {
		p.Bootstrap.PrometheusBindAddr = s.settings.prometheus.value.String()
	}
	if len(s.upstreams) > 0 {
		p.Upstreams = make([]catalog.Upstream, 0, len(s.upstreams))
	}
	for i := range s.upstreams {
		p.Upstreams = append(p.Upstreams, a.upstream(s, &s.upstreams[i]))
	}
	for _, e := range s.exposed {
		p.Exposed = append(p.Exposed, e.ExposedPath)
	}
	slices.SortFunc(p.Exposed, catalog.CompareExposed)
	return p
}

func (a *assembly) inbound(s *sidecar) catalog.Inbound {
	e := s.settings
	in := catalog.Inbound{
		Address:            e.bindAddress.value.String(),
		Port:               e.bindPort.or(s.port).value,
		Protocol:           e.protocol.value,
		Enforcement:        e.enforcement.value,
		Revocation:         e.revocation.value,
		ServerFirst:        e.serverFirst.set && e.serverFirst.value,
		ConnectTimeout:     e.connectTimeout.value,
		RequestTimeout:     e.requestTimeout.value,
		IdleTimeout:        catalog.Timeout{Set: e.idleTimeout.set, Duration: e.idleTimeout.value},
		MaxConnections:     e.maxConnections.value,
		BalanceConnections: e.balance.value,
	}
	port, socket := s.localPort.value, s.localSocket.value
	if s.instance != nil && socket == "" && port == 0 {
		port = s.instance.port.value
		if port == 0 {
			socket = s.instance.socket.value
		}
	}
	switch {
	case socket != "":
		in.LocalSocket = socket
	case port != 0:
		in.LocalAddress = cmp.Or(s.localAddress.value, "127.0.0.1")
		in.LocalPort = port
	default:
		a.problem(s.at, "nothing to hand connections to: give service %s a port or a socket_path, or the proxy a local_service_port", s.service)
	}
	return in
}

func (a *assembly) upstream(s *sidecar, u *upstream) catalog.Upstream {
	name := u.Destination.Service
	var e upstreamSettings
	if u.settings != nil {
		e = *u.settings
	}
	if d := a.defaults[s.service]; d != nil {
		e = e.over(d.overrides[name]).over(d.upstreams)
	}
	protocol, why := a.protocolOf(name)
	if e.protocol.set && e.protocol.value != protocol {
		a.problem(e.protocol.at, "protocol %s contradicts that of the upstream %s, which is %s (%s): say it in service-defaults of %s", e.protocol.value, name, protocol, why, name)
	}
	a.service(name, u.at)
	if !a.dialled[name] {
		a.warning(u.at, "upstream %s: no service of that name has a proxy here, so nothing answers", name)
	}
	return u.with(e)
}

// endpoint is how others reach s. Its health is that of its own checks, if it has any; else a nested sidecar has that of its
// service, as Consul gives it an alias check.
func (a *assembly) endpoint(s *sidecar) catalog.Endpoint {
	h, w := s.health.value, weights{1, 1}
	if s.parent != nil {
		if !s.health.set {
			h = s.parent.health
		}
		w = s.weights.or(s.parent.weights).or(setting[weights]{value: w}).value
	} else if s.weights.set {
		w = s.weights.value
	}
	weight := w.passing
	if h == warning {
		weight = w.warning
	}
	// Envoy adds weights up in 32 bits; Consul clamps them likewise.
	return catalog.Endpoint{
		Address: s.address, Port: s.port.value,
		Weight:  uint32(min(max(weight, 1), 128)),
		Healthy: h != critical && weight > 0,
	}
}
