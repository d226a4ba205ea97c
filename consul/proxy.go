package consul

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/unixsocket"
)

// kindProxy is the kind of registration that is a sidecar.
const kindProxy = "connect-proxy"

// sidecar is a proxy's registration as far as it can be understood alone: without chains, whose
// protocols decide what else holds.
type sidecar struct {
	proxy     catalog.Proxy // without upstreams
	settings  definition.Settings
	upstreams []upstream
	foreign   []catalog.Upstream // those in other trust domains
	checks    bool               // the checks of the service go through the proxy
	problems  []Problem
	nobody    bool // it has no identity, so there is nothing to be told
}

// upstream is an upstream of a sidecar.
type upstream struct {
	catalog.Upstream
	target   string
	protocol definition.Setting[catalog.Protocol]
	gateway  string // the mode of mesh gateways, if the registration says one
}

// entryOf names a registration for people.
func entryOf(r *registration) string { return "service " + r.ID }

// readSidecar reads a proxy's registration; services are those of its node, whose address is host.
// ok is false if there is no proxy to speak of.
func readSidecar(r *registration, services map[string]*registration, datacenter, host string) (s *sidecar, ok bool) {
	if r.Kind != kindProxy || r.PeerName != "" {
		return nil, false
	}
	s = &sidecar{proxy: catalog.Proxy{ID: identity.ProxyID(r.ID), Origin: entryOf(r)}}
	p := r.Proxy
	if p == nil {
		p = &proxyRegistration{}
	}
	service := identity.NewName(p.DestinationServiceName)
	switch {
	case r.ID == "":
		return nil, false
	case service.Check() != nil:
		s.nobody = true
		s.refuse(entryOf(r), "the service %.60q cannot be part of an identity: the proxy is not served", service.Service)
		return s, true
	case !isDefault(r.Namespace) || !isDefault(r.Partition):
		s.nobody = true
		s.refuse(entryOf(r), "namespaces and partitions are not supported yet: the proxy is not served")
		return s, true
	}
	s.proxy.Service = service
	s.proxy.Instance = p.DestinationServiceID
	s.readSettings(r, p)
	s.readLogs(r, p)
	s.readInbound(r, p, services, host)
	s.readUnsupported(r, p)
	seen := map[string]bool{}
	for _, u := range p.Upstreams {
		if u != nil {
			s.readUpstream(r, u, datacenter, seen)
		}
	}
	s.readExposed(r, p)
	if s.proxy.Refused != "" {
		s.upstreams, s.foreign, s.proxy.Exposed, s.checks = nil, nil, nil, false
	}
	return s, true
}

func (s *sidecar) problem(upstream, entry, format string, args ...any) {
	s.problems = append(s.problems, Problem{Proxy: s.proxy.ID, Upstream: upstream, Entry: entry, Text: fmt.Sprintf(format, args...)})
}

// refuse leaves the proxy as it was, but for who may connect.
func (s *sidecar) refuse(entry, format string, args ...any) {
	s.problem("", entry, format, args...)
	s.proxy.Refused = cmp.Or(s.proxy.Refused, s.problems[len(s.problems)-1].Text)
}

func isDefault(tenancy string) bool { return tenancy == "" || tenancy == identity.Default }

// decoder reads what a registration says of an upstream, or of the proxy itself.
func (s *sidecar) decoder(
	r *registration, upstream string, n *definition.Node, what string,
) *definition.Decoder {
	p := Problem{Proxy: s.proxy.ID, Upstream: upstream, Entry: entryOf(r)}
	return lenient(&s.problems, p).Decoder(n, what)
}

func (s *sidecar) readSettings(r *registration, p *proxyRegistration) {
	d := s.decoder(r, "", &p.Config, "config")
	if replaced := d.Take("envoy_public_listener_json", "envoy_local_cluster_json"); len(replaced) > 0 {
		// What it stands for may be all that keeps the application safe: another listener in its
		// place would be a guess.
		s.refuse(entryOf(r), "%s is not supported yet: the proxy is not served", strings.Join(replaced, " and "))
	}
	s.settings = d.Settings()
	s.proxy.Network = s.settings.Network.Else(networkOf(r.ID))
	s.proxy.Bootstrap = s.settings.Bootstrap()
}

// readLogs reads what is logged. Consul has merged what proxy-defaults say into the registration.
func (s *sidecar) readLogs(r *registration, p *proxyRegistration) {
	if p.AccessLogs.Kind != definition.Mapping {
		return
	}
	whole := definition.Node{Kind: definition.Mapping, Fields: []definition.Field{{Key: "AccessLogs", Value: &p.AccessLogs}}}
	s.proxy.AccessLogs = s.decoder(r, "", &whole, "").AccessLogs("AccessLogs").Value
}

// nomadSidecar is what Nomad calls the sidecars of an allocation. Each allocation with sidecars has a
// network namespace of its own (Nomad, "network mode bridge": sidecars are for no other).
var nomadSidecar = regexp.MustCompile(`^_nomad-task-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-.*-sidecar-proxy$`)

// networkOf is the network namespace of a proxy that says none; empty: the node's own.
func networkOf(id string) string {
	if m := nomadSidecar.FindStringSubmatch(id); m != nil {
		return "Nomad allocation " + m[1]
	}
	return ""
}

// readInbound reads where the proxy listens and where its application does. A proxy that has no
// address is dialled at its node's, and listens on all addresses of that family, on those of IPv4
// in any case: the agent's own check of a sidecar dials 127.0.0.1.
func (s *sidecar) readInbound(r *registration, p *proxyRegistration, services map[string]*registration, host string) {
	e := s.settings
	in := &s.proxy.Inbound
	address, ok := definition.ParseListen(r.Address)
	if !ok {
		address = netip.IPv4Unspecified()
		if a, ok := definition.ParseIP(host); ok && a.Is6() && r.Address == "" {
			address = netip.IPv6Unspecified()
		}
	}
	in.Address = e.BindAddress.Else(address).String()
	in.Port = e.BindPort.Else(portOf(r.Port))
	if in.Port == 0 {
		s.refuse(entryOf(r), "it has no port: the proxy is not served")
	}
	port, socket := p.LocalServicePort, p.LocalServiceSocketPath
	// registered in the catalog rather than with the agent, which would have filled it in
	if port == 0 && socket == "" {
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
		local, ok := definition.ParseListen(p.LocalServiceAddress)
		if !ok {
			local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if !ok && p.LocalServiceAddress != "" {
			s.refuse(entryOf(r), "LocalServiceAddress %.60q is no IP address: the proxy is not served", p.LocalServiceAddress)
		}
		in.LocalAddress, in.LocalPort = local.String(), portOf(port)
	default:
		s.refuse(entryOf(r),
			"nothing to hand connections to: neither the proxy nor its service has a port of the application; the proxy is not served")
	}
	e.Apply(in)
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
	if s.readForeign(r, u) {
		return
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
	case far && gatewayProblem(gateway) != "":
		refuse("%s", gatewayProblem(gateway))
		return
	case seen[name]:
		refuse("it is given twice, and the first one counts")
		return
	}
	if reason := u.bind(&c); reason != "" {
		refuse("%s", reason)
		return
	}
	d := s.decoder(r, name, &u.Config, "config")
	replaced := d.Take("envoy_listener_json", "envoy_cluster_json")
	e := d.UpstreamSettings()
	if len(replaced) > 0 {
		refuse("%s is not supported yet", strings.Join(replaced, " and "))
		return
	}
	seen[name] = true
	s.upstreams = append(s.upstreams, upstream{e.Apply(c), targetOf(c, datacenter), e.Protocol, gateway})
}

// bind puts where the application dials u into c; reason says why that is not known.
func (u *upstreamRegistration) bind(c *catalog.Upstream) (reason string) {
	switch {
	case u.LocalBindSocketPath != "":
		c.BindSocket = u.LocalBindSocketPath
		if !socketPath(c.BindSocket) {
			return "LocalBindSocketPath is not the path of a socket"
		}
		if m := u.LocalBindSocketMode; m != "" {
			mode, err := strconv.ParseUint(m, 8, 32)
			if err != nil || mode > 0o777 {
				return fmt.Sprintf("LocalBindSocketMode %.20q is not permission bits in octal", m)
			}
			c.BindSocketMode = uint32(mode)
		}
	case portOf(u.LocalBindPort) != 0:
		address, ok := definition.ParseListen(u.LocalBindAddress)
		if u.LocalBindAddress == "" {
			address, ok = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
		}
		if !ok {
			return fmt.Sprintf("LocalBindAddress %.60q is no IP address", u.LocalBindAddress)
		}
		c.BindAddress, c.BindPort = address.String(), portOf(u.LocalBindPort)
	default:
		return "it has neither LocalBindPort nor LocalBindSocketPath"
	}
	return ""
}

func (s *sidecar) isTransparent(r *registration) bool {
	return r.Proxy != nil && r.Proxy.Mode == "transparent"
}

// finish is the proxy with what depends on its protocol: d is of its own service, mesh what
// proxy-defaults say.
func (s *sidecar) finish(d *discovery, mesh meshDefaults, config Config) (catalog.Proxy, []Problem) {
	p := s.proxy
	var problems []Problem
	problem := func(entry, format string, args ...any) {
		problems = append(problems, Problem{Proxy: p.ID, Entry: entry, Text: fmt.Sprintf(format, args...)})
	}
	in := &p.Inbound
	known := definition.Protocol(d.protocol)
	in.Protocol = mesh.spoken(s.settings.Protocol, known)
	if said := s.settings.Protocol; said.Set && said.Value != in.Protocol {
		problem("service-defaults/"+p.Service.Service, "they have no Protocol, so the service speaks %s, though proxy-defaults say %s: write it into service-defaults", in.Protocol, said.Value)
	}
	defaults := Problem{Proxy: p.ID, Entry: "service-defaults/" + p.Service.Service}
	meta := lenient(&problems, defaults).Decoder(&d.meta, "Meta").Own()
	// What is said of this service goes before what is said of all, which may not fit its protocol.
	own := s.settings.Own.Without(mesh.Own).Over(meta)
	if own.Revocation.Set && !own.Revocation.Value.Fits(in.Protocol) {
		problem(p.Origin, "revocation %q is not for protocol %s: that of the protocol holds", own.Revocation.Value, in.Protocol)
		own.Revocation = definition.Setting[catalog.Revocation]{}
	}
	if own.ServerFirst.Value && in.Protocol.L7() {
		problem(p.Origin, "server_first is for services of protocol tcp, not %s: it is not taken", in.Protocol)
		own.ServerFirst = definition.Setting[bool]{}
	}
	if said := s.settings.RequestTimeout; said.Set && said.Value != mesh.requestTimeout.Value && !in.Protocol.L7() {
		problem(p.Origin, "local_request_timeout_ms has no meaning for protocol %s: nothing in it is known to be a request", in.Protocol)
	}
	mesh.Revocation.Set = mesh.Revocation.Set && mesh.Revocation.Value.Fits(in.Protocol)
	if in.Protocol.L7() {
		mesh.ServerFirst = definition.Setting[bool]{}
	}
	own = own.Over(mesh.Own)
	in.Enforcement = own.Enforcement.Else(config.Enforcement)
	in.Revocation = catalog.DefaultRevocation(in.Protocol)
	switch {
	case own.Revocation.Set:
		in.Revocation = own.Revocation.Value
	case config.Revocation != nil && config.Revocation.Fits(in.Protocol):
		in.Revocation = *config.Revocation
	}
	in.ServerFirst = own.ServerFirst.Value
	p.AccessLogs.FailuresOnly = p.AccessLogs.Enabled && own.Logged.Value
	if in.ServerFirst && in.Enforcement == catalog.ExtAuthz {
		problem(p.Origin, `ext_authz cannot protect a server that speaks first (server_first): intention_enforcement "both" holds`)
		in.Enforcement = catalog.Both
	}
	p.Bootstrap.UID = own.UID.Else(-1)
	p.RefuseHTTP10 = !own.AcceptHTTP10.Else(true)
	return p, problems
}
