package files

import (
	"net/netip"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// upstream reads one of a proxy's upstreams and adds it to p. taken are those that p has, and where.
func (d *definitions) upstream(o *definition.Decoder, p *proxy, taken map[identity.Name]definition.Position) {
	if o.Field("spiffe_id") != nil {
		d.foreignUpstream(o, p)
		return
	}
	u := upstream{at: o.At}
	destination := o.Text("destination_name")
	o.Need("destination_name", destination)
	o.Only("destination_type", "service")
	tenancy(o, "destination_")
	if dc := o.Text("datacenter"); dc.Set && dc.Value != d.config.Datacenter {
		o.Mistake(dc.At, "datacenter %.60q is not this one (%s): files know the services of no other; beside Consul they can be dialled", dc.Value, d.config.Datacenter)
	}
	b := bindOf(o)
	o.MeshGateway("mesh_gateway")
	if c, ok := o.Child("config", "config"); ok {
		s := c.UpstreamSettings()
		u.settings = &s
	}
	written := o.Written(upstreamToldShape)
	u.config, _ = written["config"].(map[string]any)
	u.told = catalog.SidecarUpstream{
		Destination: destination.Value, Datacenter: text(written, "datacenter"), BindAddress: text(written, "local_bind_address"), BindPort: b.port.Value,
		BindSocket: b.socket.Value, SocketMode: text(written, "local_bind_socket_mode"),
	}
	o.Done()
	if !destination.Set || !o.Name("destination_name", destination) {
		return
	}
	u.Destination = identity.NewName(destination.Value)
	u.Origin = o.At.String()
	if !b.apply(o, destination.Value, &u.Upstream) {
		return
	}
	if first, twice := taken[u.Destination]; twice {
		o.Mistake(o.At, "upstream %s is given twice (first at %s)", destination.Value, first)
		return
	}
	taken[u.Destination] = u.at
	p.upstreams = append(p.upstreams, u)
}

// bind is where the application dials an upstream.
type bind struct {
	address definition.Setting[netip.Addr]
	port    definition.Setting[uint16]
	socket  definition.Setting[string]
	mode    definition.Setting[uint32]
	given   bool // a port or a socket, though it may be wrong
}

func bindOf(o *definition.Decoder) bind {
	return bind{
		o.ListenAddress("local_bind_address"), o.Port("local_bind_port"), socket(o, "local_bind_socket_path"), o.SocketMode("local_bind_socket_mode"),
		o.Field("local_bind_port") != nil || o.Field("local_bind_socket_path") != nil,
	}
}

// apply puts b into the upstream of that name; false: it is not known where to listen, which is a mistake.
func (b bind) apply(o *definition.Decoder, name string, u *catalog.Upstream) bool {
	switch {
	case b.socket.Set && (b.port.Set || b.address.Set):
		o.Mistake(b.socket.At, "upstream %s has a local_bind_socket_path and a local_bind_address or local_bind_port: it can have one of them", name)
		return false
	case b.socket.Set:
		u.BindSocket, u.BindSocketMode = b.socket.Value, b.mode.Value
	case b.port.Set:
		if b.mode.Set {
			o.Mistake(b.mode.At, "local_bind_socket_mode is for an upstream with local_bind_socket_path")
		}
		u.BindAddress, u.BindPort = b.address.Else(netip.AddrFrom4([4]byte{127, 0, 0, 1})).String(), b.port.Value
	default:
		if !b.given && !o.Faulty("local_bind_port", "local_bind_socket_path") {
			o.Mistake(o.At, "upstream %s needs local_bind_port or local_bind_socket_path", name)
		}
		return false
	}
	return true
}
