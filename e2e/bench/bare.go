package main

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/xds"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// script is the responses that one change was to each sidecar, as they came.
type script struct {
	Change    string
	Responses map[string][][]byte // by the sidecar's ID, in order
}

// bare is what a change costs gRPC alone: a delta ADS server that knows nothing, and at each signal
// sends to every stream what the next script has for it.
type bare struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	scripts []script
	begin   []chan struct{} // closed when the script of the same index begins
}

func (b *bare) DeltaAggregatedResources(stream adsStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id := first.GetNode().GetId()
	go func() { // ends with the stream
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	for i, s := range b.scripts {
		select {
		case <-b.begin[i]:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		for _, r := range s.Responses[id] {
			if err := stream.SendMsg(marshalled(r)); err != nil {
				return err
			}
		}
	}
	<-stream.Context().Done()
	return nil
}

type adsStream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// marshalled is a message that needs no marshalling.
type marshalled []byte

type bareCodec struct{}

func (bareCodec) Name() string { return "proto" }

func (bareCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(marshalled)
	if !ok {
		return nil, fmt.Errorf("%T is not marshalled", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (bareCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}

// serveBare is the bare sender of the scripts in dir. SIGUSR1 begins the next one. It has the
// transport's options that sallyport has.
func serveBare(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "scripts"))
	if err != nil {
		return err
	}
	defer f.Close()
	b := &bare{}
	if err := gob.NewDecoder(f).Decode(&b.scripts); err != nil {
		return err
	}
	for range b.scripts {
		b.begin = append(b.begin, make(chan struct{}))
	}
	next := make(chan os.Signal, 1)
	signal.Notify(next, syscall.SIGUSR1)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, "xds.sock"))
	if err != nil {
		return err
	}
	s := grpc.NewServer(append(xds.ServerOptions(), grpc.ForceServerCodecV2(bareCodec{}))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, b)
	go func() {
		defer s.Stop()
		for _, begin := range b.begin {
			select {
			case <-next:
				close(begin)
			case <-ctx.Done():
				return
			}
		}
		<-ctx.Done()
	}()
	return s.Serve(l)
}

// barePlane is the bare sender in a process of its own, as sallyport is. Its changes are the
// scripts.
func barePlane(ctx context.Context, dir string, scripts []script) (*plane, error) {
	f, err := os.Create(filepath.Join(dir, "scripts"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(gob.NewEncoder(f).Encode(scripts), f.Close()); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "bare.log")
	p, err := launch(byBare, log, meshtest.Environ(), self, "-serve-bare", dir)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "xds.sock")
	err = p.Await(ctx, time.Minute, "the bare sender to listen", func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	out := &plane{name: byBare, network: "unix", address: socket, control: p, repeat: 1}
	out.unconfigured = true
	for _, s := range scripts {
		out.changes = append(out.changes, change{
			name: s.Change, told: len(s.Responses), make: func(context.Context) (time.Time, error) {
				at := time.Now()
				return at, p.Signal(syscall.SIGUSR1)
			},
		})
	}
	return out, nil
}
