package main

import (
	"context"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// types are what a sidecar asks for, in the order of the columns of messages.
var types = [...]struct{ url, name string }{
	{resourcev3.SecretType, "SDS"},
	{resourcev3.ClusterType, "CDS"},
	{resourcev3.EndpointType, "EDS"},
	{resourcev3.ExtensionConfigType, "ECDS"},
	{resourcev3.ListenerType, "LDS"},
	{resourcev3.RouteType, "RDS"},
}

// counts are what came to a sidecar since they were last taken.
type counts struct {
	messages  [len(types)]int
	resources [len(types)]int
	bytes     int
	first     time.Time // when the first response had been accepted
	last      time.Time
	complete  time.Time // when the first complete configuration had been accepted; zero: not since
}

// sidecar is an Envoy, as far as a control plane can see: one connection and one delta ADS stream on it. It accepts everything at once
// and keeps the names, not the resources, unless it is told to record.
type sidecar struct {
	id    string
	token string // empty: none is sent
	conn  *grpc.ClientConn

	mu        sync.Mutex
	counts    counts
	recording bool // the responses are kept
	recorded  []*discoveryv3.DeltaDiscoveryResponse
	err       error // why the stream ended

	// The rest is of the goroutine that runs the stream.
	stream  discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	asked   map[reference]bool // value: it came
	missing int
	parents [len(types)]bool // that some of it came
	done    bool
}

// reference is something that a cluster or a listener names.
type reference struct{ typeURL, name string }

// dial prepares the connection of a sidecar; network is "unix" or "tcp".
func dial(network, address string, id, token string) (*sidecar, error) {
	conn, err := grpc.NewClient("passthrough:///control-plane",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}),
		// Thousands of these share the machine with what is measured.
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
	if err != nil {
		return nil, err
	}
	return &sidecar{id: id, token: token, conn: conn, asked: map[reference]bool{}}, nil
}

// run speaks on one stream until it ends. On a busy machine the control plane may not see the first
// request as long as it waits for that; then it is asked again, as Envoy does, and the time counts.
func (s *sidecar) run(ctx context.Context) {
	err := s.speak(ctx)
	for status.Code(err) == codes.DeadlineExceeded && len(s.asked) == 0 && ctx.Err() == nil {
		err = s.speak(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sidecar) speak(ctx context.Context) error {
	if s.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.token)
	}
	var err error
	if s.stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(ctx); err != nil {
		return err
	}
	if err := s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node(s.id), TypeUrl: resourcev3.ClusterType}); err != nil {
		return err
	}
	if err := s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ListenerType}); err != nil {
		return err
	}
	for {
		r, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if err := s.take(r); err != nil {
			return err
		}
	}
}

// take asks for what a response names, accepts it and counts it.
func (s *sidecar) take(r *discoveryv3.DeltaDiscoveryResponse) error {
	ask := map[string][]string{}
	url := r.GetTypeUrl()
	for _, res := range r.GetResources() {
		s.arrived(reference{url, res.GetName()})
		switch url {
		case resourcev3.SecretType, resourcev3.EndpointType, resourcev3.RouteType:
			continue // they name nothing that is asked for
		}
		references(url, res.GetResource().GetValue(), func(typeURL, name string) {
			ref := reference{typeURL, name}
			if _, ok := s.asked[ref]; !ok {
				s.asked[ref] = false
				s.missing++
				ask[typeURL] = append(ask[typeURL], name)
			}
		})
	}
	kind := kindOf(r.GetTypeUrl())
	s.parents[kind] = s.parents[kind] || len(r.GetResources()) > 0
	for _, t := range types { // always in one order
		if names := ask[t.url]; len(names) > 0 {
			if err := s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.url, ResourceNamesSubscribe: names}); err != nil {
				return err
			}
		}
	}
	if err := s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
		return err
	}
	complete := s.missing == 0 && s.parents[kindOf(resourcev3.ClusterType)] && s.parents[kindOf(resourcev3.ListenerType)]
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recording {
		s.recorded = append(s.recorded, r)
	}
	c := &s.counts
	c.messages[kind]++
	c.resources[kind] += len(r.GetResources()) + len(r.GetRemovedResources())
	c.bytes += proto.Size(r)
	if c.first.IsZero() {
		c.first = now
	}
	c.last = now
	if complete && !s.done {
		c.complete = now
		s.done = true
	}
	return nil
}

func (s *sidecar) arrived(ref reference) {
	if came, ok := s.asked[ref]; ok && !came {
		s.asked[ref] = true
		s.missing--
	}
}

// look is what was counted; s may be spoken to meanwhile.
func (s *sidecar) look() (counts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts, s.err
}

// reset begins to count anew, and to record what comes, or ends that.
func (s *sidecar) reset(recording bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts, s.recording, s.recorded = counts{}, recording, nil
}

func kindOf(typeURL string) int {
	for i, t := range types {
		if t.url == typeURL {
			return i
		}
	}
	return 0
}

// node is what an Envoy 1.40 under sallyport's bootstrap says of itself.
func node(id string) *corev3.Node {
	ours := &structpb.Struct{Fields: map[string]*structpb.Value{
		"re2_max_program_size": structpb.NewNumberValue(4096), "drain_time_s": structpb.NewNumberValue(30),
	}}
	return &corev3.Node{
		Id: id, Cluster: id, UserAgentName: "envoy",
		Metadata:             &structpb.Struct{Fields: map[string]*structpb.Value{"sallyport": structpb.NewStructValue(ours)}},
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}}},
	}
}
