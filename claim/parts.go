package claim

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// What addresses of a proxy are for.
const (
	WhatPublic   = "the public listener"
	WhatMetrics  = "envoy_prometheus_bind_addr"
	WhatExposed  = "the exposed path"
	WhatUpstream = "upstream"

	whatApplication = "the application"
	whatExposes     = "the port of the exposed path"
	whatAdmin       = "the administration of the Envoy"
	whatNative      = "the native application"
)

// kind is which part of a proxy an address belongs to. Parts that come at one time are judged in
// this order: where nobody reaches the service without it first, and what is only dialled last. Their
// numbers are in the file of a Registry.
type kind uint8

const (
	public kind = iota
	metrics
	exposed
	upstream
	application // where connections are handed to
	exposedPort // where an exposed path is handed to
	admin       // of the Envoy that runs, which its bootstrap has said
	native      // where a native application listens itself
	kinds
)

// turn is when parts of a kind are judged.
func (k kind) turn() int {
	switch k {
	case admin:
		return -2
	case native:
		return -1
	case public:
		return 0
	case metrics, exposed, upstream, kinds:
		return 1
	case application, exposedPort:
	}
	return 2
}

// part is an address that a proxy uses, and where in the proxy it is said.
type part struct {
	Address
	kind  kind
	index int    // in Upstreams or Exposed
	held  bool   // in the Table
	fault string // why it is not held; empty: it was not judged yet, or is held
	note  string // why it is not to be held in the next release; empty: it may
}

// subject is what a part is about. Who holds it keeps it as long as that stays.
type subject struct {
	kind                        kind
	name, host, network, socket string
	address                     netip.AddrPort
}

func (p *part) subject() subject {
	return subject{p.kind, p.Name, p.Host, p.Network, p.Socket, netip.AddrPortFrom(p.IP, p.Port)}
}

// partsOf are those of p, whose Envoy is in a network namespace and has its administration at an
// address, unless that is empty.
func partsOf(p *catalog.Proxy, network, administration string) []*part {
	parts := make([]*part, 0, 3+2*len(p.Exposed)+len(p.Upstreams))
	add := func(k kind, index int, a Address) {
		a.Proxy, a.Host, a.Network = p.ID, p.Host, network
		if a.Socket == "" && (!a.IP.IsValid() || a.Port == 0) {
			return // nobody can hold it
		}
		x := &part{Address: a, kind: k, index: index}
		x.part = x
		parts = append(parts, x)
	}
	if path, ok := strings.CutPrefix(administration, "unix:"); ok {
		add(admin, 0, Address{What: whatAdmin, Origin: p.Origin, Socket: path})
	} else if a, err := netip.ParseAddrPort(administration); err == nil {
		add(admin, 0, Address{What: whatAdmin, Origin: p.Origin, IP: a.Addr().Unmap(), Port: a.Port()})
	}
	in := &p.Inbound
	bind, _ := netip.ParseAddr(in.Address)
	local, ok := definition.ParseListen(in.LocalAddress)
	if !ok && in.LocalAddress == "" {
		local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	add(public, 0, Address{What: WhatPublic, Origin: p.Origin, IP: bind, Port: in.Port})
	add(application, 0, Address{What: whatApplication, Origin: cmp.Or(in.LocalOrigin, p.Origin), IP: local, Port: in.LocalPort, Socket: in.LocalSocket, Dialled: true})
	if a, err := netip.ParseAddrPort(p.Bootstrap.PrometheusBindAddr); err == nil {
		add(metrics, 0, Address{What: WhatMetrics, Origin: p.Origin, IP: a.Addr(), Port: a.Port()})
	}
	for i, e := range p.Exposed {
		if in.LocalSocket != "" {
			local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		if in.LocalSocket != "" || e.LocalPort != in.LocalPort {
			add(exposedPort, i, Address{What: whatExposes, Name: e.Path, Origin: e.Origin, IP: local, Port: e.LocalPort, Dialled: true})
		}
		add(exposed, i, Address{What: WhatExposed, Name: e.Path, Origin: e.Origin, IP: bind, Port: e.ListenerPort})
	}
	for i, u := range p.Upstreams {
		ip, err := netip.ParseAddr(u.BindAddress)
		if err != nil && u.BindAddress == "" {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		add(upstream, i, Address{What: WhatUpstream, Name: u.Name(), Origin: u.Origin, IP: ip, Port: u.BindPort, Socket: u.BindSocket})
	}
	return parts
}

// refused is what comes of it that p has no address, and what to do.
func (p *part) refused() string {
	switch p.kind {
	case application:
		if p.Socket != "" {
			return "nobody reaches the service by this proxy: give it the socket of its own application"
		}
		return "nobody reaches the service by this proxy: give it the port of its own application"
	case public:
		return "nobody reaches the service by this proxy: give it another port"
	case metrics:
		return "there are no metrics: choose another address"
	case exposedPort:
		return "its listener is not there: expose a port of the application"
	case exposed:
		return "its listener is not there: give it another listener_port"
	case upstream:
		if p.Socket != "" {
			return "its listener is not there: give it another local_bind_socket_path"
		}
		return "its listener is not there: give it another local_bind_port"
	case native:
		return p.refusedNative()
	case admin, kinds:
	}
	return ""
}
