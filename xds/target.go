package xds

import (
	"slices"

	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
)

// target is the complete configuration that one session's Envoy is to have. It is immutable, and so
// is what it points to; the resources are shared between sessions, so that a resource that many
// proxies have is kept once.
type target struct {
	resources  [kinds]snapshot.Set
	generation uint64 // of the inbound filter chain; 0: the proxy's revocation is not "drain"
	// leadsTo, inbound and judges are what the sending order depends on: Clusters, Inbound and
	// Judges of snapshot.Resources.
	leadsTo map[string][]string
	inbound string
	judges  map[string]snapshot.Judge
	// bundles are the roots in its secrets, or older ones than those; nil: not all of them are known. leafs are those of its secrets.
	bundles *sds.Roots
	leafs   []namedLeaf
	// redials is the secret with the leaf by which the clusters are dialled, if they may not be sent before it is; empty: they may.
	redials string
	// partial: it has who may connect and nothing else; Envoy keeps of the rest what it has.
	partial bool
}

// whole reports whether t, which may be nil, is all that Envoy is to have.
func (t *target) whole() bool { return t != nil && !t.partial }

// ref names a resource.
type ref struct {
	kind kind
	name string
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
	return t.generation == o.generation && t.partial == o.partial
}

// differences are the resources that o, which may be nil, has not, has otherwise or has alone.
func (t *target) differences(o *target) (out []ref) {
	for k, set := range t.resources {
		var old snapshot.Set
		if o != nil {
			old = o.resources[k]
		}
		if set.Is(old) {
			continue
		}
		for _, r := range set {
			if before := old.Get(r.GetName()); before == nil || before.GetVersion() != r.GetVersion() {
				out = append(out, ref{kind(k), r.GetName()})
			}
		}
		for _, r := range old {
			if set.Get(r.GetName()) == nil {
				out = append(out, ref{kind(k), r.GetName()})
			}
		}
	}
	return out
}
