package files

import (
	"net/netip"

	"github.com/sallyport/sallyport/definition"
)

// listener is an address that some Envoy will bind.
type listener struct {
	what    string // "upstream"
	name    string // of what it is: "db"; empty: there is one alone
	proxy   string
	at      definition.Position
	address netip.Addr
}

// String is the listener in words. They are put together for those that are spoken of only.
func (l listener) String() string {
	if l.name == "" {
		return l.what + " of " + l.proxy
	}
	return l.what + " " + l.name + " of " + l.proxy
}

// checkListeners reports listeners that would take each other's address. Envoys share ports silently, so nobody else would.
//
// A directory may describe proxies of many machines, each with the same upstream on 127.0.0.1. Proxies that are dialled at one
// address are taken to be on one machine (all loopback addresses being one); of others only addresses that are not loopback can clash.
func (a *assembly) checkListeners() {
	type key struct {
		host string
		port uint16
	}
	type path struct{ host, socket string }
	all := 0
	for _, s := range a.sidecars {
		all += 1 + len(s.upstreams)
	}
	ports := make(map[key][]listener, all)
	public := make(map[netip.AddrPort]listener, len(a.sidecars))
	sockets := map[path]listener{}
	bind := func(s *sidecar, address netip.Addr, port uint16, l listener) {
		l.address = address
		if own, at, ok := s.application(port); ok && overlap(address, own) {
			a.problem(l.at, "%s cannot listen on port %d of %s: service %s itself does (%s)", l, port, clash(address, own), s.service, at)
			return
		}
		k := key{s.host, port}
		for _, other := range ports[k] {
			if overlap(address, other.address) {
				a.problem(l.at, "%s and %s (%s) cannot both listen on port %d of %s", l, other, other.at, port, clash(address, other.address))
				return
			}
		}
		ports[k] = append(ports[k], l)
		if address.IsLoopback() || address.IsUnspecified() {
			return
		}
		where := netip.AddrPortFrom(address, port)
		if first, ok := public[where]; ok {
			a.problem(l.at, "%s and %s (%s) cannot both listen on %s", l, first, first.at, where)
			return
		}
		public[where] = l
	}
	for _, s := range a.sidecars {
		e := s.settings
		at := s.at
		if s.port.At.Line > 0 {
			at = s.port.At
		}
		bind(s, e.BindAddress.Value, e.BindPort.Or(s.port).Value, listener{what: "the public listener", proxy: s.id, at: e.BindPort.Or(definition.Setting[uint16]{At: at}).At})
		if e.Prometheus.Set {
			bind(s, e.Prometheus.Value.Addr(), e.Prometheus.Value.Port(), listener{what: "envoy_prometheus_bind_addr", proxy: s.id, at: e.Prometheus.At})
		}
		for _, x := range s.exposed {
			bind(s, e.BindAddress.Value, x.ListenerPort, listener{what: "the exposed path", name: x.Path, proxy: s.id, at: x.At})
		}
		for _, u := range s.upstreams {
			l := listener{what: "upstream", name: u.Destination.Service, proxy: s.id, at: u.at}
			if u.BindSocket != "" {
				k := path{s.host, u.BindSocket}
				if first, ok := sockets[k]; ok {
					a.problem(l.at, "%s and %s (%s) cannot both listen on %s", l, first, first.at, u.BindSocket)
				}
				sockets[k] = l
				continue
			}
			address, _ := netip.ParseAddr(u.BindAddress)
			bind(s, address, u.BindPort, l)
		}
	}
}

// application is where the application behind s listens, if that is on a port with an address that is known.
func (s *sidecar) application(port uint16) (address netip.Addr, at definition.Position, ok bool) {
	own := s.localPort
	if s.instance != nil && !s.localSocket.Set {
		own = own.Or(s.instance.port)
	}
	if !own.Set || own.Value != port {
		return netip.Addr{}, definition.Position{}, false
	}
	if !s.localAddress.Set || s.localAddress.Value == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), own.At, true
	}
	address, ok = definition.ParseIP(s.localAddress.Value)
	return address, own.At, ok
}

// overlap reports whether two listeners on one port of one machine take each other's connections. The IPv6 wildcard takes
// IPv6 alone, as Envoy has it.
func overlap(a, b netip.Addr) bool {
	return a == b || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// clash is the narrower of two addresses that overlap.
func clash(a, b netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return b
	}
	return a
}
