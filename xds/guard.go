package xds

import (
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Bounds of the subscriptions of one stream. A sidecar subscribes to its upstreams and a handful of
// secrets; no name of ours is as long.
const (
	maxNames      = 10_000
	maxNameLength = 512
)

// Values of the label "reason" of refused requests.
const (
	refusedType     = "type"
	refusedNames    = "names"
	refusedWildcard = "wildcard"
)

// guard is the stream as the session sees it: requests that get no answer are filtered, and the
// node is the one that the stream was opened for.
type guard struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	session     *session
	metrics     *metrics
	first       *discoveryv3.DeltaDiscoveryRequest // read before the session was made; Recv returns it
	lastRequest atomic.Int64                       // when the last request came, in Unix nanoseconds
	sending     atomic.Int64                       // since when a Send has been going on; 0: none is
	// subscribed is sent to for each request that subscribes to names.
	subscribed chan struct{}
}

// Recv returns the next request that may be answered. It ends the stream when a request says that
// another node sent it.
func (g *guard) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	for {
		q := g.first
		if g.first = nil; q == nil {
			var err error
			if q, err = g.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Recv(); err != nil {
				return nil, err
			}
		}
		g.lastRequest.Store(time.Now().UnixNano())
		id := string(g.session.caller.Proxy)
		if q.GetNode() != nil && q.GetNode().GetId() != id {
			err := status.Error(codes.PermissionDenied, "node.id differs from the proxy that opened the stream")
			g.session.server.refuse(peerOf(g.Context()), g.session.caller.Proxy, rejectedNode, err)
			g.session.end(err)
			return nil, err
		}
		if len(q.GetResourceNamesSubscribe()) > 0 {
			select {
			case g.subscribed <- struct{}{}:
			default: // recheck is due already, or does not run
			}
		}
		if reason := g.refuse(q); reason != "" {
			g.metrics.requestsRefused.WithLabelValues(reason).Inc()
			g.session.server.log.Debug("request refused", "proxy", g.session.caller.Proxy, "type_url", cut(q.GetTypeUrl(), maxNameLength), "err", reason)
			continue
		}
		return q, nil
	}
}

// refuse returns why a request gets no answer; empty: it gets one.
func (g *guard) refuse(q *discoveryv3.DeltaDiscoveryRequest) string {
	k, ok := kindOf(q.GetTypeUrl())
	if !ok {
		return refusedType
	}
	names := len(q.GetResourceNamesSubscribe())
	if names > maxNames || len(q.GetResourceNamesUnsubscribe()) > maxNames || len(q.GetInitialResourceVersions()) > maxNames || !g.session.room(k, names) {
		return refusedNames
	}
	for name, version := range q.GetInitialResourceVersions() {
		if len(name) > maxNameLength || len(version) > maxNameLength {
			return refusedNames
		}
	}
	for _, list := range [][]string{q.GetResourceNamesSubscribe(), q.GetResourceNamesUnsubscribe()} {
		for _, name := range list {
			if len(name) > maxNameLength {
				return refusedNames
			}
			if name == "*" && !k.hasWildcard() {
				// The wildcard is counted and ignored; the rest of the request is not.
				g.metrics.requestsRefused.WithLabelValues(refusedWildcard).Inc()
			}
		}
	}
	return ""
}

// Send counts and sends. It blocks while Envoy reads too slowly; see stalled.
func (g *guard) Send(r *discoveryv3.DeltaDiscoveryResponse) error {
	if k, ok := kindOf(r.GetTypeUrl()); ok {
		g.metrics.pushes.WithLabelValues(k.String()).Inc()
		g.metrics.pushBytes.WithLabelValues(k.String()).Add(float64(proto.Size(r)))
	}
	g.sending.Store(time.Now().UnixNano())
	defer g.sending.Store(0)
	return g.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Send(r)
}

// stalled reports whether Envoy has not read a response, or has neither answered one nor sent any
// other request, since before the given time.
func (g *guard) stalled(before time.Time) bool {
	if since := g.sending.Load(); since != 0 && since < before.UnixNano() {
		return true
	}
	return g.lastRequest.Load() < before.UnixNano() && g.session.stalled(before)
}
