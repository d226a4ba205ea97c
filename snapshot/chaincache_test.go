package snapshot_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/snapshot"
)

// randomTargets are some targets that the chains of several services may have.
func randomTargets(r *rand.Rand) []*chain.Target {
	out := make([]*chain.Target, 1+r.IntN(3))
	for i := range out {
		t := &chain.Target{Service: named(fmt.Sprintf("service-%d", r.IntN(3))), Subset: []string{"", "v1"}[r.IntN(2)], Datacenter: []string{"dc1", "dc2"}[r.IntN(2)]}
		t.ID = fmt.Sprintf("%s.%s.%s", t.Subset, t.Service.Service, t.Datacenter)
		if r.IntN(8) == 0 {
			t.ID, t.Peer, t.Datacenter = "peer."+t.ID, "p", ""
		}
		out[i] = t
	}
	return out
}

// randomChain is one of a resolver, or of a splitter and several.
func randomChain(r *rand.Rand, service identity.Name) *chain.Chain {
	c := &chain.Chain{Service: service, Datacenter: "dc1", Nodes: map[string]*chain.Node{}, Targets: map[string]*chain.Target{}}
	splitter := &chain.Node{Type: chain.SplitterNode, Name: service.Service}
	for range 1 + r.IntN(2) {
		n := &chain.Node{Type: chain.ResolverNode, Resolver: &chain.Resolution{}}
		for i, t := range randomTargets(r) {
			c.Targets[t.ID] = t
			if i == 0 {
				n.Resolver.Target = t.ID
			} else {
				n.Resolver.Failover = append(n.Resolver.Failover, t.ID)
			}
		}
		if r.IntN(3) == 0 {
			n.LoadBalancer = &chain.LoadBalancer{Policy: []string{"random", "ring_hash", "x"}[r.IntN(3)]}
		}
		n.Name = n.Resolver.Target
		c.Start = "resolver:" + n.Name
		c.Nodes[c.Start] = n
		splitter.Splits = append(splitter.Splits, chain.NodeSplit{Weight: 50, Next: c.Start, Definition: &chain.Split{}})
	}
	if r.IntN(2) == 0 {
		c.Start = "splitter:" + splitter.Name
		c.Nodes[c.Start] = splitter
	}
	return c
}

// levelsIn are the endpoints of all targets that in's chains have, by ID.
func levelsIn(in snapshot.Input) map[string]*catalog.Endpoints {
	out := map[string]*catalog.Endpoints{}
	for _, x := range in.Upstreams {
		if x.Chain != nil {
			maps.Copy(out, x.Chain.Endpoints)
		}
	}
	return out
}

// replaceChain has all upstreams to a service have that chain.
func replaceChain(in snapshot.Input, service *catalog.Service, c *catalog.Chain) {
	for i, x := range in.Upstreams {
		if x.Service.Name == service.Name && x.Service.Datacenter == service.Datacenter {
			in.Upstreams[i].Chain = c
			if c != nil {
				in.Upstreams[i].Endpoints = &catalog.Endpoints{Name: service.Name, Datacenter: service.Datacenter}
			}
		}
	}
}

// varyChain gives a service another chain, or none.
func varyChain(r *rand.Rand, in snapshot.Input) snapshot.Input {
	if len(in.Upstreams) == 0 {
		return in
	}
	of := in.Upstreams[r.IntN(len(in.Upstreams))]
	if r.IntN(4) == 0 {
		replaceChain(in, of.Service, nil)
		return in
	}
	known := levelsIn(in)
	c := &catalog.Chain{Chain: randomChain(r, of.Service.Name), Endpoints: map[string]*catalog.Endpoints{}}
	for id, t := range c.Targets {
		if c.Endpoints[id] = known[id]; known[id] == nil {
			c.Endpoints[id] = &catalog.Endpoints{Name: t.Service, Subset: t.Subset, Datacenter: t.Datacenter}
		}
	}
	replaceChain(in, of.Service, c)
	return in
}

// varyLevel gives a target of chains other endpoints, in all of them.
func varyLevel(r *rand.Rand, in snapshot.Input, e catalog.Endpoint) snapshot.Input {
	known := levelsIn(in)
	if len(known) == 0 {
		return in
	}
	id := slices.Sorted(maps.Keys(known))[r.IntN(len(known))]
	next := *known[id]
	next.List = append(slices.Clone(next.List[:min(len(next.List), 2)]), e)
	made := map[*catalog.Chain]*catalog.Chain{} // one chain is one pointer, as in a View
	for _, x := range slices.Clone(in.Upstreams) {
		if x.Chain == nil || x.Chain.Endpoints[id] == nil {
			continue
		}
		if made[x.Chain] == nil {
			c := &catalog.Chain{Chain: x.Chain.Chain, Endpoints: maps.Clone(x.Chain.Endpoints)}
			c.Endpoints[id] = &next
			made[x.Chain] = c
		}
		replaceChain(in, x.Service, made[x.Chain])
	}
	return in
}
