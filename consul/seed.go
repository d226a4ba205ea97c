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
	targets      map[string]catalog.Target // either part may be nil
	destinations map[string]*catalog.Destination
	protected    map[string]bool // the services of the proxies and the registrations
}

func newSeed(file *lastKnownGood) *seed {
	c := &file.Contents
	s := &seed{
		saved: file.Saved,
		contents: catalog.Contents{
			Mesh: c.Mesh, Services: c.Services, Endpoints: c.Endpoints, Proxies: c.Proxies,
			Intentions: catalog.ByDestination(c.Intentions), Registrations: file.registrations,
		},
		proxies:      map[identity.ProxyID]*catalog.Proxy{},
		targets:      map[string]catalog.Target{},
		destinations: map[string]*catalog.Destination{},
		protected:    map[string]bool{},
	}
	s.contents.Sort()
	for _, p := range s.contents.Proxies {
		s.proxies[p.ID] = p
		s.protected[p.Service.Service] = true
	}
	for _, r := range s.contents.Registrations {
		s.protected[r.Service.Service] = true
	}
	for _, x := range s.contents.Services {
		u := catalog.Upstream{Destination: x.Name, Datacenter: x.Datacenter}
		s.targets[u.Name()] = catalog.Target{Service: x}
	}
	for _, x := range s.contents.Endpoints {
		u := catalog.Upstream{Destination: x.Name, Datacenter: x.Datacenter}
		s.targets[u.Name()] = catalog.Target{Service: s.targets[u.Name()].Service, Endpoints: x}
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

// target is the one of that name; zero: s has none, or is nil.
func (s *seed) target(name string) catalog.Target {
	if s == nil {
		return catalog.Target{}
	}
	return s.targets[name]
}
