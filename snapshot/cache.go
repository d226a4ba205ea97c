package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/intern"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Cache builds what Build builds, in less time: it keeps what many proxies have in common, and
// takes from a proxy's last resources those that would come out the same. The zero value is empty.
// Its methods may be called by several goroutines. It must not be copied.
type Cache struct {
	// urls are the type URLs of messages by their full names, each kept once for all that bear it.
	urls sync.Map
	// constants are messages that hold nothing of any proxy, packed.
	constants sync.Map
	// assignments are the endpoints of services: all who dial a service have the same.
	assignments intern.Table[assignmentKey, discoveryv3.Resource]
	leafs       intern.Table[leafKey, discoveryv3.Resource]
	validations intern.Table[validationKey, discoveryv3.Resource]
	// What policies come to that share all they say: rules in their two forms, and whom the
	// handshake lets in.
	networkRules, routeRules latest[*intention.Shared, *anypb.Any]
	passes                   latest[passesKey, Secret]
}

// latest is the value of the key that was asked for last. Many proxies ask for the same one in a
// row.
type latest[K comparable, V any] struct {
	entry atomic.Pointer[struct {
		key   K
		value V
	}]
}

// of returns the value of key, made by make or before. The zero key has none that is kept.
func (l *latest[K, V]) of(key K, make func() V) V {
	if key == *new(K) {
		return make()
	}
	if e := l.entry.Load(); e != nil && e.key == key {
		return e.value
	}
	v := make()
	l.entry.Store(&struct {
		key   K
		value V
	}{key, v})
	return v
}

// assignmentKey is all that an assignment is made of.
type assignmentKey struct {
	cluster string
	service *catalog.Service
}

// Build is the function Build. last are resources that c or Build made before, of an older Input of
// the same proxy; nil: there are none. They change nothing in what comes out, which may share
// resources with them.
func (c *Cache) Build(in Input, last *Resources) (*Resources, error) {
	switch {
	case in.ProxyView == nil || in.Mesh == nil || in.Proxy == nil:
		return nil, ErrIncomplete
	case in.Mesh.TrustDomain.IsZero():
		return nil, fmt.Errorf("%s: %w: the mesh has no trust domain", in.Proxy.ID, ErrIncomplete)
	}
	b := &builder{packer: packer{cache: c}, in: in, last: last, out: &Resources{in: in, ByType: map[string]map[string]*discoveryv3.Resource{}}}
	if last == nil || last.in.Mesh != in.Mesh || last.in.Proxy != in.Proxy || last.in.Envoy != in.Envoy {
		b.last = nil
	}
	b.build()
	if err := b.err(); err != nil {
		return nil, fmt.Errorf("proxy %s (%s): %w", in.Proxy.ID, in.Proxy.Origin, err)
	}
	slices.SortFunc(b.out.Secrets, func(x, y Secret) int { return strings.Compare(x.Name, y.Name) })
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
