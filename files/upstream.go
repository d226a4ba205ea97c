package files

import (
	"net/netip"
	"strconv"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// upstream reads one of a proxy's upstreams and adds it to p.
func (d *directory) upstream(o *object, p *proxy) {
	u := upstream{at: o.at}
	destination := o.text("destination_name")
	o.only("destination_type", "service")
	o.tenancy("destination_")
	if dc := o.text("datacenter"); dc.set && dc.value != d.config.Datacenter {
		o.problem(dc.at, "datacenter %.60q is not this one (%s): files know the services of no other; beside Consul they can be dialled", dc.value, d.config.Datacenter)
	}
	address := o.ip("local_bind_address")
	port := o.port("local_bind_port")
	socket := o.socket("local_bind_socket_path")
	mode := o.mode("local_bind_socket_mode")
	o.meshGateway("mesh_gateway")
	if c, ok := o.child("config", "config"); ok {
		s := c.upstreamSettings()
		u.settings = &s
	}
	given := o.field("local_bind_port") != nil || o.field("local_bind_socket_path") != nil
	o.done()
	if !o.require("destination_name", destination) || !o.name("destination_name", destination) {
		return
	}
	u.Destination = identity.NewName(destination.value)
	u.Origin = o.at.String()
	switch {
	case socket.set && (port.set || address.set):
		o.problem(socket.at, "upstream %s has a local_bind_socket_path and a local_bind_address or local_bind_port: it can have one of them", destination.value)
		return
	case socket.set:
		u.BindSocket, u.BindSocketMode = socket.value, mode.value
	case port.set:
		if mode.set {
			o.problem(mode.at, "local_bind_socket_mode is for an upstream with local_bind_socket_path")
		}
		u.BindAddress, u.BindPort = address.or(setting[netip.Addr]{value: netip.AddrFrom4([4]byte{127, 0, 0, 1})}).value.String(), port.value
	default:
		if !given {
			o.problem(o.at, "upstream %s needs local_bind_port or local_bind_socket_path", destination.value)
		}
		return
	}
	for _, other := range p.upstreams {
		if other.Destination == u.Destination {
			o.problem(o.at, "upstream %s is given twice (first at %s)", destination.value, other.at)
			return
		}
	}
	p.upstreams = append(p.upstreams, u)
}

// mode is the permission bits of a socket, a string in octal as in Consul.
func (o *object) mode(key string) (s setting[uint32]) {
	n := o.field(key)
	if n == nil {
		return s
	}
	if n.kind != text {
		o.mismatch(key, `a string in octal, like "0700"`, n)
		return s
	}
	m, err := strconv.ParseUint(n.text, 8, 32)
	if err != nil || m > 0o777 {
		o.problem(n.at, `%s %.20q must be permission bits in octal, like "0700"`, key, n.text)
		return s
	}
	return setting[uint32]{set: true, value: uint32(m), at: n.at}
}

// with is u with what its settings say.
func (u *upstream) with(s upstreamSettings) catalog.Upstream {
	c := u.Upstream
	c.ConnectTimeout = s.connectTimeout.value
	c.Limits = s.limits.value
	c.Passive = s.passive.value
	c.BalanceConnections = s.balance.value
	return c
}
