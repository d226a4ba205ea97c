package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// packer turns messages into bytes and remembers the first mistakes, so that the code that makes
// messages reads like the configuration it makes. Everything goes through it: what it has not
// checked does not leave the package.
type packer struct {
	cache *Cache
	errs  []error
}

// any is m as an Any of deterministic bytes. A message that Envoy would refuse is remembered as an
// error; messages inside an Any were checked when they were packed, so nothing is looked at twice.
// That no deprecated field is set is a property of this package, which its tests look after.
func (p *packer) any(m proto.Message) *anypb.Any {
	b, err := marshal(m)
	if v, ok := m.(interface{ ValidateAll() error }); ok && err == nil {
		err = v.ValidateAll()
	}
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().Name(), err))
	}
	return &anypb.Any{TypeUrl: p.cache.typeURL(m), Value: b}
}

// constant is any of a message that is the same for all who ask with an equal key. make is called
// for the first of them; it depends on the key alone.
func (p *packer) constant(key any, make func() proto.Message) *anypb.Any {
	if a, ok := p.cache.constants.Load(key); ok {
		return a.(*anypb.Any) //nolint:forcetypeassert // nothing else is put there
	}
	n := len(p.errs)
	a := p.any(make())
	if len(p.errs) == n {
		p.cache.constants.Store(key, a)
	}
	return a
}

// resource is m as a resource whose version is the hash of its bytes.
func (p *packer) resource(name string, m proto.Message) *discoveryv3.Resource {
	n := len(p.errs)
	a := p.any(m)
	for i := n; i < len(p.errs); i++ {
		p.errs[i] = fmt.Errorf("%s: %w", name, p.errs[i])
	}
	return &discoveryv3.Resource{Name: name, Version: hash(a.Value), Resource: a}
}

func (p *packer) fail(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *packer) err() error { return errors.Join(p.errs...) }

// The type URLs of resources.
const (
	clusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	extensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	listenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routeType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// marshal gives the same bytes for equal messages, in this and in every later process of the same
// build.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// hash is 128 bits of SHA-256: a version that two different resources share would leave an Envoy
// with the wrong one, so it must not be possible to make one on purpose.
func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
