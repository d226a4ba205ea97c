package catalog

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// Sort puts the lists of c into the order that contents have. It is for sources that found them in
// another; everything must be in them once.
func (c *Contents) Sort() {
	slices.SortFunc(c.Services, compareTargets)
	slices.SortFunc(c.Endpoints, compareTargets)
	slices.SortFunc(c.Proxies, compareProxies)
	slices.SortFunc(c.Intentions, compareDestinations)
	slices.SortFunc(c.Chains, compareChains)
	slices.SortFunc(c.TokenProviders, compareTokenProviders)
	slices.SortFunc(c.Registrations, compareRegistrations)
	slices.SortFunc(c.Sidecars, compareSidecars)
	slices.SortFunc(c.Entries, compareEntries)
}

// Reuse takes what is equal in old from old, pointer and all. It is for sources that put c together anew;
// both are in the order that contents have.
func (c *Contents) Reuse(old *Contents) {
	c.follow(old)
}

// followings are how each list of Contents followed the one before.
type followings struct {
	services, endpoints, proxies, destinations, chains, tokens, registrations, sidecars, entries following
	// chainEntries: they are others.
	chainEntries bool
	// revoked are the revocations that are not in both; nil: none.
	revoked *intention.Revoked
}

func (f *followings) same() bool {
	return f.services.same() && f.endpoints.same() && f.proxies.same() && f.destinations.same() && f.chains.same() && f.tokens.same() && f.registrations.same() && f.sidecars.same() && f.entries.same() && !f.chainEntries && f.revoked == nil
}

// follow is Reuse, and returns how each list followed the one in old.
func (c *Contents) follow(old *Contents) (f followings) {
	c.Services, f.services = follow(old.Services, c.Services, compareTargets, (*Service).equal)
	if f.revoked = c.Revoked.Since(old.Revoked); f.revoked == nil {
		c.Revoked = old.Revoked
	}
	c.Endpoints, f.endpoints = follow(old.Endpoints, c.Endpoints, compareTargets, (*Endpoints).equal)
	c.Proxies, f.proxies = follow(old.Proxies, c.Proxies, compareProxies, (*Proxy).equal)
	c.Intentions, f.destinations = follow(old.Intentions, c.Intentions, compareDestinations, (*Destination).equal)
	c.Chains, f.chains = follow(old.Chains, c.Chains, compareChains, (*chain.Chain).Equal)
	if f.chainEntries = !c.ChainEntries.Equal(old.ChainEntries); !f.chainEntries {
		c.ChainEntries = old.ChainEntries
	}
	c.TokenProviders, f.tokens = follow(old.TokenProviders, c.TokenProviders, compareTokenProviders, (*TokenProvider).equal)
	c.Registrations, f.registrations = follow(old.Registrations, c.Registrations, compareRegistrations, (*Registration).equal)
	c.Sidecars, f.sidecars = follow(old.Sidecars, c.Sidecars, compareSidecars, (*Sidecar).equal)
	c.Entries, f.entries = follow(old.Entries, c.Entries, compareEntries, (*Entry).equal)
	return f
}

// following is how one list followed another.
type following struct {
	others  bool  // other things are in it
	changed []int // where something is another than it was
}

func (f following) same() bool { return !f.others && len(f.changed) == 0 }

// follow returns given, with what is equal in old taken from there. Both are sorted, and not
// changed.
func follow[T any](
	old, given []*T, compare func(a, b *T) int, equal func(a, b *T) bool,
) (list []*T, f following) {
	list = given
	cloned := false
	for i, g := range given {
		for len(old) > 0 && old[0] != g && compare(old[0], g) < 0 {
			old, f.others = old[1:], true
		}
		switch {
		case len(old) == 0 || old[0] != g && compare(old[0], g) > 0:
			f.others = true
			continue
		case old[0] == g:
		case !equal(old[0], g):
			f.changed = append(f.changed, i)
		default:
			if !cloned {
				list, cloned = slices.Clone(given), true
			}
			list[i] = old[0]
		}
		old = old[1:]
	}
	f.others = f.others || len(old) > 0
	return list, f
}

// ByDestination sorts intentions into destinations, in the order that contents have. It may change the
// order of all, which the destinations share.
func ByDestination(all []intention.Intention) []*Destination {
	slices.SortFunc(all, func(a, b intention.Intention) int {
		return cmp.Or(compareNames(a.Destination, b.Destination), intention.Compare(a, b))
	})
	var out []*Destination
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Destination == all[0].Destination {
			n++
		}
		out = append(out, &Destination{Name: all[0].Destination, Intentions: all[:n:n]})
		all = all[n:]
	}
	return out
}

func compareNames(a, b identity.Name) int {
	return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Partition, b.Partition))
}

func (s *Service) key() targetKey { return targetKey{s.Name, s.Datacenter, ""} }

func (e *Endpoints) key() targetKey { return targetKey{e.Name, e.Datacenter, e.Subset} }

func compareTargets[T interface{ key() targetKey }](a, b T) int {
	k, l := a.key(), b.key()
	return cmp.Or(compareNames(k.Name, l.Name), strings.Compare(k.datacenter, l.datacenter), strings.Compare(k.subset, l.subset))
}

func compareProxies(a, b *Proxy) int { return strings.Compare(string(a.ID), string(b.ID)) }

func compareDestinations(a, b *Destination) int { return compareNames(a.Name, b.Name) }

// CompareEndpoints orders endpoints by address and port.
func CompareEndpoints(a, b Endpoint) int {
	return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Weight, b.Weight), boolCompare(a.Healthy, b.Healthy))
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (m *Mesh) equal(o *Mesh) bool {
	return m.TrustDomain == o.TrustDomain && m.Datacenter == o.Datacenter &&
		slices.Equal(m.Datacenters, o.Datacenters) && slices.Equal(m.Federated, o.Federated) && m.Default == o.Default && m.Incoming == o.Incoming &&
		m.Outgoing == o.Outgoing && m.DropForwardedClientCert == o.DropForwardedClientCert
}

func (s *Service) equal(o *Service) bool { return *s == *o }

func (e *Endpoints) equal(o *Endpoints) bool {
	return e.key() == o.key() && slices.Equal(e.List, o.List)
}

func (t Target) equal(o Target) bool {
	return t == o || t.Chain == o.Chain && t.Service.equal(o.Service) && t.Endpoints.equal(o.Endpoints)
}

func (p *Proxy) equal(o *Proxy) bool {
	return p.ID == o.ID && p.Service == o.Service && p.Instance == o.Instance && p.Origin == o.Origin && p.Host == o.Host && p.Network == o.Network && p.Refused == o.Refused &&
		p.Inbound == o.Inbound && p.Bootstrap == o.Bootstrap && p.RefuseHTTP10 == o.RefuseHTTP10 && p.AccessLogs == o.AccessLogs && slices.Equal(p.Upstreams, o.Upstreams) &&
		slices.Equal(p.Exposed, o.Exposed)
}

// SaysAs reports whether p and o say the same, wherever it is written.
func (p *Proxy) SaysAs(o *Proxy) bool {
	placeless := func(p *Proxy) *Proxy {
		q := *p
		q.Origin, q.Inbound.LocalOrigin, q.Upstreams, q.Exposed = "", "", slices.Clone(p.Upstreams), slices.Clone(p.Exposed)
		for i := range q.Upstreams {
			q.Upstreams[i].Origin = ""
		}
		for i := range q.Exposed {
			q.Exposed[i].Origin = ""
		}
		return &q
	}
	return placeless(p).equal(placeless(o))
}

// namesAlike reports whether p and o are of the same service and dial the same ones.
func (p *Proxy) namesAlike(o *Proxy) bool {
	return p.Service == o.Service && slices.EqualFunc(p.Upstreams, o.Upstreams, func(a, b Upstream) bool {
		return a.Destination == b.Destination && a.Datacenter == b.Datacenter && a.Foreign == b.Foreign
	})
}

func (d *Destination) equal(o *Destination) bool {
	return d.Name == o.Name && slices.Equal(d.Intentions, o.Intentions)
}
