package xds

import (
	"maps"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/snapshot"
)

// target is what one session's Envoy is to have: all of it, in hand. It is immutable, and so is
// what it points to; the resources are shared between sessions, so that a resource that many
// proxies have is kept once.
type target struct {
	resources  [kinds]map[string]*discoveryv3.Resource
	generation uint64 // of the inbound filter chain; 0: the proxy drains nothing
	// routeClusters and judges are what the order of sending has to know of the resources; they
	// follow from them. See snapshot.Resources.
	routeClusters map[string][]string
	judges        map[string]snapshot.Judge
}

// equal reports whether t and o hold the same resources. Those of equal content are the same
// pointer; see interned.
func (t *target) equal(o *target) bool {
	if t == nil || o == nil {
		return t == o
	}
	for k := range kinds {
		if !maps.Equal(t.resources[k], o.resources[k]) {
			return false
		}
	}
	return t.generation == o.generation
}
