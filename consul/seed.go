package consul

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// seed is what the last-known-good file says, until all is known from the agent. It is immutable.
type seed struct {
	saved        time.Time
	contents     catalog.Contents
	proxies      map[identity.ProxyID]*catalog.Proxy
	services     map[string]*catalog.Service   // by target
	chains       map[string]*chain.Chain       // likewise, with the protocol
	published    map[string]*catalog.Endpoints // likewise, with the subset
	destinations map[string]*catalog.Destination
	protected    map[string]bool // the services of the proxies and the registrations
}

func newSeed(file *lastKnownGood) *seed {
	c := &file.Contents
	s := &seed{
		saved: file.Saved,
		contents: catalog.Contents{
			Mesh: c.Mesh, Services: c.Services, Endpoints: slices.Concat(c.Endpoints, file.more.Subsets), Proxies: c.Proxies,
			Intentions: catalog.ByDestination(c.Intentions), Registrations: file.more.Registrations, Chains: file.chains, TokenProviders: file.more.TokenProviders,
		},
		proxies:      map[identity.ProxyID]*catalog.Proxy{},
		services:     map[string]*catalog.Service{},
		chains:       map[string]*chain.Chain{},
		published:    map[string]*catalog.Endpoints{},
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
		s.services[targetName(x.Name.Service, x.Datacenter, "")] = x
	}
	for _, x := range s.contents.Chains {
		datacenter := x.Datacenter
		if datacenter == c.Mesh.Datacenter {
			datacenter = ""
		}
		s.chains[targetName(x.Service.Service, datacenter, protocolMark+x.Protocol)] = x
	}
	for _, x := range s.contents.Endpoints {
		s.published[group{name: x.Name, datacenter: x.Datacenter, subset: x.Subset}.published()] = x
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

// service is the one of a target; nil: s has none, or is nil.
func (s *seed) service(target string) *catalog.Service {
	if s == nil {
		return nil
	}
	return s.services[target]
}

// chain is how a target is dialled by those who speak a protocol; nil: by the default chain, or s
// has none, or is nil.
func (s *seed) chain(target string, protocol catalog.Protocol) *chain.Chain {
	if s == nil {
		return nil
	}
	name, datacenter, _ := splitTarget(target)
	return s.chains[targetName(name, datacenter, protocolMark+protocol.String())]
}

// endpoints are those that are published as name; nil: s has none, or is nil.
func (s *seed) endpoints(name string) *catalog.Endpoints {
	if s == nil {
		return nil
	}
	return s.published[name]
}
