package xdstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Stream is one delta ADS stream, spoken by hand. Its methods are for one goroutine. Close must be
// called.
type Stream struct {
	stream    discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	cancel    context.CancelFunc
	node      *corev3.Node // nil after it was sent
	responses chan *discoveryv3.DeltaDiscoveryResponse
	reading   sync.WaitGroup
	err       error // why responses was closed
}

// Open opens a stream. The first request will carry node.
func Open(ctx context.Context, conn grpc.ClientConnInterface, node *corev3.Node) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &Stream{stream: stream, cancel: cancel, node: node, responses: make(chan *discoveryv3.DeltaDiscoveryResponse, 1000)}
	s.reading.Go(func() {
		defer close(s.responses)
		for {
			r, err := stream.Recv()
			if err != nil {
				s.err = err
				return
			}
			s.responses <- r
		}
	})
	return s, nil
}

// Close ends the stream and waits until nothing reads it any more.
func (s *Stream) Close() {
	s.cancel()
	for range s.responses {
	}
	s.reading.Wait()
}

// Send sends a request as it is, with the node if it is the first.
func (s *Stream) Send(q *discoveryv3.DeltaDiscoveryRequest) error {
	if q.Node == nil {
		q.Node, s.node = s.node, nil
	}
	return s.stream.Send(q)
}

// Subscribe asks for names of a type; without names, the first time, for everything.
func (s *Stream) Subscribe(typeURL string, names ...string) error {
	return s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names})
}

// ACK accepts a response.
func (s *Stream) ACK(r *discoveryv3.DeltaDiscoveryResponse) error {
	return s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
}

// NACK refuses a response.
func (s *Stream) NACK(r *discoveryv3.DeltaDiscoveryResponse, message string) error {
	return s.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(), ErrorDetail: &status.Status{Code: int32(codes.Internal), Message: message},
	})
}

// ErrSilent is what Next returns when nothing came.
var ErrSilent = errors.New("nothing came")

// Next returns the next response, ErrSilent if none came within d, or why the stream ended.
func (s *Stream) Next(d time.Duration) (*discoveryv3.DeltaDiscoveryResponse, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r, ok := <-s.responses:
		if !ok {
			return nil, s.err
		}
		return r, nil
	case <-timer.C:
		return nil, fmt.Errorf("%w in %s", ErrSilent, d)
	}
}
