package xds

import (
	"slices"

	"github.com/sallyport/sallyport/snapshot"
)

// target is the complete configuration that one session's Envoy is to have. It is immutable, and so
// is what it points to; the resources are shared between sessions, so that a resource that many
// proxies have is kept once.
type target struct {
	resources  [kinds]snapshot.Set
	generation uint64 // of the inbound filter chain; 0: the proxy's revocation is not "drain"
	// routeClusters and judges are what the sending order depends on; see snapshot.Resources.
	routeClusters map[string][]string
	judges        map[string]snapshot.Judge
}

// equal reports whether t and o have the same resources. Resources with equal content are the same
// pointer; see snapshot.Resources.
func (t *target) equal(o *target) bool {
	if t == nil || o == nil {
		return t == o
	}
	for k := range kinds {
		if !t.resources[k].Is(o.resources[k]) && !slices.Equal(t.resources[k], o.resources[k]) {
			return false
		}
	}
	return t.generation == o.generation
}
