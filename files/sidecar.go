package files

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// sidecar is a proxy with all that holds for it.
type sidecar struct {
	*proxy
	of       *name    // whose proxy it is
	instance *service // nil: the proxy does not say which, and there are several
	dials    []*name  // as upstreams
	host     string   // proxies with one host are taken to be on one machine; empty: loopback
	network  string   // network namespace there; empty: the machine's own
	address  string   // what others dial
	chosen   uint16   // if it names no port
	named    []uint16 // ports of those that are chosen from
	// settings are the proxy's own over its service's over the mesh's; nil once published.
	settings *definition.Settings

	listeners []listener
	published *catalog.Proxy // nil: not yet
	// registered is what is told of the registration; it is made with published.
	registered *catalog.Sidecar
	gone       bool
}

// loopback is where those are dialled who say no address.
const loopback = "127.0.0.1"

// publicPort is the one that others dial.
func (s *sidecar) publicPort() uint16 { return s.port.Else(s.chosen) }

// sidecar finds out whose proxy p is and what holds for it; nil if that is a problem.
func (a *assembly) sidecar(p *proxy) *sidecar {
	s := &sidecar{proxy: p, instance: p.parent}
	service := p.destination.Value
	switch {
	case p.instance.Set:
		s.instance = a.ids[p.instance.Value].service
		if s.instance == nil {
			a.doubtful(p.instance.At,
				"destination_service_id %.60q: there is no service with that ID", p.instance.Value)
			return nil
		}
	case p.parent == nil:
		n := a.names[service]
		if n == nil || len(n.instances) == 0 {
			a.doubtful(p.destination.At,
				"destination_service_name %q: there is no service of that name", service)
			return nil
		}
		if len(n.instances) == 1 {
			s.instance = n.instances[0]
		}
	}
	if service == "" {
		service = s.instance.name
	}
	if s.instance != nil && s.instance.name != service {
		a.problem(p.destination.At,
			"destination_service_name is %q, but the service with the ID %q is called %q",
			service, s.instance.id, s.instance.name)
		return nil
	}
	s.of = a.name(service)
	for i := range p.upstreams {
		s.dials = append(s.dials, a.name(p.upstreams[i].Destination.Service))
	}
	address := p.address
	if s.instance != nil {
		address = address.Or(s.instance.address)
	}
	s.address = address.Value
	if s.address == "" {
		s.address = loopback
	}
	s.host = hostOf(s.address)
	s.settings = a.over(s)
	s.network = s.settings.Network.Value
	if !s.settings.BindAddress.Set {
		ip, ok := definition.ParseIP(address.Value)
		if !ok {
			ip = netip.IPv4Unspecified()
		}
		s.settings.BindAddress.Value = ip
	}
	s.namePorts()
	return s
}

// over is what holds for s by precedence, with what contradicts its protocol reported, or left out
// where it was meant for the whole mesh.
func (a *assembly) over(s *sidecar) *definition.Settings {
	protocol, why := a.protocolOf(s.of)
	if own := s.proxy.settings.Protocol; own.Set && own.Value != protocol {
		a.doubtful(own.At,
			"protocol %s contradicts that of service %s, which is %s (%s): say it in service-defaults",
			own.Value, s.of.name, protocol, why)
	}
	own := s.proxy.settings
	if e := s.of.defaults; e != nil {
		own = own.Over(e.settings)
	}
	if r := own.Revocation; r.Set && !r.Value.Fits(protocol) {
		a.doubtful(r.At,
			"revocation %q is not for protocol %s, which %s has: use %s",
			r.Value, protocol, s.of.name, fitting(protocol))
	}
	if f := own.ServerFirst; f.Set && f.Value && protocol.L7() {
		a.doubtful(f.At,
			"server_first is for services of protocol tcp; %s is %s (%s)", s.of.name, protocol, why)
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
		a.doubtful(at,
			`ext_authz cannot protect %s, whose server speaks first (server_first at %s): it decides at the client's first byte. Use intention_enforcement = "both"`,
			s.of.name, all.ServerFirst.At)
	}
	if all.ServerFirst.Set && all.ServerFirst.Value {
		a.refuseForeign(s.of, all.ServerFirst.At)
	}
	return &all
}

// refuseForeign reports the intentions that allow workloads of other trust domains to connect to a
// service that speaks first.
func (a *assembly) refuseForeign(n *name, said definition.Position) {
	if n.entry.Destination == nil {
		return
	}
	for _, i := range n.entry.Intentions {
		if i.Source.ID == "" || i.Action != intention.Allow {
			continue
		}
		a.doubtful(definition.ParsePosition(i.Origin),
			"source %s is of another trust domain, and %s speaks first (server_first at %s): Envoy lets in who shows a second name of another domain, and ends the connection "+
				"at its first byte, when the server has spoken. Deny it, or have it connect to a service that waits for its client", i.Source.ID, n.name, said)
	}
}

func fitting(p catalog.Protocol) string {
	if p.L7() {
		return `"next-request" or "drain"`
	}
	return `"drain" or "new"`
}

// logs are what is logged of what s serves.
func (a *assembly) logs(s *sidecar) (l catalog.AccessLogs) {
	if l = a.loggedOf(s.proxy); l.Enabled {
		l.FailuresOnly = s.settings.Logged.Value
	}
	return l
}

// loggedOf are the logs of a proxy, or those of all.
func (a *assembly) loggedOf(p *proxy) catalog.AccessLogs {
	if e := a.proxyDefaults; !p.logs.Set && e != nil {
		return e.logs.Value
	}
	return p.logs.Value
}

func (a *assembly) proxy(s *sidecar) *catalog.Proxy {
	p := &catalog.Proxy{
		ID:        identity.ProxyID(s.id),
		Service:   identity.NewName(s.of.name),
		Origin:    s.at.String(),
		Host:      s.host,
		Network:   s.network,
		Inbound:   a.inbound(s),
		Bootstrap: s.settings.Bootstrap(),

		RefuseHTTP10: !s.settings.AcceptHTTP10.Else(true),
		AccessLogs:   a.logs(s),
	}
	if s.instance != nil {
		p.Instance = s.instance.id
	}
	if len(s.upstreams) > 0 {
		p.Upstreams = make([]catalog.Upstream, 0, len(s.upstreams))
	}
	for i := range s.upstreams {
		p.Upstreams = append(p.Upstreams, a.upstream(s, i))
	}
	p.Upstreams = append(p.Upstreams, s.foreignUpstreams()...)
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
		Port:        e.BindPort.Else(s.publicPort()),
		Protocol:    e.Protocol.Value,
		Enforcement: e.Enforcement.Value,
		Revocation:  e.Revocation.Value,
		ServerFirst: e.ServerFirst.Set && e.ServerFirst.Value,
	}
	e.Apply(&in)
	port, socket := s.localPort, s.localSocket
	if s.instance != nil && socket.Value == "" && port.Value == 0 {
		port = s.instance.port
		if port.Value == 0 {
			socket = s.instance.socket
		}
	}
	switch {
	case socket.Value != "":
		in.LocalSocket, in.LocalOrigin = socket.Value, socket.At.String()
	case port.Value != 0:
		in.LocalAddress = cmp.Or(s.localAddress.Value, "127.0.0.1")
		in.LocalPort, in.LocalOrigin = port.Value, port.At.String()
	case s.misplaced || s.instance != nil && s.instance.misplaced:
	default:
		a.problem(s.at,
			"nothing to hand connections to: give service %s a port or a socket_path, or the proxy a local_service_port",
			s.of.name)
	}
	return in
}

// upstream is s.upstreams[i] with all that holds for it.
func (a *assembly) upstream(s *sidecar, i int) catalog.Upstream {
	u, n := &s.upstreams[i], s.dials[i]
	var e definition.UpstreamSettings
	if u.settings != nil {
		e = *u.settings
	}
	if d := s.of.defaults; d != nil {
		e = e.Over(d.overrides[n.name]).Over(d.upstreams)
	}
	protocol, why := a.protocolOf(n)
	if e.Protocol.Set && e.Protocol.Value != protocol {
		a.doubtful(e.Protocol.At,
			"protocol %s contradicts that of the upstream %s, which is %s (%s): say it in service-defaults of %s",
			e.Protocol.Value, n.name, protocol, why, n.name)
	}
	a.check(n, u.at)
	return e.Apply(u.Upstream)
}

// endpoint is how others reach s. Its health is that of its own checks, if it has any; else a
// nested sidecar has that of its service, as Consul gives it an alias check.
func (s *sidecar) endpoint() catalog.Endpoint {
	h, w := s.health.Value, weights{1, 1}
	if s.parent != nil {
		if !s.health.Set {
			h = s.parent.health
		}
		w = s.weights.Or(s.parent.weights).Else(w)
	} else {
		w = s.weights.Else(w)
	}
	return endpoint(s.address, s.publicPort(), h, w)
}

// endpoint is one of that health and those weights.
func endpoint(address string, port uint16, h health, w weights) catalog.Endpoint {
	weight := w.passing
	if h == warning {
		weight = w.warning
	}
	// Envoy adds weights up in 32 bits; Consul clamps them likewise.
	return catalog.Endpoint{Address: address, Port: port, Weight: uint32(min(max(weight, 1), 128)), Healthy: h != critical && weight > 0}
}
