package consul

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/unixsocket"
)

// kindProxy is the kind of registration that is a sidecar.
const kindProxy = "connect-proxy"

// sidecar is a proxy's registration as far as it can be understood alone: without chains, whose protocols decide what else holds.
type sidecar struct {
	proxy     catalog.Proxy // without upstreams
	settings  settings
	upstreams []dialled
	checks    bool // the checks of the service go through the proxy
	problems  []Problem
	refused   bool
}

// dialled is an upstream of a sidecar.
type dialled struct {
	catalog.Upstream
	protocol opt[string]
	gateway  string // the mode of mesh gateways, if the registration says one
}

// entryOf names a registration for people.
func entryOf(r *registration) string { return "service " + r.ID }

// readSidecar reads a proxy's registration; services are those of its node. ok is false if there is no proxy to speak of.
func readSidecar(r *registration, services map[string]*registration, datacenter string) (s *sidecar, ok bool) {
	if r.Kind != kindProxy || r.PeerName != "" {
		return nil, false
	}
	s = &sidecar{proxy: catalog.Proxy{ID: catalog.ProxyID(r.ID), Origin: entryOf(r)}}
	p := r.Proxy
	if p == nil {
		p = &proxyRegistration{}
	}
	service := identity.NewName(p.DestinationServiceName)
	switch {
	case r.ID == "":
		return nil, false
	case service.Check() != nil:
		s.refuse(entryOf(r), "the service %.60q cannot be part of an identity: the proxy is not served", service.Service)
		return s, true
	case !isDefault(r.Namespace) || !isDefault(r.Partition):
		s.refuse(entryOf(r), "namespaces and partitions are not supported yet: the proxy is not served")
		return s, true
	}
	s.proxy.Service = service
	s.proxy.Instance = p.DestinationServiceID
	s.readSettings(r, p)
	s.readInbound(r, p, services)
	s.readUnsupported(r, p)
	seen := map[string]bool{}
	for _, u := range p.Upstreams {
		if u != nil {
			s.readUpstream(r, u, datacenter, seen)
		}
	}
	s.readExposed(r, p)
	return s, true
}

func (s *sidecar) problem(upstream, entry, format string, args ...any) {
	s.problems = append(s.problems, Problem{Proxy: s.proxy.ID, Upstream: upstream, Entry: entry, Text: fmt.Sprintf(format, args...)})
}

func (s *sidecar) refuse(entry, format string, args ...any) {
	s.refused = true
	s.problem("", entry, format, args...)
}

func isDefault(tenancy string) bool { return tenancy == "" || tenancy == identity.Default }

func (s *sidecar) readSettings(r *registration, p *proxyRegistration) {
	var texts []string
	o := readOptions("its config", p.Config, &texts)
	s.settings = o.settings()
	for _, t := range texts {
		s.problem("", entryOf(r), "%s", t)
	}
	if len(s.settings.replaced) > 0 {
		// What it stands for may be all that keeps the application safe: another listener in its place would be a guess.
		s.refuse(entryOf(r), "%s is not supported yet: the proxy is not served", strings.Join(s.settings.replaced, " and "))
	}
	s.proxy.Bootstrap.UID = -1
	if s.settings.prometheus.set {
		s.proxy.Bootstrap.PrometheusBindAddr = s.settings.prometheus.value.String()
	}
}

// readInbound reads where the proxy listens and where its application does.
func (s *sidecar) readInbound(r *registration, p *proxyRegistration, services map[string]*registration) {
	e := s.settings
	in := &s.proxy.Inbound
	bind := e.bindAddress
	if !bind.set {
		address, ok := parseIP(r.Address)
		if !ok {
			address = netip.IPv4Unspecified()
		}
		bind = some(address)
	}
	in.Address = bind.value.String()
	in.Port = e.bindPort.value
	if !e.bindPort.set {
		in.Port = portOf(r.Port)
	}
	if in.Port == 0 {
		s.refuse(entryOf(r), "it has no port: the proxy is not served")
	}
	port, socket := p.LocalServicePort, p.LocalServiceSocketPath
	if port == 0 && socket == "" { // registered in the catalog rather than with the agent, which would have filled it in
		if app := services[p.DestinationServiceID]; app != nil {
			if port = app.Port; port == 0 {
				socket = app.SocketPath
			}
		}
	}
	switch {
	case socket != "":
		in.LocalSocket = socket
		if !socketPath(socket) {
			s.refuse(entryOf(r), "its LocalServiceSocketPath is not the path of a socket: the proxy is not served")
		}
	case portOf(port) != 0:
		local, ok := parseIP(p.LocalServiceAddress)
		if !ok {
			local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if !ok && p.LocalServiceAddress != "" {
			s.refuse(entryOf(r), "LocalServiceAddress %.60q is no IP address: the proxy is not served", p.LocalServiceAddress)
		}
		in.LocalAddress, in.LocalPort = local.String(), portOf(port)
	default:
		s.refuse(entryOf(r), "nothing to hand connections to: neither the proxy nor its service has a port of the application; the proxy is not served")
	}
	in.ConnectTimeout = e.connectTimeout.value
	in.RequestTimeout = e.requestTimeout.value
	in.IdleTimeout = catalog.Timeout{Set: e.idleTimeout.set, Duration: e.idleTimeout.value}
	in.MaxConnections = e.maxConnections.value
	in.BalanceConnections = e.balance.set
}

func portOf(n int) uint16 {
	if n < 1 || n > 65535 {
		return 0
	}
	return uint16(n)
}

func socketPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= unixsocket.MaxPath && !strings.ContainsRune(s, 0)
}

// readUnsupported names what a proxy is told and cannot do.
func (s *sidecar) readUnsupported(r *registration, p *proxyRegistration) {
	entry := entryOf(r)
	if p.Mode == "transparent" {
		s.problem("", entry, "transparent mode is not supported yet: the outbound listener is not there, the upstreams that have a port are")
	}
	if p.MutualTLSMode == "permissive" {
		s.problem("", entry, "permissive mutual TLS is not supported: connections without mutual TLS are refused")
	}
	if p.AccessLogs != nil && p.AccessLogs.Enabled {
		s.problem("", entry, "access logs are not supported yet: there are none")
	}
	for _, x := range p.EnvoyExtensions {
		if x.Required {
			s.refuse(entry, "the Envoy extension %.60q is required and not supported: the proxy is not served", x.Name)
		} else {
			s.problem("", entry, "the Envoy extension %.60q is not supported: the proxy is served without it", x.Name)
		}
	}
}

// readUpstream reads one upstream, or says why its listener is not there.
func (s *sidecar) readUpstream(r *registration, u *upstreamRegistration, datacenter string, seen map[string]bool) {
	bound := u.LocalBindPort != 0 || u.LocalBindSocketPath != ""
	if u.DestinationName == identity.Wildcard || !bound && (u.CentrallyConfigured || s.isTransparent(r)) {
		return // what holds for upstreams that transparent mode would find
	}
	c := catalog.Upstream{Destination: identity.NewName(u.DestinationName), Datacenter: u.Datacenter, Origin: entryOf(r)}
	name := c.Name()
	refuse := func(format string, args ...any) {
		s.problem(name, entryOf(r), format+": its listener is not there", args...)
	}
	gateway := cmp.Or(u.MeshGateway.Mode, r.Proxy.MeshGateway.Mode)
	far := u.Datacenter != "" && u.Datacenter != datacenter
	switch {
	case u.DestinationType != "" && u.DestinationType != "service":
		refuse("destinations of type %.60q are not supported yet", u.DestinationType)
		return
	case u.DestinationPeer != "":
		refuse("the peer %.60q: peers are not supported yet", u.DestinationPeer)
		return
	case !isDefault(u.DestinationNamespace) || !isDefault(u.DestinationPartition):
		refuse("namespaces and partitions are not supported yet")
		return
	case c.Destination.Check() != nil:
		refuse("the name cannot be part of an identity")
		return
	case far && identity.CheckDatacenter(u.Datacenter) != nil:
		refuse("the datacenter %.60q cannot be part of an identity", u.Datacenter)
		return
	case far && gatewayed(gateway) != "":
		refuse("%s", gatewayed(gateway))
		return
	case seen[name]:
		refuse("it is given twice, and the first one counts")
		return
	}
	switch {
	case u.LocalBindSocketPath != "":
		c.BindSocket = u.LocalBindSocketPath
		if !socketPath(c.BindSocket) {
			refuse("LocalBindSocketPath is not the path of a socket")
			return
		}
		if m := u.LocalBindSocketMode; m != "" {
			mode, err := strconv.ParseUint(m, 8, 32)
			if err != nil || mode > 0o777 {
				refuse("LocalBindSocketMode %.20q is not permission bits in octal", m)
				return
			}
			c.BindSocketMode = uint32(mode)
		}
	case portOf(u.LocalBindPort) != 0:
		address, ok := parseIP(u.LocalBindAddress)
		if u.LocalBindAddress == "" {
			address, ok = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
		}
		if !ok {
			refuse("LocalBindAddress %.60q is no IP address", u.LocalBindAddress)
			return
		}
		c.BindAddress, c.BindPort = address.String(), portOf(u.LocalBindPort)
	default:
		refuse("it has neither LocalBindPort nor LocalBindSocketPath")
		return
	}
	var texts []string
	e := readOptions("its config", u.Config, &texts).upstreamSettings()
	for _, t := range texts {
		s.problem(name, entryOf(r), "%s", t)
	}
	if len(e.replaced) > 0 {
		refuse("%s is not supported yet", strings.Join(e.replaced, " and "))
		return
	}
	c.ConnectTimeout, c.Limits, c.Passive, c.BalanceConnections = e.connectTimeout.value, e.limits, e.passive, e.balance
	seen[name] = true
	s.upstreams = append(s.upstreams, dialled{c, e.protocol, gateway})
}

func (s *sidecar) isTransparent(r *registration) bool {
	return r.Proxy != nil && r.Proxy.Mode == "transparent"
}

// protocolOf reads a protocol as Consul does, to which what it does not know is tcp.
func protocolOf(text string) catalog.Protocol {
	p, _ := catalog.ParseProtocol(strings.ToLower(text))
	return p
}

// finish is the proxy with what depends on its protocol: chain is its own service's, mesh what proxy-defaults say.
func (s *sidecar) finish(c *chain, mesh ownSettings, config Config) (catalog.Proxy, []Problem) {
	p := s.proxy
	var problems []Problem
	problem := func(entry, format string, args ...any) {
		problems = append(problems, Problem{Proxy: p.ID, Entry: entry, Text: fmt.Sprintf(format, args...)})
	}
	in := &p.Inbound
	protocol := s.settings.protocol.or(some(c.Protocol)).value
	in.Protocol = protocolOf(protocol)
	if known := protocolOf(c.Protocol); s.settings.protocol.set && known != in.Protocol {
		problem(p.Origin, "protocol %.20q of its config is not what service-defaults say for those who dial it (%s)", protocol, known)
	}
	var texts []string
	defaults := "service-defaults/" + p.Service.Service
	meta := readMetaSettings("Meta", c.ServiceMeta, &texts)
	for _, t := range texts {
		problem(defaults, "%s", t)
	}
	// What is said of this service goes before what is said of all, which may not fit its protocol.
	own := s.settings.own.without(mesh).or(meta)
	if own.revocation.set && !own.revocation.value.Fits(in.Protocol) {
		problem(p.Origin, "revocation %q is not for protocol %s: that of the protocol holds", own.revocation.value, in.Protocol)
		own.revocation = opt[catalog.Revocation]{}
	}
	if own.serverFirst.value && in.Protocol.L7() {
		problem(p.Origin, "server_first is for services of protocol tcp, not %s: it is not taken", in.Protocol)
		own.serverFirst = opt[bool]{}
	}
	mesh.revocation.set = mesh.revocation.set && mesh.revocation.value.Fits(in.Protocol)
	if in.Protocol.L7() {
		mesh.serverFirst = opt[bool]{}
	}
	own = own.or(mesh)
	in.Enforcement = own.enforcement.or(some(config.Enforcement)).value
	in.Revocation = catalog.DefaultRevocation(in.Protocol)
	switch {
	case own.revocation.set:
		in.Revocation = own.revocation.value
	case config.Revocation != nil && config.Revocation.Fits(in.Protocol):
		in.Revocation = *config.Revocation
	}
	in.ServerFirst = own.serverFirst.value
	if in.ServerFirst && in.Enforcement == catalog.ExtAuthz {
		problem(p.Origin, `ext_authz cannot protect a server that speaks first (server_first): intention_enforcement "both" holds`)
		in.Enforcement = catalog.Both
	}
	p.Bootstrap.UID = own.uid.or(some(-1)).value
	return p, problems
}
