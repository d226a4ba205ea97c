package catalog

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// Chain is a discovery chain with where its targets are reached. Like all in a View it is the same pointer as long as all of it is the same.
type Chain struct {
	*chain.Chain
	// Endpoints are those of each of the chain's targets, by the target's ID. None is nil: what the source has not published, and
	// what is of another cluster, has no endpoints.
	Endpoints map[string]*Endpoints

	// own is what targets with the chain have as their Endpoints.
	own *Endpoints
}

func (c *Chain) equal(o *Chain) bool {
	return c == o || c != nil && o != nil && c.Chain.Equal(o.Chain) && maps.EqualFunc(c.Endpoints, o.Endpoints, (*Endpoints).equal) && c.own.equal(o.own)
}

func compareChains(a, b *chain.Chain) int {
	return cmp.Or(compareNames(a.Service, b.Service), strings.Compare(a.Datacenter, b.Datacenter), strings.Compare(a.Protocol, b.Protocol))
}

// targetKey is the key of the endpoints of a chain's target; ok is false for one of another cluster.
func (m *Mesh) targetKey(t *chain.Target) (key targetKey, ok bool) {
	key = m.key(t.Service, t.Datacenter)
	key.subset = t.Subset
	return key, t.Peer == ""
}

// bind gives n's chains the endpoints of their targets, taking those of v that come out the same. It returns the services that are
// dialled by another chain than in v, by one where there was none, or by none any more. n's index must be made.
func (n *View) bind(v *View, mesh bool, f followings) (dialled []targetKey) {
	n.chains, n.leads = v.chains, v.leads
	c := &n.contents
	if !mesh && f.chains.same() && (f.endpoints.same() || len(c.Chains) == 0) {
		return nil
	}
	if mesh || !f.chains.same() {
		n.leads = make(map[targetKey][]int, len(c.Chains))
		for i, of := range c.Chains {
			for _, t := range of.Targets {
				key, ok := n.mesh.targetKey(t)
				if at := n.leads[key]; ok && (len(at) == 0 || at[len(at)-1] != i) {
					n.leads[key] = append(at, i)
				}
			}
		}
	}
	concerned := map[int]bool{}
	if mesh || f.chains.others || f.endpoints.others {
		n.chains = make([]*Chain, len(c.Chains))
		for i, of := range c.Chains {
			concerned[i] = true
			if at, ok := slices.BinarySearchFunc(v.contents.Chains, of, compareChains); ok {
				n.chains[i] = v.chains[at]
			}
		}
		for _, old := range v.contents.Chains {
			if _, ok := slices.BinarySearchFunc(c.Chains, old, compareChains); !ok {
				dialled = append(dialled, n.mesh.key(old.Service, old.Datacenter))
			}
		}
	} else {
		n.chains = slices.Clone(v.chains)
		for _, i := range f.chains.changed {
			concerned[i] = true
		}
		for _, i := range f.endpoints.changed {
			for _, at := range n.leads[c.Endpoints[i].key()] {
				concerned[at] = true
			}
		}
	}
	for i := range concerned {
		if next := n.bound(c.Chains[i], n.chains[i]); next != n.chains[i] {
			n.chains[i] = next
			dialled = append(dialled, n.mesh.key(next.Service, next.Datacenter))
		}
	}
	return dialled
}

// bound is c with the endpoints of its targets; old, which may be nil, if that is the same.
func (n *View) bound(c *chain.Chain, old *Chain) *Chain {
	next := &Chain{Chain: c, Endpoints: make(map[string]*Endpoints, len(c.Targets))}
	own := n.mesh.key(c.Service, c.Datacenter)
	next.own = &Endpoints{Name: own.Name, Datacenter: own.datacenter}
	for id, t := range c.Targets {
		key, ok := n.mesh.targetKey(t)
		next.Endpoints[id] = &Endpoints{Name: key.Name, Datacenter: key.datacenter, Subset: key.subset}
		if at := n.index.targets[key]; ok && at != nil && at.endpoints > 0 {
			next.Endpoints[id] = n.contents.Endpoints[at.endpoints-1]
		}
	}
	if old == nil {
		return next
	}
	for id, e := range next.Endpoints {
		if was := old.Endpoints[id]; was != nil && was.equal(e) {
			next.Endpoints[id] = was
		}
	}
	if old.own.equal(next.own) {
		next.own = old.own
	}
	if next.equal(old) {
		return old
	}
	return next
}

// chain is the one for those who dial a service and speak p to it; nil: the requests go to the service's own instances.
func (n *View) chain(service identity.Name, datacenter string, p Protocol) *Chain {
	key := &chain.Chain{Service: service, Datacenter: cmp.Or(datacenter, n.mesh.Datacenter), Protocol: p.String()}
	if at, ok := slices.BinarySearchFunc(n.contents.Chains, key, compareChains); ok {
		return n.chains[at]
	}
	return nil
}
