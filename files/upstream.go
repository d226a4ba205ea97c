package files

import (
	"net/netip"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// upstream reads one of a proxy's upstreams and adds it to p. taken are those that p has, and where.
func (d *definitions) upstream(o *definition.Decoder, p *proxy, taken map[identity.Name]definition.Position) {
	u := upstream{at: o.At}
	destination := o.Text("destination_name")
	o.Need("destination_name", destination)
	o.Only("destination_type", "service")
	tenancy(o, "destination_")
	if dc := o.Text("datacenter"); dc.Set && dc.Value != d.config.Datacenter {
		o.Mistake(dc.At, "datacenter %.60q is not this one (%s): files know the services of no other; beside Consul they can be dialled", dc.Value, d.config.Datacenter)
	}
	address := o.ListenAddress("local_bind_address")
	port := o.Port("local_bind_port")
	socket := socket(o, "local_bind_socket_path")
	mode := o.SocketMode("local_bind_socket_mode")
	o.MeshGateway("mesh_gateway")
	if c, ok := o.Child("config", "config"); ok {
		s := c.UpstreamSettings()
		u.settings = &s
	}
	written := o.Written(upstreamToldShape)
	u.config, _ = written["config"].(map[string]any)
	u.told = catalog.SidecarUpstream{
		Destination: destination.Value, Datacenter: text(written, "datacenter"), BindAddress: text(written, "local_bind_address"), BindPort: port.Value,
		BindSocket: socket.Value, SocketMode: text(written, "local_bind_socket_mode"),
	}
	given := o.Field("local_bind_port") != nil || o.Field("local_bind_socket_path") != nil
	o.Done()
	if !destination.Set || !o.Name("destination_name", destination) {
		return
	}
	u.Destination = identity.NewName(destination.Value)
	u.Origin = o.At.String()
	switch {
	case socket.Set && (port.Set || address.Set):
		o.Mistake(socket.At, "upstream %s has a local_bind_socket_path and a local_bind_address or local_bind_port: it can have one of them", destination.Value)
		return
	case socket.Set:
		u.BindSocket, u.BindSocketMode = socket.Value, mode.Value
	case port.Set:
		if mode.Set {
			o.Mistake(mode.At, "local_bind_socket_mode is for an upstream with local_bind_socket_path")
		}
		u.BindAddress, u.BindPort = address.Else(netip.AddrFrom4([4]byte{127, 0, 0, 1})).String(), port.Value
	default:
		if !given && !o.Faulty("local_bind_port", "local_bind_socket_path") {
			o.Mistake(o.At, "upstream %s needs local_bind_port or local_bind_socket_path", destination.Value)
		}
		return
	}
	if first, twice := taken[u.Destination]; twice {
		o.Mistake(o.At, "upstream %s is given twice (first at %s)", destination.Value, first)
		return
	}
	taken[u.Destination] = u.at
	p.upstreams = append(p.upstreams, u)
}
