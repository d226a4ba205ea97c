package xds

import (
	"maps"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/intern"
)

// interned keeps one of all equal resources. A resource's version is the hash of its bytes, so
// kind, name and version stand for its content.
type interned struct {
	intern.Table[contentKey, discoveryv3.Resource]
}

type contentKey struct {
	kind          kind
	name, version string
}

// all returns byName with each resource replaced by the one that is kept: byName itself, if nothing
// was replaced. It does not change byName. kept is its last result, for made, of the same proxy:
// resources that byName and made have in common need no look-up.
func (i *interned) all(k kind, byName, made, kept map[string]*discoveryv3.Resource) map[string]*discoveryv3.Resource {
	out, copied := byName, false
	for name, r := range byName {
		keep := kept[name]
		if keep == nil || made[name] != r {
			keep = i.Keep(contentKey{k, name, r.GetVersion()}, r)
		}
		if keep == r {
			continue
		}
		if !copied {
			out, copied = maps.Clone(byName), true
		}
		out[name] = keep
	}
	return out
}
