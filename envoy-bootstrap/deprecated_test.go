package bootstrap_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// checkDeprecated fails the test if m, or what is packed in it, sets a field that Envoy has marked
// as deprecated.
func checkDeprecated(t *testing.T, m proto.Message) {
	t.Helper()
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Errorf("%s: %v", a.GetTypeUrl(), err)
			return
		}
		checkDeprecated(t, inner)
		return
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if o, ok := f.Options().(*descriptorpb.FieldOptions); ok && o.GetDeprecated() {
			t.Errorf("%s is deprecated", f.FullName())
		}
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				checkDeprecated(t, v.Message().Interface())
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				checkDeprecated(t, v.List().Get(i).Message().Interface())
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			checkDeprecated(t, v.Message().Interface())
		}
		return true
	})
}
