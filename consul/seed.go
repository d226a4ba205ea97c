package consul

import (
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// seed is what the last-known-good file says, until all is known from the agent. It is immutable.
type seed struct {
	saved        time.Time
	contents     catalog.Contents
	proxies      map[identity.ProxyID]*catalog.Proxy
	services     map[string]*catalog.Service // by target
	destinations map[string]*catalog.Destination
	protected    map[string]bool // the services of the proxies
}

func newSeed(s *lastKnownGood) *seed {
	out := &seed{
		saved: s.Saved, contents: s.Contents.contents(), proxies: map[identity.ProxyID]*catalog.Proxy{},
		services: map[string]*catalog.Service{}, destinations: map[string]*catalog.Destination{}, protected: map[string]bool{},
	}
	out.contents.Sort()
	for _, p := range out.contents.Proxies {
		out.proxies[p.ID] = p
		out.protected[p.Service.Service] = true
	}
	for _, s := range out.contents.Services {
		u := catalog.Upstream{Destination: s.Name, Datacenter: s.Datacenter}
		out.services[u.Name()] = s
	}
	for _, d := range out.contents.Intentions {
		out.destinations[d.Name.Service] = d
	}
	return out
}

// proxy is the proxy of that ID; nil: s has none, or is nil.
func (s *seed) proxy(id identity.ProxyID) *catalog.Proxy {
	if s == nil {
		return nil
	}
	return s.proxies[id]
}

// service is the one of that target; nil: s has none, or is nil.
func (s *seed) service(target string) *catalog.Service {
	if s == nil {
		return nil
	}
	return s.services[target]
}
