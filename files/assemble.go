package files

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
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
	instance *service            // nil: the proxy does not say which, and there are several
	host     string              // proxies with one host are taken to be on one machine
	address  string              // what others dial
	settings definition.Settings // the proxy's own over its service's over the mesh's
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

	c := catalog.Contents{Mesh: a.mesh(), Proxies: make([]*catalog.Proxy, 0, len(a.sidecars))}
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
		slices.SortFunc(s.Endpoints, catalog.CompareEndpoints)
		c.Services = append(c.Services, s)
	}
	c.Intentions = catalog.ByDestination(slices.Clone(d.intentions))
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
		m.Incoming.Allow12, m.Outgoing.Allow12, m.DropForwardedClientCert = e.Incoming.Allow12.Value, e.Outgoing.Allow12.Value, e.DropForwardedClientCert
	}
	return m
}

// service is the service of that name, which is mentioned at a place.
func (a *assembly) service(name string, at definition.Position) *catalog.Service {
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
	if e := a.defaults[name]; e != nil && e.settings.Protocol.Set {
		return e.settings.Protocol.Value, "service-defaults at " + e.settings.Protocol.At.String()
	}
	if e := a.proxyDefaults; e != nil && e.settings.Protocol.Set {
		return e.settings.Protocol.Value, "proxy-defaults at " + e.settings.Protocol.At.String()
	}
	return catalog.TCP, "no service-defaults say otherwise"
}

// sidecar finds out whose proxy p is and what holds for it; nil if that is a problem.
func (a *assembly) sidecar(p *proxy) *sidecar {
	own := *p // the port that is chosen for it is not the file's
	s := &sidecar{proxy: &own, instance: p.parent, service: p.destination.Value}
	switch {
	case p.instance.Set:
		s.instance = a.byID[p.instance.Value]
		if s.instance == nil {
			a.problem(p.instance.At, "destination_service_id %.60q: there is no service with that ID", p.instance.Value)
			return nil
		}
	case p.parent == nil:
		list := a.byName[s.service]
		if len(list) == 0 {
			a.problem(p.destination.At, "destination_service_name %q: there is no service of that name", s.service)
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
		a.problem(p.destination.At, "destination_service_name is %q, but the service with the ID %q is called %q", s.service, s.instance.id, s.instance.name)
		return nil
	}
	address := p.address
	if s.instance != nil {
		address = address.Or(s.instance.address)
	}
	s.address = address.Value
	if s.address == "" {
		s.address = "127.0.0.1"
	}
	s.host = s.address
	if ip, ok := definition.ParseIP(s.address); ok && ip.IsLoopback() || s.address == "localhost" {
		s.host = "loopback"
	}
	s.settings = a.over(s)
	if !s.settings.BindAddress.Set {
		ip, ok := definition.ParseIP(address.Value)
		if !ok {
			ip = netip.IPv4Unspecified()
		}
		s.settings.BindAddress.Value = ip
	}
	return s
}

// over is what holds for s by precedence, with what contradicts its protocol reported, or left out where it was meant for
// the whole mesh.
func (a *assembly) over(s *sidecar) definition.Settings {
	protocol, why := a.protocolOf(s.service)
	if own := s.proxy.settings.Protocol; own.Set && own.Value != protocol {
		a.problem(own.At, "protocol %s contradicts that of service %s, which is %s (%s): say it in service-defaults", own.Value, s.service, protocol, why)
	}
	own := s.proxy.settings
	if e := a.defaults[s.service]; e != nil {
		own = own.Over(e.settings)
	}
	if r := own.Revocation; r.Set && !r.Value.Fits(protocol) {
		a.problem(r.At, "revocation %q is not for protocol %s, which %s has: use %s", r.Value, protocol, s.service, fitting(protocol))
	}
	if f := own.ServerFirst; f.Set && f.Value && protocol.L7() {
		a.problem(f.At, "server_first is for services of protocol tcp; %s is %s (%s)", s.service, protocol, why)
	}
	all := own
	if e := a.proxyDefaults; e != nil {
		mesh := e.settings
		mesh.Revocation.Set = mesh.Revocation.Set && mesh.Revocation.Value.Fits(protocol)
		mesh.ServerFirst.Set = mesh.ServerFirst.Set && !protocol.L7()
		all = own.Over(mesh)
	}
	all.Protocol.Value = protocol
	if !all.Revocation.Set {
		all.Revocation.Value = catalog.DefaultRevocation(protocol)
		if r := a.config.Revocation; r != nil && r.Fits(protocol) {
			all.Revocation.Value = *r
		}
	}
	if !all.Enforcement.Set {
		all.Enforcement.Value = a.config.Enforcement
	}
	if all.Enforcement.Value == catalog.ExtAuthz && all.ServerFirst.Set && all.ServerFirst.Value {
		at := all.Enforcement.Or(definition.Setting[catalog.Enforcement]{At: all.ServerFirst.At}).At
		a.problem(at, `ext_authz cannot protect %s, whose server speaks first (server_first at %s): it decides at the client's first byte. Use intention_enforcement = "both"`, s.service, all.ServerFirst.At)
	}
	if !all.UID.Set {
		all.UID.Value = -1
	}
	return all
}

func fitting(p catalog.Protocol) string {
	if p.L7() {
		return `"next-request" or "drain"`
	}
	return `"drain" or "new"`
}

func (a *assembly) proxy(s *sidecar) *catalog.Proxy {
	p := &catalog.Proxy{
		ID:        identity.ProxyID(s.id),
		Service:   identity.NewName(s.service),
		Origin:    s.at.String(),
		Inbound:   a.inbound(s),
		Bootstrap: catalog.Bootstrap{UID: s.settings.UID.Value},
	}
	if s.instance != nil {
		p.Instance = s.instance.id
	}
	if s.settings.Prometheus.Set {
		p.Bootstrap.PrometheusBindAddr = s.settings.Prometheus.Value.String()
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
		Address:     e.BindAddress.Value.String(),
		Port:        e.BindPort.Or(s.port).Value,
		Protocol:    e.Protocol.Value,
		Enforcement: e.Enforcement.Value,
		Revocation:  e.Revocation.Value,
		ServerFirst: e.ServerFirst.Set && e.ServerFirst.Value,
	}
	e.Apply(&in)
	port, socket := s.localPort.Value, s.localSocket.Value
	if s.instance != nil && socket == "" && port == 0 {
		port = s.instance.port.Value
		if port == 0 {
			socket = s.instance.socket.Value
		}
	}
	switch {
	case socket != "":
		in.LocalSocket = socket
	case port != 0:
		in.LocalAddress = cmp.Or(s.localAddress.Value, "127.0.0.1")
		in.LocalPort = port
	default:
		a.problem(s.at, "nothing to hand connections to: give service %s a port or a socket_path, or the proxy a local_service_port", s.service)
	}
	return in
}

func (a *assembly) upstream(s *sidecar, u *upstream) catalog.Upstream {
	name := u.Destination.Service
	var e definition.UpstreamSettings
	if u.settings != nil {
		e = *u.settings
	}
	if d := a.defaults[s.service]; d != nil {
		e = e.Over(d.overrides[name]).Over(d.upstreams)
	}
	protocol, why := a.protocolOf(name)
	if e.Protocol.Set && e.Protocol.Value != protocol {
		a.problem(e.Protocol.At, "protocol %s contradicts that of the upstream %s, which is %s (%s): say it in service-defaults of %s", e.Protocol.Value, name, protocol, why, name)
	}
	a.service(name, u.at)
	if !a.dialled[name] {
		a.warning(u.at, "upstream %s: no service of that name has a proxy here, so nothing answers", name)
	}
	return e.Apply(u.Upstream)
}

// endpoint is how others reach s. Its health is that of its own checks, if it has any; else a nested sidecar has that of its
// service, as Consul gives it an alias check.
func (a *assembly) endpoint(s *sidecar) catalog.Endpoint {
	h, w := s.health.Value, weights{1, 1}
	if s.parent != nil {
		if !s.health.Set {
			h = s.parent.health
		}
		w = s.weights.Or(s.parent.weights).Else(w)
	} else {
		w = s.weights.Else(w)
	}
	weight := w.passing
	if h == warning {
		weight = w.warning
	}
	// Envoy adds weights up in 32 bits; Consul clamps them likewise.
	return catalog.Endpoint{
		Address: s.address, Port: s.port.Value,
		Weight:  uint32(min(max(weight, 1), 128)),
		Healthy: h != critical && weight > 0,
	}
}
