package catalog

import (
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// scope is what policies of the mesh are compiled with.
func (m *Mesh) scope() intention.Scope {
	return intention.Scope{TrustDomain: m.TrustDomain, Federated: m.Federated, Datacenters: m.Datacenters, Default: m.Default}
}

// serverFirst reports whether the application of a service, behind one of its proxies, speaks before its client.
func (v *View) serverFirst(service identity.Name) bool {
	if v.index == nil {
		return false
	}
	for _, i := range v.index.own[service] {
		if in := &v.contents.Proxies[i].Inbound; in.ServerFirst && !in.Protocol.L7() {
			return true
		}
	}
	return false
}
