//go:build e2e

package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// startRelay stands between the Envoys that start from now on and the control plane, which runs, and passes on each resource as alter
// leaves it, under the version that it had.
func startRelay(t *testing.T, m *meshtest.Mesh, alter func(*discoveryv3.Resource) error) {
	t.Helper()
	socket, behind := filepath.Join(m.Runtime, "xds.sock"), filepath.Join(m.Runtime, "behind.sock")
	if err := os.Rename(socket, behind); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+behind, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frames{})))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(frames{}), grpc.UnknownServiceHandler(func(_ any, from grpc.ServerStream) error {
		return relay(conn, from, alter)
	}))
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := errors.Join(<-served, conn.Close()); err != nil {
			t.Errorf("relay: %v", err)
		}
	})
}

// relay passes one call on.
func relay(conn *grpc.ClientConn, from grpc.ServerStream, alter func(*discoveryv3.Resource) error) error {
	method, _ := grpc.MethodFromServerStream(from)
	md, _ := metadata.FromIncomingContext(from.Context())
	to, err := conn.NewStream(metadata.NewOutgoingContext(from.Context(), md), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() { // it ends with the call
		for {
			var request frame
			if from.RecvMsg(&request) != nil || to.SendMsg(&request) != nil {
				_ = to.CloseSend()
				return
			}
		}
	}()
	for {
		var response frame
		if err := to.RecvMsg(&response); err != nil {
			from.SetTrailer(to.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if method == discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName {
			if response, err = altered(response, alter); err != nil {
				return err
			}
		}
		if err := from.SendMsg(&response); err != nil {
			return err
		}
	}
}

func altered(response frame, alter func(*discoveryv3.Resource) error) (frame, error) {
	var r discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(response, &r); err != nil {
		return nil, err
	}
	for _, res := range r.GetResources() {
		if err := alter(res); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(&r)
}

// alterAny changes what a holds, if that is an M.
func alterAny[M proto.Message](a *anypb.Any, m M, change func(M) error) error {
	if !a.MessageIs(m) {
		return nil
	}
	if err := a.UnmarshalTo(m); err != nil {
		return err
	}
	if err := change(m); err != nil {
		return err
	}
	return a.MarshalFrom(m)
}

// frame is a message as it is on the wire.
type frame []byte

// frames is the codec of frames.
type frames struct{}

func (frames) Name() string { return "proto" }

func (frames) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*frame))}, nil
}

func (frames) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*frame) = data.Materialize()
	return nil
}
