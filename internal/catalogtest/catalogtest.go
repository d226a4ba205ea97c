// Package catalogtest lets tests write a mesh down as values and change it in place.
package catalogtest

import (
	"maps"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// Mesh is catalog.Contents by value, in any order. The zero value is a mesh of nothing.
type Mesh struct {
	Mesh          catalog.Mesh
	Services      []catalog.Service
	Endpoints     []catalog.Endpoints
	Proxies       []catalog.Proxy
	Intentions    []intention.Intention
	Registrations []catalog.Registration
	Sidecars      []catalog.Sidecar
	Entries       []catalog.Entry
	Chains        []*chain.Chain // not copied: immutable as they are
	// TokenProviders are as in catalog.Contents.
	TokenProviders []catalog.TokenProvider
	// Partial says that there may be intentions about other destinations, of which nothing is known.
	Partial bool
	// Revoked is as in catalog.Contents.
	Revoked *intention.Revoked
}

// Contents are m as it is now: a copy, so that m may be changed after it was published. It is equal
// to, and shares nothing with, what an earlier call returned.
func (m Mesh) Contents() catalog.Contents {
	c := catalog.Contents{Mesh: m.Mesh, Whole: !m.Partial, Revoked: m.Revoked, Intentions: catalog.ByDestination(slices.Clone(m.Intentions))}
	c.Mesh.Datacenters = slices.Sorted(slices.Values(m.Mesh.Datacenters))
	for _, s := range m.Services {
		c.Services = append(c.Services, &s)
	}
	for _, e := range m.Endpoints {
		e.List = slices.SortedFunc(slices.Values(e.List), catalog.CompareEndpoints)
		c.Endpoints = append(c.Endpoints, &e)
	}
	for _, p := range m.Proxies {
		p.Upstreams, p.Exposed = slices.Clone(p.Upstreams), slices.Clone(p.Exposed)
		c.Proxies = append(c.Proxies, &p)
	}
	for _, r := range m.Registrations {
		r.Tags, r.Meta, r.Checks = slices.Clone(r.Tags), maps.Clone(r.Meta), slices.Clone(r.Checks)
		c.Registrations = append(c.Registrations, &r)
	}
	for _, s := range m.Sidecars {
		s.Tags, s.Meta, s.Checks = slices.Clone(s.Tags), maps.Clone(s.Meta), slices.Clone(s.Checks)
		s.Upstreams, s.Exposed = slices.Clone(s.Upstreams), slices.Clone(s.Exposed)
		c.Sidecars = append(c.Sidecars, &s)
	}
	for _, e := range m.Entries {
		e.Meta, e.Sources = maps.Clone(e.Meta), slices.Clone(e.Sources)
		c.Entries = append(c.Entries, &e)
	}
	c.Chains = slices.Clone(m.Chains)
	for _, p := range m.TokenProviders {
		p.Audiences, p.Places = slices.Clone(p.Audiences), slices.Clone(p.Places)
		c.TokenProviders = append(c.TokenProviders, &p)
	}
	c.Sort()
	return c
}

// View is the first view of m.
func (m Mesh) View() *catalog.View { return new(catalog.View).Next(m.Contents()) }

// Intentions are those of c in one list, by precedence.
func Intentions(c catalog.Contents) []intention.Intention {
	var all []intention.Intention
	for _, d := range c.Intentions {
		all = append(all, d.Intentions...)
	}
	slices.SortFunc(all, intention.Compare)
	return all
}

// Policy is the policy of a destination, made out of all that is said, in any order.
func Policy(destination identity.Name, all []intention.Intention, scope intention.Scope) *intention.Policy {
	return intention.Share(destination, all, scope).Policy(destination, all)
}
