package snapshot

import (
	"fmt"
	"sync"
	"sync/atomic"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/intern"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Cache builds the same as Build in less time: it keeps what many proxies have in common, and
// reuses those of a proxy's last resources that are still the same. The zero value is empty. Its
// methods may be called by several goroutines. It must not be copied.
type Cache struct {
	// urls are the type URLs of messages by their full names, each kept once.
	urls sync.Map
	// constants are packed messages that do not depend on the proxy.
	constants sync.Map
	// resources has one of all equal resources but secrets.
	resources intern.Table[contentKey, discoveryv3.Resource]
	// assignments are the endpoints of services, which are the same for all who dial a service.
	assignments intern.Table[assignmentKey, discoveryv3.Resource]
	// levels are those of chains' targets, likewise.
	levels      intern.Table[levelsKey, discoveryv3.Resource]
	leafs       intern.Table[leafKey, discoveryv3.Resource]
	validations intern.Table[validationKey, discoveryv3.Resource]
	// What policies with the same Shared have in common, and those without rules of their own: rules
	// in their two forms, and the validation secret.
	layers                   latest[*intention.Shared, *layer]
	networkRules, routeRules latest[*intention.Shared, *anypb.Any]
	validationSecrets        latest[validationInput, Secret]
}

// latest caches the value of one key, the last one. Builds of many proxies ask for the same key in
// a row.
type latest[K comparable, V any] struct {
	entry atomic.Pointer[struct {
		key   K
		value V
	}]
}

// of returns the value of key, from the cache or by newValue. That of the zero key is not cached.
func (l *latest[K, V]) of(key K, newValue func() V) V {
	if key == *new(K) {
		return newValue()
	}
	if e := l.entry.Load(); e != nil && e.key == key {
		return e.value
	}
	v := newValue()
	l.entry.Store(&struct {
		key   K
		value V
	}{key, v})
	return v
}

// contentKey stands for a resource's content: its version is the hash of its bytes.
type contentKey struct{ typeURL, name, version string }

// assignmentKey is everything that an assignment depends on.
type assignmentKey struct {
	cluster   string
	endpoints *catalog.Endpoints
}

// levelsKey is everything that the assignment of a resolver's cluster depends on: the targets, by ID, and their endpoints.
type levelsKey struct {
	cluster, targets string
	endpoints        [cachedLevels]*catalog.Endpoints
}

// cachedLevels is of how many targets assignments are kept. There are hardly any of more.
const cachedLevels = 4

// Build is the function Build. last are resources that c or Build made of an older Input of the
// same proxy; nil: there are none. They do not change the result, which may share resources with
// them.
func (c *Cache) Build(in Input, last *Resources) (*Resources, error) {
	b, err := c.builder(in, last)
	if err != nil {
		return nil, err
	}
	b.build()
	return b.result()
}

// BuildJudges makes, of what Build makes, the resources that decide who may connect, and no others.
// It is for proxies of which not all can be built, as a deny has to reach their Envoys all the same;
// its errors are those that leave nothing to say.
func (c *Cache) BuildJudges(in Input) (*Resources, error) {
	b, err := c.builder(in, nil)
	if err != nil {
		return nil, err
	}
	if _, ok := b.self(); ok {
		b.judges()
	}
	return b.result()
}

func (c *Cache) builder(in Input, last *Resources) (*builder, error) {
	switch {
	case in.ProxyView == nil || in.Mesh == nil || in.Proxy == nil:
		return nil, errIncomplete
	case in.Mesh.TrustDomain.IsZero():
		return nil, fmt.Errorf("%s: %w: the mesh has no trust domain", in.Proxy.ID, errIncomplete)
	}
	b := &builder{packer: packer{cache: c}, in: in, last: last, out: &Resources{in: in, ByType: map[string]Set{}}}
	if last == nil || last.in.Mesh != in.Mesh || last.in.Proxy != in.Proxy || last.in.Envoy != in.Envoy || last.in.Redials != in.Redials {
		b.last = nil
	}
	return b, nil
}

// result are the resources that were made, unless something could not be.
func (b *builder) result() (*Resources, error) {
	b.finish()
	if err := b.err(); err != nil {
		return nil, fmt.Errorf("proxy %s (%s): %w", b.in.Proxy.ID, b.in.Proxy.Origin, err)
	}
	return b.out, nil
}

// typeURL is what an Any calls the type of m.
func (c *Cache) typeURL(m proto.Message) string {
	name := m.ProtoReflect().Descriptor().FullName()
	url, ok := c.urls.Load(name)
	if !ok {
		url, _ = c.urls.LoadOrStore(name, "type.googleapis.com/"+string(name))
	}
	return url.(string) //nolint:forcetypeassert // nothing else is put there
}
