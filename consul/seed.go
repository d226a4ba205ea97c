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

func newSeed(file *lastKnownGood) *seed {
	c := &file.Contents
	s := &seed{
		saved: file.Saved,
		contents: catalog.Contents{
			Mesh: c.Mesh, Services: c.Services, Proxies: c.Proxies, Intentions: catalog.ByDestination(c.Intentions),
		},
		proxies:      map[identity.ProxyID]*catalog.Proxy{},
		services:     map[string]*catalog.Service{},
		destinations: map[string]*catalog.Destination{},
		protected:    map[string]bool{},
	}
	s.contents.Sort()
	for _, p := range s.contents.Proxies {
		s.proxies[p.ID] = p
		s.protected[p.Service.Service] = true
	}
	for _, x := range s.contents.Services {
		u := catalog.Upstream{Destination: x.Name, Datacenter: x.Datacenter}
		s.services[u.Name()] = x
	}
	for _, d := range s.contents.Intentions {
		s.destinations[d.Name.Service] = d
	}
	return s
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
