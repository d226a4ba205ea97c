package files

import (
	"net/netip"
	"slices"

	"github.com/sallyport/sallyport/definition"
)

// listener is an address that some Envoy will bind.
type listener struct {
	*sidecar
	what    string // "upstream"
	name    string // of what it is: "db"; empty: there is one alone
	at      definition.Position
	address netip.Addr
	port    uint16
	socket  string // its path; empty: it is at address and port
}

// String is the listener in words.
func (l *listener) String() string {
	if l.name == "" {
		return l.what + " of " + l.id
	}
	return l.what + " " + l.name + " of " + l.id
}

// listeners are those of all sidecars. It finds those that would take each other's address. Envoys
// share ports silently, so nobody else would.
//
// A directory may describe proxies of many machines, each with the same upstream on 127.0.0.1.
// Proxies that are dialled at one address are taken to be on one machine (all loopback addresses
// being one); of others only addresses that are not loopback can clash.
type listeners struct {
	ports   map[hostPort][]*listener
	public  map[netip.AddrPort]*listener
	sockets map[hostSocket]*listener
}

type (
	hostPort struct {
		host string
		port uint16
	}
	hostSocket struct{ host, socket string }
)

func newListeners() listeners {
	return listeners{
		ports:   map[hostPort][]*listener{},
		public:  map[netip.AddrPort]*listener{},
		sockets: map[hostSocket]*listener{},
	}
}

// listen lists the listeners of s, whose settings must be there.
func (s *sidecar) listen() {
	e := s.settings
	at := s.at
	if s.port.At.Line > 0 {
		at = s.port.At
	}
	port := e.BindPort.Or(definition.Setting[uint16]{Value: s.publicPort(), At: at})
	s.listeners = make([]listener, 0, 2+len(s.exposed)+len(s.upstreams))
	listen := func(what, name string, at definition.Position, address netip.Addr, port uint16) *listener {
		s.listeners = append(s.listeners, listener{
			sidecar: s, what: what, name: name, at: at, address: address, port: port,
		})
		return &s.listeners[len(s.listeners)-1]
	}
	listen("the public listener", "", port.At, e.BindAddress.Value, port.Value)
	if p := e.Prometheus; p.Set {
		listen("envoy_prometheus_bind_addr", "", p.At, p.Value.Addr(), p.Value.Port())
	}
	for _, x := range s.exposed {
		listen("the exposed path", x.Path, x.At, e.BindAddress.Value, x.ListenerPort)
	}
	for i := range s.upstreams {
		u := &s.upstreams[i]
		address, _ := netip.ParseAddr(u.BindAddress)
		listen("upstream", u.Destination.Service, u.at, address, u.BindPort).socket = u.BindSocket
	}
}

// add takes the listeners of s, and reports those that are not free.
func (t *listeners) add(s *sidecar, problems *report) {
	s.listen()
	for i := range s.listeners {
		l := &s.listeners[i]
		if l.socket != "" {
			k := hostSocket{s.host, l.socket}
			if first := t.sockets[k]; first != nil {
				problems.problem(l.at,
					"%s and %s (%s) cannot both listen on %s", l, first, first.at, l.socket)
			}
			t.sockets[k] = l
			continue
		}
		if own, at, ok := s.application(l.port); ok && overlap(l.address, own) {
			problems.problem(l.at,
				"%s cannot listen on port %d of %s: service %s itself does (%s)",
				l, l.port, clash(l.address, own), s.of.name, at)
			continue
		}
		k := hostPort{s.host, l.port}
		other := slices.IndexFunc(t.ports[k], func(o *listener) bool { return overlap(l.address, o.address) })
		if other >= 0 {
			o := t.ports[k][other]
			problems.problem(l.at,
				"%s and %s (%s) cannot both listen on port %d of %s",
				l, o, o.at, l.port, clash(l.address, o.address))
			continue
		}
		t.ports[k] = append(t.ports[k], l)
		if !l.isPublic() {
			continue
		}
		where := netip.AddrPortFrom(l.address, l.port)
		if first := t.public[where]; first != nil {
			problems.problem(l.at,
				"%s and %s (%s) cannot both listen on %s", l, first, first.at, where)
			continue
		}
		t.public[where] = l
	}
}

// remove takes back what add did for s, when it found no problem.
func (t *listeners) remove(s *sidecar) {
	for i := range s.listeners {
		l := &s.listeners[i]
		if l.socket != "" {
			delete(t.sockets, hostSocket{s.host, l.socket})
			continue
		}
		k := hostPort{s.host, l.port}
		t.ports[k] = slices.DeleteFunc(t.ports[k], func(o *listener) bool { return o == l })
		if len(t.ports[k]) == 0 {
			delete(t.ports, k)
		}
		if l.isPublic() {
			delete(t.public, netip.AddrPortFrom(l.address, l.port))
		}
	}
}

// isPublic reports whether no other machine can have the address too.
func (l *listener) isPublic() bool {
	return !l.address.IsLoopback() && !l.address.IsUnspecified()
}

// application is where the application behind s listens, if that is on a port with an address that
// is known.
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

// overlap reports whether two listeners on one port of one machine take each other's connections.
// The IPv6 wildcard takes IPv6 alone, as Envoy has it.
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
