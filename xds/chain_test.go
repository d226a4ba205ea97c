package xds

import (
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// route has a service, of that protocol, dialled by the chain that the entries make: resolvers, splitters and routers. Without any it has none.
func (m *mesh) route(service string, protocol catalog.Protocol, entries ...any) {
	m.t.Helper()
	all := &chain.Entries{
		TrustDomain: trustDomain, Datacenter: "dc1", Proxy: chain.Defaults{Protocol: protocol.String()},
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
	}
	for _, e := range entries {
		switch e := e.(type) {
		case chain.Resolver:
			all.Resolvers[e.Service] = &e
		case chain.Splitter:
			all.Splitters[e.Service] = &e
		case chain.Router:
			all.Routers[e.Service] = &e
		default:
			m.t.Fatalf("%T is no entry", e)
		}
	}
	c, _, err := chain.Compile(all, identity.NewName(service), chain.Overrides{})
	if err != nil {
		m.t.Fatal(err)
	}
	var chains []*chain.Chain
	for _, o := range m.contents.Chains {
		if o.Service != c.Service {
			chains = append(chains, o)
		}
	}
	if !c.Default {
		chains = append(chains, c)
	}
	m.contents.Chains = chains
}

// instances are where a subset of a service is; "": all of it.
func (m *mesh) instances(service, subset string, list ...catalog.Endpoint) {
	of := catalog.Endpoints{Name: identity.NewName(service), Subset: subset, List: list}
	for i, o := range m.contents.Endpoints {
		if o.Name == of.Name && o.Subset == subset {
			m.contents.Endpoints[i] = of
			return
		}
	}
	m.contents.Endpoints = append(m.contents.Endpoints, of)
}

// resolve is an entry that leads a service to another, or to a subset of itself, and to others if nobody there is well.
func resolve(service, to, subset string, failover ...chain.FailoverTarget) chain.Resolver {
	r := chain.Resolver{Service: identity.NewName(service)}
	if service != to {
		r.Redirect = &chain.Redirect{Service: to, Subset: subset}
	} else {
		r.DefaultSubset = subset
		r.Subsets = map[string]chain.Subset{"v1": {}, "v2": {}}
	}
	if len(failover) > 0 {
		r.Failover = map[string]chain.Failover{"*": {Targets: failover}}
	}
	return r
}
