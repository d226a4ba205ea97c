package claim

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// place is where an Envoy runs, as it says itself. The zero value is one that does not say.
type place struct {
	Network string `json:"network,omitempty"` // the network namespace
	Admin   string `json:"admin,omitempty"`   // "ip:port", or "unix:" and a path
}

// Place is told where the Envoy of a proxy runs: its network namespace, and where its administration
// listens ("ip:port", or "unix:" and a path); empty: it does not say. It goes before what the
// registration says, which others may write. alone says that no other Envoy of the proxy is served:
// where two do not agree, nothing is known. When Place returns what follows of it is published.
func (r *Registry) Place(id identity.ProxyID, network, administration string, alone bool) {
	r.publishing.Lock()
	defer r.publishing.Unlock()
	if c, changed := r.move(id, place{network, administration}, alone); changed && r.publish != nil {
		r.publish(c)
	}
}

// move is Place, and returns what is to be published.
func (r *Registry) move(id identity.ProxyID, at place, alone bool) (c catalog.Contents, changed bool) {
	r.judging.Lock()
	defer r.judging.Unlock()
	was := r.places[id]
	if !alone && was != at {
		at = place{}
	}
	if was == at {
		return c, false
	}
	r.places[id], r.unsaved = at, true
	rec := r.proxies[id]
	if rec == nil { // the catalog does not know it yet
		return c, false
	}
	rec.moved = true
	return r.again()
}

// again judges what is to be judged again, and returns the contents, with whether they are others.
func (r *Registry) again() (c catalog.Contents, changed bool) {
	if !r.known {
		return c, false
	}
	before := slices.Clone(r.taken)
	r.update(false)
	c = r.contents
	c.Proxies, c.Seen = r.taken, time.Now()
	return c, !slices.Equal(before, r.taken)
}

// networkOf is the network namespace that p's Envoy is in.
func (r *Registry) networkOf(p *catalog.Proxy, at place) string {
	switch at.Network {
	case "":
		return p.Network
	case r.network:
		return ""
	}
	return at.Network
}
