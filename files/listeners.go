package files

import (
	"net/netip"

	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// listener is an address that some Envoy will bind, and where the catalog says so.
//
// A directory may describe proxies of many machines, each with the same upstream on 127.0.0.1.
// Proxies that are dialled at one address are taken to be on one machine (all loopback addresses
// being one); of others only addresses that are not loopback can clash.
type listener struct {
	claim.Address
	at definition.Position
}

// listen lists the listeners of s, whose settings must be there.
func (s *sidecar) listen() {
	e := s.settings
	at := s.at
	if s.port.At.Line > 0 {
		at = s.port.At
	}
	port := e.BindPort.Or(definition.Setting[uint16]{Value: s.publicPort(), At: at})
	s.listeners = make([]listener, 0, 2+len(s.exposed)+len(s.upstreams)+len(s.foreign))
	listen := func(what, name string, at definition.Position, ip netip.Addr, port uint16) *listener {
		s.listeners = append(s.listeners, listener{at: at, Address: claim.Address{
			Proxy: identity.ProxyID(s.id), What: what, Name: name, Origin: at.String(), Host: s.host, Network: s.network, IP: ip, Port: port,
		}})
		return &s.listeners[len(s.listeners)-1]
	}
	listen(claim.WhatPublic, "", port.At, e.BindAddress.Value, port.Value)
	if p := e.Prometheus; p.Set {
		listen(claim.WhatMetrics, "", p.At, p.Value.Addr(), p.Value.Port())
	}
	for _, x := range s.exposed {
		listen(claim.WhatExposed, x.Path, x.At, e.BindAddress.Value, x.ListenerPort)
	}
	for _, list := range [][]upstream{s.upstreams, s.foreign} {
		for i := range list {
			u := &list[i]
			ip, _ := netip.ParseAddr(u.BindAddress)
			listen(claim.WhatUpstream, u.Name(), u.at, ip, u.BindPort).Socket = u.BindSocket
		}
	}
}

// claim has s hold the addresses of its listeners, and reports those that are not free.
func (a *assembly) claim(s *sidecar) {
	s.listen()
	application := s.application()
	for i := range s.listeners {
		l := &s.listeners[i]
		c := claim.Clash(&l.Address, application)
		if c == nil {
			c = a.claims.Add(&l.Address)
		}
		if c != nil {
			a.problem(l.at, "%v", c)
		}
	}
}

// disclaim takes back what claim did for s, when it found no problem.
func (a *assembly) disclaim(s *sidecar) {
	for i := range s.listeners {
		a.claims.Remove(&s.listeners[i].Address)
	}
}

// application is where the application behind s listens; not on any port, if that or its address is
// not known.
func (s *sidecar) application() *claim.Address {
	own := s.localPort
	if s.instance != nil && !s.localSocket.Set {
		own = own.Or(s.instance.port)
	}
	ip, ok := definition.ParseListen(s.localAddress.Or(definition.Setting[string]{Value: "localhost"}).Value)
	if !own.Set || !ok {
		return &claim.Address{}
	}
	return &claim.Address{What: "service", Name: s.of.name + " itself", Origin: own.At.String(), Host: s.host, Network: s.network, IP: ip, Port: own.Value, Dialled: true}
}
