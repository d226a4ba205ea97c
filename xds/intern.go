package xds

import (
	"maps"
	"runtime"
	"sync"
	"weak"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// interned keeps one of all equal resources. A resource's version is the hash of its bytes, so kind, name and version are its
// content. It keeps none alive: what no session has any more is forgotten.
type interned struct {
	mu        sync.Mutex
	resources map[contentKey]weak.Pointer[discoveryv3.Resource]
}

type contentKey struct {
	kind          kind
	name, version string
}

// all returns byName with each resource replaced by the one that is kept: byName itself, if that is so already. It does not change byName.
// kept is what it returned before for made, of the same proxy, of which byName has most resources still: those need no look.
func (i *interned) all(k kind, byName, made, kept map[string]*discoveryv3.Resource) map[string]*discoveryv3.Resource {
	out, copied := byName, false
	for name, r := range byName {
		keep := kept[name]
		if keep == nil || made[name] != r {
			keep = i.one(k, name, r)
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

// one is the resource that is kept of those equal to r, which it may become.
func (i *interned) one(k kind, name string, r *discoveryv3.Resource) *discoveryv3.Resource {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := contentKey{k, name, r.GetVersion()}
	if kept := i.resources[key].Value(); kept != nil {
		return kept
	}
	if i.resources == nil {
		i.resources = map[contentKey]weak.Pointer[discoveryv3.Resource]{}
	}
	i.resources[key] = weak.Make(r)
	runtime.AddCleanup(r, i.forget, key)
	return r
}

// forget drops the entry of a resource that is gone, unless an equal one has taken its place.
func (i *interned) forget(key contentKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.resources[key].Value() == nil {
		delete(i.resources, key)
	}
}
