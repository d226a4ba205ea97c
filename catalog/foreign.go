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

// speaksTCP reports whether the proxies of a service speak tcp alone, so that there are connections and no requests.
func (v *View) speaksTCP(service identity.Name) bool {
	if v.index == nil {
		return false
	}
	for _, i := range v.index.own[service] {
		if v.contents.Proxies[i].Inbound.Protocol.L7() {
			return false
		}
	}
	return len(v.index.own[service]) > 0
}

// foreignTarget is what an upstream in another trust domain leads to.
func foreignTarget(u Upstream) Target {
	return Target{Service: &Service{Protocol: u.Protocol.Protocol}, Endpoints: &Endpoints{List: []Endpoint{{Address: u.Address, Port: u.Port, Weight: 1, Healthy: true}}}}
}

// keepForeign takes over the targets in other trust domains that are the same in old.
func (w *ProxyView) keepForeign(old *ProxyView) {
	for i, u := range w.Proxy.Upstreams {
		if u.Foreign != "" && i < len(old.Upstreams) && old.Upstreams[i].equal(w.Upstreams[i]) {
			w.Upstreams[i] = old.Upstreams[i]
		}
	}
}
