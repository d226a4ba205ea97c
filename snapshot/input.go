// Package snapshot turns what a proxy is to do into what its Envoy is told. Project picks a proxy's Input out of a View; Build makes the
// Envoy resources of an Input. Build is pure: no clock, no I/O, no globals, no View, so "has its Input changed?" is the whole
// question of who has to be told. All Envoy configuration but secrets' contents and the bootstrap is made here.
package snapshot

import (
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// Input is everything that a proxy's resources depend on. What it points to is immutable, so two Inputs with equal pointers give equal resources.
type Input struct {
	Mesh    *catalog.Mesh
	Proxy   *catalog.Proxy
	Service *catalog.Service  // the proxy's own
	Policy  *intention.Policy // of the proxy's own service; nil denies everybody
	// Upstreams are the services that Proxy.Upstreams name, in the same order.
	Upstreams []*catalog.Service
	// Generation counts how often access to the service was taken away with live connections to be ended: it is part of the
	// inbound filter chain's name, so raising it drains them.
	Generation uint64
	// Envoy is what the proxy's Envoy can do.
	Envoy Features
}

// Project returns the input of a proxy as v has it; ok is false if v does not know the proxy. Generation and Envoy are left for the caller to fill in.
func Project(v *catalog.View, id identity.ProxyID) (in Input, ok bool) {
	p := v.Proxy(id)
	if p == nil {
		return Input{}, false
	}
	in = Input{Mesh: v.Mesh(), Proxy: p, Service: v.Service(p.Service), Policy: v.Policy(p.Service)}
	in.Upstreams = make([]*catalog.Service, len(p.Upstreams))
	for i, u := range p.Upstreams {
		in.Upstreams[i] = v.Upstream(u)
	}
	return in, true
}

// Same reports whether i and o are equal without looking behind a pointer. It may be false for inputs whose resources are equal, never the other way round.
func (i Input) Same(o Input) bool {
	return i.Mesh == o.Mesh && i.Proxy == o.Proxy && i.Service == o.Service && i.Policy == o.Policy &&
		i.Generation == o.Generation && i.Envoy == o.Envoy && slices.Equal(i.Upstreams, o.Upstreams)
}
