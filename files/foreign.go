package files

import (
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// foreignUpstream reads an upstream that is a workload of another trust domain and adds it to p. Nothing that is said of services
// holds for it.
func (d *definitions) foreignUpstream(o *definition.Decoder, p *proxy) {
	u := upstream{at: o.At}
	id, ok := o.SpiffeID("spiffe_id")
	if name := o.Field("destination_name"); name != nil {
		o.Know("destination_name")
		o.Mistake(name.At, "upstream has spiffe_id and destination_name: it is one of them")
	}
	u.Foreign, u.Origin = id, o.At.String()
	host, port, protocol := o.DialAddress("address"), o.Port("port"), o.Protocol()
	b := bindOf(o)
	if c, ok := o.Child("config", "config"); ok {
		s := c.UpstreamSettings()
		u.Upstream, protocol = s.Apply(u.Upstream), protocol.Or(s.Protocol)
	}
	o.Done()
	if !ok {
		return
	}
	if id.TrustDomain() == d.config.TrustDomain {
		o.Mistake(o.At, "upstream %s is of this mesh's own trust domain: give the service by destination_name", id)
		return
	}
	u.Protocol = catalog.OptionalProtocol{Set: protocol.Set, Protocol: protocol.Value}
	for key, given := range map[string]bool{"address": host.Set || o.Faulty("address"), "port": port.Set || o.Faulty("port")} {
		if !given {
			o.Mistake(o.At, "upstream %s needs %s: it is in no catalog, so where it is has to be said", id, key)
		}
	}
	if !host.Set || !port.Set || !b.apply(o, string(id), &u.Upstream) {
		return
	}
	u.Address, u.Port = host.Value, port.Value
	p.foreign = append(p.foreign, u)
}

// foreignUpstreams are those of s in other trust domains.
func (s *sidecar) foreignUpstreams() (out []catalog.Upstream) {
	for i := range s.foreign {
		out = append(out, s.foreign[i].Upstream)
	}
	return out
}
