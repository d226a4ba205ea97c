package catalog

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// Sort puts the lists of c into the order that contents have. It is for sources that found them in
// another; everything must be in them once.
func (c *Contents) Sort() {
	slices.SortFunc(c.Services, compareServices)
	slices.SortFunc(c.Proxies, compareProxies)
	slices.SortFunc(c.Intentions, compareDestinations)
}

// Reuse puts old's pointers into c where what is behind them is equal, so that a source publishes again
// what did not change. Both are in the order that contents have; c is not published yet.
func (c *Contents) Reuse(old Contents) {
	c.Services = follow(old.Services, old.Services, c.Services, compareServices, (*Service).equal).list
	c.Proxies = follow(old.Proxies, old.Proxies, c.Proxies, compareProxies, (*Proxy).equal).list
	c.Intentions = follow(old.Intentions, old.Intentions, c.Intentions, compareDestinations, (*Destination).equal).list
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

func compareServices(a, b *Service) int {
	return cmp.Or(compareNames(a.Name, b.Name), strings.Compare(a.Datacenter, b.Datacenter))
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
		slices.Equal(m.Datacenters, o.Datacenters) && m.Default == o.Default && m.Incoming == o.Incoming &&
		m.Outgoing == o.Outgoing && m.DropForwardedClientCert == o.DropForwardedClientCert
}

func (s *Service) equal(o *Service) bool {
	return s.Name == o.Name && s.Datacenter == o.Datacenter && s.Protocol == o.Protocol &&
		slices.Equal(s.Endpoints, o.Endpoints)
}

func (p *Proxy) equal(o *Proxy) bool {
	return p.ID == o.ID && p.Service == o.Service && p.Instance == o.Instance && p.Origin == o.Origin &&
		p.Inbound == o.Inbound && p.Bootstrap == o.Bootstrap && slices.Equal(p.Upstreams, o.Upstreams) &&
		slices.Equal(p.Exposed, o.Exposed)
}

// namesAlike reports whether p and o are of the same service and dial the same ones.
func (p *Proxy) namesAlike(o *Proxy) bool {
	return p.Service == o.Service && slices.EqualFunc(p.Upstreams, o.Upstreams, func(a, b Upstream) bool {
		return a.Destination == b.Destination && a.Datacenter == b.Datacenter
	})
}

func (d *Destination) equal(o *Destination) bool {
	return d.Name == o.Name && slices.Equal(d.Intentions, o.Intentions)
}
