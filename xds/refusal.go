package xds

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Refusals are logged at a bounded rate, as anybody may cause them: so many a second, of these so
// many that come from one peer.
const (
	refusalsPerSecond     = 10
	refusalsPerSecondPeer = 3
)

// Refusals sum up whom the control plane refused: streams, calls and connections without a good
// token, of other clients than Envoys, or too many.
type Refusals struct {
	// Count is how many there were since the control plane started.
	Count uint64 `json:"count"`
	// Last is the newest; nil: there was none. Peer is where it came from ("uid 1000", "10.1.2.3",
	// empty where that is not known), Proxy whom it called itself, which nobody has checked.
	Last *RefusedPeer `json:"last,omitempty"`
}

// RefusedPeer is one of Refusals.
type RefusedPeer struct {
	Rejection
	Peer  string           `json:"peer,omitempty"`
	Proxy identity.ProxyID `json:"proxy,omitempty"`
}

// refusals is what is kept of refusals.
type refusals struct {
	mu     sync.Mutex
	sum    Refusals
	second time.Time // when the present one began
	logged int       // in it
	peers  map[string]int
	left   uint64 // not logged since the last one that was
}

// add notes a refusal. Where it is to be logged, left is how many were not before it.
func (r *refusals) add(n RefusedPeer) (log bool, left uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Count++
	r.sum.Last = &n
	if n.Time.Sub(r.second) >= time.Second {
		r.second, r.logged, r.peers = n.Time, 0, map[string]int{}
	}
	if r.logged >= refusalsPerSecond || r.peers[n.Peer] >= refusalsPerSecondPeer {
		r.left++
		return false, 0
	}
	r.logged++
	r.peers[n.Peer]++
	left, r.left = r.left, 0
	return true, left
}

// Refusals are whom this control plane has refused since it started. It does not block.
func (s *Server) Refusals() Refusals {
	s.refusals.mu.Lock()
	defer s.refusals.mu.Unlock()
	return s.refusals.sum
}

// Refused notes that somebody was refused before its stream, call or connection came as far as the
// Server: where it came from, which proxy it called itself, if any, the gRPC method, empty for a
// connection, and why, a gRPC status.
func (s *Server) Refused(from string, id identity.ProxyID, method string, err error) {
	reason := rejectedCall
	switch method {
	case "":
		reason = rejectedConnection
	case discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName, discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName:
		reason = rejectedDenied
	}
	s.refuse(from, id, reason, err)
}

// refuse counts a refusal, notes it for the status, and logs it if there were not too many.
func (s *Server) refuse(from string, id identity.ProxyID, reason string, err error) {
	id = identity.ProxyID(cut(string(id), maxNameLength))
	s.metrics.streamsRejected.WithLabelValues(reason).Inc()
	if reason != rejectedCall && id != "" {
		s.rejected(id, err)
	}
	log, left := s.refusals.add(RefusedPeer{Rejection{Time: time.Now(), Reason: cut(status.Convert(err).Message(), maxNACKText)}, from, id})
	if !log {
		return
	}
	if left > 0 {
		s.log.Warn("streams rejected and not logged", "count", left)
	}
	s.log.Warn("stream rejected", "proxy", id, "reason", reason, "peer", from, "err", err)
}

// checkAgent returns an error unless the client calls itself an Envoy. Others know neither matchers
// nor the names that peers have to have, and would take what an Envoy is told for "let everybody in".
func checkAgent(agent string) error {
	if agent == "envoy" {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "the client calls itself %.64q (node.user_agent_name), and only Envoys are served: others, such as gRPC's own xDS clients, do not enforce what an Envoy is told", agent)
}

// peerOf is where a stream comes from.
func peerOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if i, ok := p.AuthInfo.(interface{ PeerUID() (int, bool) }); ok {
		if uid, ok := i.PeerUID(); ok {
			return fmt.Sprintf("uid %d", uid)
		}
	}
	if a, ok := p.Addr.(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return ""
}
