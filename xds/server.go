package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Config says what a Server is made of. Views, Credentials and Authorize are required.
type Config struct {
	Views       *latest.Value[*catalog.View]
	Credentials *sds.Credentials
	// Authorize returns the proxy that the stream with context ctx comes from, as proved by what
	// the stream carries, and the token that proved it. node is what the Envoy says of itself: a
	// claim, which the server compares with the answer. It may block until ctx ends and is called
	// by many goroutines. An error ends the stream: with its own status if it is a gRPC status,
	// else with PermissionDenied.
	Authorize func(ctx context.Context, node identity.ProxyID) (identity.Caller, error)
	// GenerationsFile is where is kept whose live connections have been ended; the directory must
	// exist. Empty: in memory, so that each restart ends the live connections of services with
	// revocation "drain" once.
	GenerationsFile string
	// UnrecordedFile, best on another disk (a runtime directory), gets the names of services whose
	// part of GenerationsFile could not be written; the next start ends their live connections
	// once. Empty: a start after such a failure does not know of it.
	UnrecordedFile string
	// Logger is told of streams and of what Envoys refuse; nil: nobody is.
	Logger *slog.Logger
	// Registerer takes the metrics; nil: they are not shown.
	Registerer prometheus.Registerer
	// AckTimeout bounds how long listeners and routes wait for Envoy to accept what they name. 0: 5
	// s.
	AckTimeout time.Duration
	// Recheck is how often the callers of open streams are authorized again; they are, too, when
	// they subscribe to something new. 0: a stream goes on whatever becomes of the token that
	// opened it.
	Recheck time.Duration
	// StallTimeout is how long an Envoy may leave a response unread or unanswered before its stream
	// is ended. 0: 60 s.
	StallTimeout time.Duration
}

const (
	defaultAckTimeout   = 5 * time.Second
	defaultStallTimeout = 60 * time.Second
	// firstRequest is how long a stream may be open before it says whose it is.
	firstRequest = 10 * time.Second
	// maxStreams is how many streams a proxy may have: an Envoy has one, and a second while it
	// restarts or its network was lost.
	maxStreams = 4
	// At the end streams are ended within at most endSpread, one per endEvery on average, so that
	// their Envoys do not all come back at once.
	endSpread = 2 * time.Second
	endEvery  = 10 * time.Millisecond
)

// Values of the label "reason" of rejected streams.
const (
	rejectedDenied  = "denied"  // the authorizer said no
	rejectedNode    = "node_id" // node.id is not the caller's
	rejectedStreams = "streams" // too many for one proxy
	rejectedSilent  = "silent"  // no first request
	rejectedStalled = "stalled" // a response was not read or not answered
	rejectedGone    = "gone"    // the proxy left the catalog
)

var errEnding = status.Error(codes.Unavailable, "the control plane is ending")

// Server serves xDS. Make it with New, register it with a gRPC server (ServerOptions suit it), and
// Run it.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	views        *latest.Value[*catalog.View]
	credentials  *sds.Credentials
	authorizer   func(ctx context.Context, node identity.ProxyID) (identity.Caller, error)
	log          *slog.Logger
	metrics      *metrics
	ackTimeout   time.Duration
	stallTimeout time.Duration
	recheckEvery time.Duration // 0: never
	generations  *generations  // the publisher's
	recorder     recorder      // the publisher's
	unrecorded   atomic.Pointer[string]

	streams sync.WaitGroup // goroutines of streams

	mu      sync.Mutex    // never held while something is sent, built or asked for; sessions' locks are not taken under it
	closing chan struct{} // closed when Run begins to end: no new streams
	proxies map[identity.ProxyID]*proxy
	ran     bool
	fresh   map[*session]bool  // to be looked at without a change of the catalog
	left    []identity.ProxyID // whose last stream has ended
	wake    chan struct{}      // something is in fresh
}

var _ discoveryv3.AggregatedDiscoveryServiceServer = (*Server)(nil)

// proxy is what outlives a proxy's streams. Server.mu guards it.
type proxy struct {
	sessions map[*session]bool
	lastACK  time.Time
	lastNACK *NACK
	rejected *Rejection
}

// New returns a Server, or an error if cfg lacks something, the generations file cannot be read, or
// a metric is registered already.
func New(cfg Config) (*Server, error) {
	if cfg.Views == nil || cfg.Credentials == nil || cfg.Authorize == nil {
		return nil, errors.New("xds: Config needs Views, Credentials and Authorize")
	}
	g, err := openGenerations(cfg.GenerationsFile, cfg.UnrecordedFile, time.Now())
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("xds metrics: %w", err)
	}
	s := &Server{
		views: cfg.Views, credentials: cfg.Credentials, authorizer: cfg.Authorize, log: cfg.Logger, metrics: m, generations: g,
		recorder:   recorder{path: cfg.GenerationsFile, unrecorded: cfg.UnrecordedFile, file: atomicfile.Replace, done: make(chan recording, 1)},
		ackTimeout: cfg.AckTimeout, stallTimeout: cfg.StallTimeout, recheckEvery: cfg.Recheck,
		proxies: map[identity.ProxyID]*proxy{}, fresh: map[*session]bool{}, wake: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.ackTimeout <= 0 {
		s.ackTimeout = defaultAckTimeout
	}
	if s.stallTimeout <= 0 {
		s.stallTimeout = defaultStallTimeout
	}
	return s, nil
}

// ServerOptions are the options for a gRPC server that serves a Server. Envoy's pings every 30 s
// are more than gRPC allows by default, an Envoy that is stopped or lost is noticed within 40 s,
// and the largest request is one that lists all that its Envoy holds.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(8 << 20),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(10 * time.Second),
		// Over TLS each connection keeps a buffer of its own to read into, of 32 KB by default;
		// requests are small.
		grpc.ReadBufferSize(8 << 10),
	}
}

// StreamAggregatedResources refuses: only the delta variant is served.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "state-of-the-world xDS is not served: set api_type DELTA_GRPC in ads_config")
}

// DeltaAggregatedResources serves one stream until its Envoy or the control plane ends it. gRPC
// calls it.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if !s.enter() {
		return errEnding
	}
	defer s.streams.Done()
	first, err := s.firstRequest(stream)
	if err != nil {
		return err
	}
	// Verifying a token takes a deep stack, which this goroutine would keep for the stream's life.
	var caller identity.Caller
	var authorizing sync.WaitGroup
	authorizing.Go(func() { caller, err = s.authorize(stream.Context(), identity.ProxyID(first.GetNode().GetId())) })
	authorizing.Wait()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	n := newSession(s, caller, snapshot.FeaturesOf(first.GetNode()), end)
	if err := s.join(n); err != nil {
		s.metrics.streamsRejected.WithLabelValues(rejectedStreams).Inc()
		s.log.Warn("stream rejected", "proxy", caller.Proxy, "err", err)
		return err
	}
	s.log.Info("stream opened", "proxy", caller.Proxy, "version", n.features.Version)
	g := &guard{AggregatedDiscoveryService_DeltaAggregatedResourcesServer: stream, session: n, metrics: s.metrics, first: first, subscribed: make(chan struct{}, 1)}
	if s.recheckEvery > 0 {
		s.streams.Go(func() { s.recheck(ctx, n, g.subscribed) })
	}
	err = s.serve(ctx, n, g)
	s.leave(n)
	closed := []any{"proxy", caller.Proxy, "duration", time.Since(n.opened)}
	if err != nil {
		closed = append(closed, "err", err)
	}
	s.log.Info("stream closed", closed...)
	return err
}

// enter counts a stream in, unless Run is ending.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return false
	}
	s.streams.Add(1)
	return true
}

func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// firstRequest waits for the request that names the node.
func (s *Server) firstRequest(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) (*discoveryv3.DeltaDiscoveryRequest, error) {
	type received struct {
		request *discoveryv3.DeltaDiscoveryRequest
		err     error
	}
	first := make(chan received, 1)
	s.streams.Go(func() { // it ends with the stream
		q, err := stream.Recv()
		first <- received{q, err}
	})
	timer := time.NewTimer(firstRequest)
	defer timer.Stop()
	select {
	case r := <-first:
		return r.request, r.err
	case <-s.closing:
		return nil, errEnding
	case <-timer.C:
		s.metrics.streamsRejected.WithLabelValues(rejectedSilent).Inc()
		return nil, status.Error(codes.DeadlineExceeded, "no request came")
	}
}

// authorize asks who it is and compares with who it says it is.
func (s *Server) authorize(ctx context.Context, node identity.ProxyID) (identity.Caller, error) {
	caller, err := s.authorizer(ctx, node)
	reason := rejectedDenied
	if err == nil {
		if node != "" && node == caller.Proxy {
			return caller, nil
		}
		reason, err = rejectedNode, status.Error(codes.PermissionDenied, "node.id is not the proxy that the token is for")
	}
	s.metrics.streamsRejected.WithLabelValues(reason).Inc()
	s.log.Warn("stream rejected", "proxy", cut(string(node), maxNameLength), "err", err)
	s.rejected(node, err)
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.PermissionDenied, "not authorized")
	}
	return identity.Caller{}, err
}

// rejected notes why a proxy got no stream, or lost it, for the status. What says who it is has not
// been believed, so only proxies of the catalog are remembered.
func (s *Server) rejected(id identity.ProxyID, err error) {
	if view, ok := s.views.Load(); !ok || view.Proxy(id) == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxies[id]
	if p == nil {
		p = &proxy{sessions: map[*session]bool{}}
		s.proxies[id] = p
	}
	p.rejected = &Rejection{Time: time.Now(), Reason: cut(status.Convert(err).Message(), maxNACKText)}
}

// ended is the status that the control plane ended a stream with; nil if it did not.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// join puts a session among those that the publisher serves.
func (s *Server) join(n *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return errEnding
	}
	p := s.proxies[n.caller.Proxy]
	if p == nil {
		p = &proxy{sessions: map[*session]bool{}}
		s.proxies[n.caller.Proxy] = p
	}
	if len(p.sessions) >= maxStreams {
		return status.Errorf(codes.ResourceExhausted, "the proxy has %d streams already", len(p.sessions))
	}
	if len(p.sessions) == 0 {
		s.metrics.connected.Inc()
	}
	p.sessions[n] = true
	s.freshen(n)
	return nil
}

// leave is the end of a session.
func (s *Server) leave(n *session) {
	r := n.close()
	n.leafs.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fresh, n)
	p := s.proxies[n.caller.Proxy]
	delete(p.sessions, n)
	if len(p.sessions) == 0 {
		s.metrics.connected.Dec()
		s.left = append(s.left, n.caller.Proxy)
	}
	p.lastACK = later(p.lastACK, r.lastACK)
	if r.lastNACK != nil && (p.lastNACK == nil || p.lastNACK.Time.Before(r.lastNACK.Time)) {
		p.lastNACK = r.lastNACK
	}
}

// refresh makes the publisher look at a session soon. It does not block.
func (s *Server) refresh(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[n.caller.Proxy]; p != nil && p.sessions[n] {
		s.freshen(n)
	}
}

// freshen is refresh under the lock.
func (s *Server) freshen(n *session) {
	s.fresh[n] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sessions are all that are open now.
func (s *Server) sessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*session
	for _, p := range s.proxies {
		for n := range p.sessions {
			all = append(all, n)
		}
	}
	return all
}

// sessionsOf are the open ones of a proxy.
func (s *Server) sessionsOf(id identity.ProxyID) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[id]; p != nil {
		return slices.Collect(maps.Keys(p.sessions))
	}
	return nil
}

// takeLeft returns the proxies that have no streams any more.
func (s *Server) takeLeft() []identity.ProxyID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []identity.ProxyID
	for _, id := range s.left {
		if p := s.proxies[id]; p == nil || len(p.sessions) == 0 {
			out = append(out, id)
		}
	}
	s.left = nil
	return out
}

// forget drops what is kept of a proxy that the catalog has no more, unless it has streams.
func (s *Server) forget(id identity.ProxyID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[id]; p != nil && len(p.sessions) == 0 {
		delete(s.proxies, id)
	}
}

// Unrecorded says why part of the generations file could not be written; empty: all of it was.
func (s *Server) Unrecorded() string {
	if text := s.unrecorded.Load(); text != nil {
		return *text
	}
	return ""
}

// shut ends all streams, spread over a while, and waits until they have ended.
func (s *Server) shut() {
	s.mu.Lock()
	close(s.closing)
	s.mu.Unlock()
	all := s.sessions()

	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	every := min(endEvery, endSpread/time.Duration(max(len(all), 1)))
	pace := time.NewTicker(every)
	defer pace.Stop()
	for _, n := range all {
		n.end(errEnding)
		<-pace.C
	}
	s.streams.Wait()
}
