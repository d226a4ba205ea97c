package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"

	envoyannotations "github.com/envoyproxy/go-control-plane/envoy/annotations"
)

// packer turns messages into bytes and remembers the first mistakes, so that the code that makes messages reads like the
// configuration it makes. Everything goes through it: what it has not checked does not leave the package.
type packer struct {
	errs []error
}

// any is m as an Any of deterministic bytes. A message that Envoy would refuse, or in which a deprecated field is set, is remembered as an
// error; messages inside an Any were checked when they were packed, so nothing is looked at twice.
func (p *packer) any(m proto.Message) *anypb.Any {
	if err := check(m); err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().Name(), err))
	}
	b, err := marshal(m)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().Name(), err))
	}
	return &anypb.Any{TypeUrl: typeURL(m), Value: b}
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

func (p *packer) err() error { return errors.Join(p.errs...) }

// clusterType is the type URL of clusters.
const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

func typeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// marshal gives the same bytes for equal messages, in this and in every later process of the same build.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// hash is 128 bits of SHA-256: a version that two different resources share would leave an Envoy with the wrong one, so it must
// not be possible to make one on purpose.
func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// check returns what Envoy would refuse in m: broken constraints and fields or enum values that are deprecated. It does not look into Anys.
func check(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	return checkFields(m.ProtoReflect())
}

func checkFields(m protoreflect.Message) (err error) {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s: unknown fields", m.Descriptor().FullName())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		err = checkField(f, v)
		return err == nil
	})
	return err
}

func checkField(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	if deprecated(f) {
		return fmt.Errorf("%s: the field is deprecated", f.FullName())
	}
	switch {
	case f.IsMap():
		if f.MapValue().Message() == nil {
			return nil
		}
		var err error
		v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
			err = checkFields(e.Message())
			return err == nil
		})
		return err
	case f.IsList():
		for i := range v.List().Len() {
			if err := checkValue(f, v.List().Get(i)); err != nil {
				return err
			}
		}
		return nil
	default:
		return checkValue(f, v)
	}
}

func checkValue(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case f.Message() != nil:
		return checkFields(v.Message())
	case f.Enum() != nil:
		e := f.Enum().Values().ByNumber(v.Enum())
		if e == nil {
			return fmt.Errorf("%s: %d is no value of the enum", f.FullName(), v.Enum())
		}
		if o, ok := e.Options().(*descriptorpb.EnumValueOptions); ok && o.GetDeprecated() {
			return fmt.Errorf("%s: %s is deprecated", f.FullName(), e.Name())
		}
	}
	return nil
}

func deprecated(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	if !ok || o == nil {
		return false
	}
	return o.GetDeprecated() || proto.HasExtension(o, envoyannotations.E_DeprecatedAtMinorVersion)
}
