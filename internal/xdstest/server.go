package xdstest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// Server is a delta ADS server that tells one Envoy what a test says, when the test says it, and
// nothing else. Make it with NewServer.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	mu      sync.Mutex
	want    map[string]map[string]*discoveryv3.Resource // type URL → name
	names   map[string]map[string]bool                  // subscriptions by type URL; "*": all
	sent    map[string]map[string]string                // versions
	answers map[string]chan error                       // who waits for the answer to a nonce
	nonce   int
	queue   chan *discoveryv3.DeltaDiscoveryResponse
}

// NewServer returns a server that has the resources.
func NewServer(resources ...*discoveryv3.Resource) *Server {
	s := &Server{
		want: map[string]map[string]*discoveryv3.Resource{}, names: map[string]map[string]bool{}, sent: map[string]map[string]string{},
		answers: map[string]chan error{}, queue: make(chan *discoveryv3.DeltaDiscoveryResponse, 1000),
	}
	for _, r := range resources {
		s.put(r)
	}
	return s
}

func (s *Server) put(r *discoveryv3.Resource) {
	url := r.GetResource().GetTypeUrl()
	if s.want[url] == nil {
		s.want[url] = map[string]*discoveryv3.Resource{}
	}
	s.want[url][r.GetName()] = r
}

// Put replaces a resource, alone in its response if Envoy has subscribed to it, and waits for the
// answer: nil is an ACK.
func (s *Server) Put(ctx context.Context, r *discoveryv3.Resource) error {
	s.mu.Lock()
	s.put(r)
	nonce := s.send(r.GetResource().GetTypeUrl())
	if nonce == "" {
		s.mu.Unlock()
		return fmt.Errorf("Envoy has not asked for %s, or has it already", r.GetName())
	}
	answer := make(chan error, 1)
	s.answers[nonce] = answer
	s.mu.Unlock()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer to %s: %w", r.GetName(), ctx.Err())
	}
}

// send sends what Envoy has subscribed to and was not sent; the nonce is empty if there is nothing.
// The caller holds the lock.
func (s *Server) send(url string) (nonce string) {
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url}
	for _, name := range slices.Sorted(maps.Keys(s.want[url])) {
		r := s.want[url][name]
		if (s.names[url][name] || s.names[url]["*"]) && s.sent[url][name] != r.GetVersion() {
			s.sent[url][name] = r.GetVersion()
			out.Resources = append(out.Resources, r)
		}
	}
	if len(out.GetResources()) == 0 {
		return ""
	}
	s.nonce++
	out.Nonce = strconv.Itoa(s.nonce)
	s.queue <- out
	return out.GetNonce()
}

// DeltaAggregatedResources implements the service. There is to be one stream.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	received := make(chan error, 1)
	go func() {
		for {
			q, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			s.take(q)
		}
	}()
	for {
		select {
		case err := <-received:
			return err
		case r := <-s.queue:
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
}

func (s *Server) take(q *discoveryv3.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	url := q.GetTypeUrl()
	if s.names[url] == nil {
		s.names[url], s.sent[url] = map[string]bool{}, map[string]string{}
		if url == resourcev3.ListenerType || url == resourcev3.ClusterType {
			s.names[url]["*"] = true
		}
	}
	for _, name := range q.GetResourceNamesSubscribe() {
		s.names[url][name] = true
		delete(s.sent[url], name)
	}
	for _, name := range q.GetResourceNamesUnsubscribe() {
		delete(s.names[url], name)
	}
	if answer := s.answers[q.GetResponseNonce()]; answer != nil && q.GetResponseNonce() != "" {
		delete(s.answers, q.GetResponseNonce())
		if e := q.GetErrorDetail(); e != nil {
			answer <- fmt.Errorf("Envoy refused it: %s", e.GetMessage())
		} else {
			answer <- nil
		}
	}
	s.send(url)
}
