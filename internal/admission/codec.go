package admission

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// maxFields bounds the fields of a message, those of messages in it too. A field of two bytes
	// may cost two hundred when it is decoded. An Envoy's first request has some thousands, and
	// three for each resource that it has.
	maxFields = 100_000
	// smallMessage is how many bytes cannot cost much, whatever they say.
	smallMessage = 16 << 10
	// maxDecoding is how many larger messages are decoded at a time.
	maxDecoding = 4
)

// codec is gRPC's own, but that it decodes no message that would cost much more than its bytes.
type codec struct {
	encoding.CodecV2
	decoding chan struct{}
}

// NewCodec returns the codec of gRPC's own messages that decodes none that would cost much more than
// its bytes.
func NewCodec() encoding.CodecV2 { return newCodec() }

func newCodec() codec {
	return codec{encoding.GetCodecV2(encodingproto.Name), make(chan struct{}, maxDecoding)}
}

// Unmarshal decodes data into v.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if data.Len() <= smallMessage {
		return c.CodecV2.Unmarshal(data, v)
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("message is %T", v)
	}
	c.decoding <- struct{}{}
	defer func() { <-c.decoding }()
	text := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer text.Free()
	if err := checkFields(text.ReadOnlyData(), m.ProtoReflect().Descriptor()); err != nil {
		return err
	}
	return proto.Unmarshal(text.ReadOnlyData(), m)
}

// checkFields returns an error if a message has too many fields.
func checkFields(text []byte, of protoreflect.MessageDescriptor) error {
	left := maxFields
	if !count(text, of, &left) {
		return status.Errorf(codes.ResourceExhausted, "a message of more than %d fields, or none", maxFields)
	}
	return nil
}

// count takes the fields of a message from left. It is false if they are more, or text is no
// message.
func count(text []byte, of protoreflect.MessageDescriptor, left *int) bool {
	for len(text) > 0 {
		number, kind, n := protowire.ConsumeTag(text)
		if *left--; n < 0 || *left < 0 {
			return false
		}
		value := text[n:]
		size := protowire.ConsumeFieldValue(number, kind, value)
		if size < 0 {
			return false
		}
		text = value[size:]
		field := of.Fields().ByNumber(number)
		if field == nil || kind != protowire.BytesType {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		switch {
		case field.Message() != nil:
			if !count(inner, field.Message(), left) {
				return false
			}
		case field.IsPacked():
			if *left -= len(inner); *left < 0 {
				return false
			}
		}
	}
	return true
}
