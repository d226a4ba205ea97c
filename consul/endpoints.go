package consul

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/catalog"
)

// mostWeight is Envoy's and Consul's bound on the weight of an endpoint.
const mostWeight = 128

// instances are those of a service, and what they come to.
type instances struct {
	all       []*instance
	far       bool // as in readInstances
	endpoints []catalog.Endpoint
	// undialable are the IDs of the instances that have no address or port to dial, sorted.
	undialable []string
}

// readInstances maps the instances of a service as Consul's own control plane does: all of them,
// with their health, so that Envoy keeps connections to one that is critical for a moment. Of two
// instances at one address the healthy one counts. far says that they are dialled from another
// datacenter.
func readInstances(all []*instance, far bool) instances {
	out := instances{all: all, far: far}
	out.endpoints, out.undialable = readEndpoints(all, far, false)
	return out
}

// passing are the endpoints of those that a subset with OnlyPassing has.
func (i instances) passing() []catalog.Endpoint {
	list, _ := readEndpoints(i.all, i.far, true)
	return list
}

func readEndpoints(all []*instance, far, onlyPassing bool) (list []catalog.Endpoint, undialable []string) {
	for _, i := range all {
		if i == nil || i.Service == nil {
			continue
		}
		var e catalog.Endpoint
		e.Address, e.Port = addressOf(i, far)
		if e.Port == 0 || e.Address == "" {
			undialable = append(undialable, i.Service.ID)
			continue
		}
		e.Weight, e.Healthy = weightOf(i, onlyPassing)
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b catalog.Endpoint) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port),
			compareHealth(a, b), cmp.Compare(b.Weight, a.Weight))
	})
	list = slices.CompactFunc(list, func(a, b catalog.Endpoint) bool { return a.Address == b.Address && a.Port == b.Port })
	slices.Sort(undialable)
	return list, slices.Compact(undialable)
}

func anyHealthy(list []catalog.Endpoint) bool {
	return slices.ContainsFunc(list, func(e catalog.Endpoint) bool { return e.Healthy })
}

// compareHealth puts the healthy first.
func compareHealth(a, b catalog.Endpoint) int {
	switch {
	case a.Healthy == b.Healthy:
		return 0
	case a.Healthy:
		return -1
	}
	return 1
}

// addressOf is where an instance is dialled: at the service's own address, else at its node's. From
// another datacenter the address that is tagged so goes before either, as in Consul: that of a
// service also if it is empty, its port unless it is zero. Consul's translate_wan_addrs changes
// nothing about it.
func addressOf(i *instance, far bool) (address string, port uint16) {
	address, port = i.Service.Address, portOf(i.Service.Port)
	if wan, ok := i.Service.TaggedAddresses["wan"]; ok && far {
		address = wan.Address
		if wan.Port != 0 {
			port = portOf(wan.Port)
		}
	}
	if n := i.Node; n != nil && address == "" {
		if far {
			address = n.TaggedAddresses["wan"]
		}
		address = cmp.Or(address, n.Address, n.TaggedAddresses["lan"])
	}
	return readAddress(address), port
}

// readAddress is an address as it is written to be dialled; empty if it cannot be.
func readAddress(address string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return ""
		}
		return a.Unmap().String()
	}
	if len(address) > 253 || strings.ContainsFunc(address, notInHostName) {
		return ""
	}
	return address
}

func notInHostName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
}

// weightOf is an instance's share by its health. Maintenance is a critical check in Consul. With
// onlyPassing a warning is as bad.
func weightOf(i *instance, onlyPassing bool) (weight uint32, healthy bool) {
	w := struct{ Passing, Warning int }{1, 1}
	if i.Service.Weights != nil {
		w = *i.Service.Weights
	}
	n := w.Passing
	healthy = true
	for _, c := range i.Checks {
		switch c.Status {
		case api.HealthPassing:
		case api.HealthWarning:
			n = w.Warning
			healthy = healthy && !onlyPassing
		default: // critical, maintenance, and whatever else there will be
			healthy = false
		}
	}
	return uint32(min(max(n, 1), mostWeight)), healthy && n > 0
}

// mergeInstances is what is known after an answer that may lack some: those of it, and those that
// only an earlier one has.
func mergeInstances(far bool) func(old, now instances) instances {
	return func(old, now instances) instances {
		return readInstances(merge(old.all, now.all, func(i *instance) (k [2]string) {
			if i != nil && i.Node != nil {
				k[0] = i.Node.Node
			}
			if i != nil && i.Service != nil {
				k[1] = i.Service.ID
			}
			return k
		}), far)
	}
}

// merge is now, and of old what now has no other value for.
func merge[T any, K comparable](old, now []T, key func(T) K) []T {
	out := slices.Clone(now)
	have := make(map[K]bool, len(now))
	for _, v := range now {
		have[key(v)] = true
	}
	for _, v := range old {
		if !have[key(v)] {
			out = append(out, v)
		}
	}
	return out
}
