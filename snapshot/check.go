package snapshot

import (
	"fmt"
	"sync"

	envoyannotations "github.com/envoyproxy/go-control-plane/envoy/annotations"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// schema knows which fields and enum values of Envoy's messages may be used. It learns of each type of message when it first meets one; all
// that it knows follows from the descriptors, so it is the same whoever has used it. The zero value knows nothing yet. Its methods
// may be called by several goroutines.
type schema struct {
	mu       sync.Mutex
	messages map[protoreflect.FullName]*message
}

// message is one type of message.
type message struct {
	schema *schema
	once   sync.Once
	name   protoreflect.FullName
	url    string // its type URL, kept once for all that bear it
	// fields are made of the descriptor when they are first looked at.
	descriptor protoreflect.MessageDescriptor
	fields     map[protowire.Number]*field
}

// field is one field of a message. A map is a list of messages with a key and a value, as it is in the bytes.
type field struct {
	schema     *schema
	descriptor protoreflect.FieldDescriptor
	// What follows is made of the descriptor when the field is first met: most of Envoy's never are.
	once       sync.Once
	deprecated bool
	message    *message                                // nil: it holds no messages
	enum       map[protoreflect.EnumNumber]enumeration // nil: it is no enum
}

// enumeration is a value of an enum.
type enumeration struct {
	name       protoreflect.Name
	deprecated bool
}

// check returns what Envoy would refuse in m, whose bytes are b: broken constraints, fields that nobody knows, and fields or enum values that
// are deprecated. It does not look into Anys. The fields are looked for in the bytes, which costs a tenth of
// a walk through the message by reflection.
func (s *schema) check(m proto.Message, b []byte) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	return s.of(m.ProtoReflect().Descriptor()).check(b)
}

// typeURL is what an Any calls the type of m.
func (s *schema) typeURL(m proto.Message) string { return s.of(m.ProtoReflect().Descriptor()).url }

func (s *schema) of(d protoreflect.MessageDescriptor) *message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[d.FullName()]
	if m == nil {
		m = &message{schema: s, name: d.FullName(), url: "type.googleapis.com/" + string(d.FullName()), descriptor: d}
		if s.messages == nil {
			s.messages = map[protoreflect.FullName]*message{}
		}
		s.messages[m.name] = m
	}
	return m
}

// learn lists the fields.
func (m *message) learn() {
	all := m.descriptor.Fields()
	fields := make([]field, all.Len())
	m.fields = make(map[protowire.Number]*field, len(fields))
	for i := range fields {
		fields[i].schema, fields[i].descriptor = m.schema, all.Get(i)
		m.fields[fields[i].descriptor.Number()] = &fields[i]
	}
}

// learn reads the descriptor.
func (f *field) learn() {
	d := f.descriptor
	f.deprecated = deprecated(d)
	switch {
	case d.Message() != nil:
		f.message = f.schema.of(d.Message())
	case d.Enum() != nil:
		f.enum = map[protoreflect.EnumNumber]enumeration{}
		values := d.Enum().Values()
		for i := range values.Len() {
			v := values.Get(i)
			o, ok := v.Options().(*descriptorpb.EnumValueOptions)
			f.enum[v.Number()] = enumeration{name: v.Name(), deprecated: ok && o.GetDeprecated()}
		}
	}
}

func (m *message) check(b []byte) error {
	m.once.Do(m.learn)
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%s: %w", m.name, protowire.ParseError(n))
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, kind, b)
		if n < 0 {
			return fmt.Errorf("%s: %w", m.name, protowire.ParseError(n))
		}
		f := m.fields[number]
		if f == nil {
			return fmt.Errorf("%s: unknown fields", m.name)
		}
		if err := f.check(kind, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// check looks at one value of f, or several that are packed.
func (f *field) check(kind protowire.Type, b []byte) error {
	f.once.Do(f.learn)
	if f.deprecated {
		return fmt.Errorf("%s: the field is deprecated", f.descriptor.FullName())
	}
	switch {
	case f.message != nil && kind == protowire.BytesType:
		inner, _ := protowire.ConsumeBytes(b)
		return f.message.check(inner)
	case f.message != nil: // a group, of which Envoy has none
		return fmt.Errorf("%s: unknown fields", f.descriptor.FullName())
	case f.enum != nil:
		if kind == protowire.BytesType {
			b, _ = protowire.ConsumeBytes(b)
		}
		return f.checkEnum(b)
	}
	return nil
}

func (f *field) checkEnum(b []byte) error {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return fmt.Errorf("%s: %w", f.descriptor.FullName(), protowire.ParseError(n))
		}
		b = b[n:]
		e, ok := f.enum[protoreflect.EnumNumber(int32(v))] //nolint:gosec // enums are 32 bits, sign and all
		if !ok {
			return fmt.Errorf("%s: %d is no value of the enum", f.descriptor.FullName(), int32(v)) //nolint:gosec // as above
		}
		if e.deprecated {
			return fmt.Errorf("%s: %s is deprecated", f.descriptor.FullName(), e.name)
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
