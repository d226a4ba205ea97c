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

// packer marshals and validates messages and collects errors, so that the code that makes messages
// reads like the configuration. All messages go through it: the package returns none that it has
// not validated.
type packer struct {
	cache *Cache
	errs  []error
}

// any is m as an Any of deterministic bytes. A message that Envoy would refuse adds an error;
// messages inside an Any were validated when they were packed. That no deprecated field is set is a
// property of this package's code, which its tests verify.
func (p *packer) any(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: p.cache.typeURL(m), Value: p.fields(m)}
}

// fields is m in wire format, likewise.
func (p *packer) fields(m proto.Message) []byte {
	b, err := marshal(m)
	if v, ok := m.(interface{ ValidateAll() error }); ok && err == nil {
		err = v.ValidateAll()
	}
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().Name(), err))
	}
	return b
}

// constant is any of a message that depends on key alone. newMessage makes it, the first time.
func (p *packer) constant(key any, newMessage func() proto.Message) *anypb.Any {
	if a, ok := p.cache.constants.Load(key); ok {
		return a.(*anypb.Any) //nolint:forcetypeassert // nothing else is put there
	}
	n := len(p.errs)
	a := p.any(newMessage())
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

// hash is 128 bits of SHA-256: with a version that two different resources share an Envoy would
// keep the wrong one, so collisions must not be possible on purpose.
func hash(parts ...[]byte) string {
	h := sha256.New()
	for _, b := range parts {
		h.Write(b) // never an error
	}
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0])[:16])
}
