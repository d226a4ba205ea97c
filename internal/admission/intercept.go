package admission

import (
	"context"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// intercept judges what the tap handle could not, before the first message is read.
func (g *Gate) intercept(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	a, ok := s.Context().Value(admittedKey{}).(*admitted)
	if !ok {
		return status.Error(codes.Internal, "the stream did not come by the gate")
	}
	stream := g.methods[a.name].stream
	if g.methods[a.name].timeout == 0 { // others end soon enough
		var release func()
		s, release = g.hold(a, s)
		defer release()
	}
	switch {
	case a.known:
	case stream && a.caller.Proxy == "":
		return next(server, &namelessStream{ServerStream: s, gate: g, stream: a})
	default:
		err := g.judge(s.Context(), a, func(ctx context.Context) (identity.Caller, error) {
			if stream {
				return g.config.Callers.Stream(ctx, a.caller.Proxy)
			}
			return g.config.Callers.Call(ctx)
		})
		if err != nil {
			return err
		}
	}
	if a.reading != nil {
		s = &queuedStream{s, a.reading}
	}
	return next(server, s)
}

// judge has the token judged, by somebody who may take a while.
func (g *Gate) judge(ctx context.Context, a *admitted, by func(context.Context) (identity.Caller, error)) error {
	bounded, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	caller, err := by(bounded)
	if err == nil {
		err = g.judged(a, caller)
	}
	if err != nil {
		return g.refuse(a, err)
	}
	return nil
}

// queuedStream reads a message when it is its proxy's turn.
type queuedStream struct {
	grpc.ServerStream
	turn chan struct{}
}

// RecvMsg waits for its turn and reads a message.
func (s *queuedStream) RecvMsg(m any) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
		return s.ServerStream.RecvMsg(m)
	case <-s.Context().Done():
		return status.FromContextError(s.Context().Err()).Err()
	}
}

// namelessStream is an xDS stream whose headers do not say which proxy's it is, as those of older
// bootstraps: its first message has to, and is small.
type namelessStream struct {
	grpc.ServerStream
	gate   *Gate
	stream *admitted
	named  bool
}

// RecvMsg reads a message and, before it decodes the first one, bounds it; after that, the token is
// judged.
func (s *namelessStream) RecvMsg(m any) error {
	if s.named {
		return s.ServerStream.RecvMsg(m)
	}
	// To an empty message all fields are unknown, and those are kept as raw bytes.
	var raw emptypb.Empty
	if err := s.ServerStream.RecvMsg(&raw); err != nil {
		return err
	}
	q, ok := m.(*discoveryv3.DeltaDiscoveryRequest)
	text := raw.ProtoReflect().GetUnknown()
	switch {
	case !ok:
		return s.gate.refuse(s.stream, status.Error(codes.Unauthenticated, "the stream does not say whose it is"))
	case len(text) > maxNamelessMessage:
		return s.gate.refuse(s.stream, status.Errorf(codes.ResourceExhausted, "a first message of %d bytes: one of more than %d needs %s in the stream's headers", len(text), maxNamelessMessage, identity.ProxyHeader))
	}
	if err := checkFields(text, q.ProtoReflect().Descriptor()); err != nil {
		return s.gate.refuse(s.stream, err)
	}
	if err := proto.Unmarshal(text, q); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	s.named = true
	node := identity.ProxyID(q.GetNode().GetId())
	return s.gate.judge(s.Context(), s.stream, func(ctx context.Context) (identity.Caller, error) {
		return s.gate.config.Callers.Stream(ctx, node)
	})
}
