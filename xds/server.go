package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/intern"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Config is what a Server needs. Views, Credentials and Authorize are required.
type Config struct {
	Views       *latest.Value[*catalog.View]
	Credentials *sds.Credentials
	// Authorize returns the proxy that the stream with context ctx comes from, as proved by the
	// stream's token, and that token. node is the node.id that the Envoy claims, which the server
	// compares with the result. Authorize may block until ctx ends and is called by many
	// goroutines. An error ends the stream: with its own status if it is a gRPC status, else with
	// PermissionDenied.
	Authorize func(ctx context.Context, node identity.ProxyID) (identity.Caller, error)
	// GenerationsFile records the generations of filter chains and whom they allowed; its directory
	// must exist. Empty: they are kept in memory, so that each restart ends the live connections of
	// services with revocation "drain" once.
	GenerationsFile string
	// UnrecordedFile, best on another disk (a runtime directory), gets the names of services whose
	// part of GenerationsFile could not be written; the next start ends their live connections
	// once. Empty: the next start does not know of such a failure.
	UnrecordedFile string
	// Placed is told where the Envoy of each stream runs, before it is served, and whether the proxy has
	// no other stream. Nil: nobody is.
	Placed func(proxy identity.ProxyID, at Place, alone bool)
	// Federated are the roots of other trust domains, sorted by their names, those of each the same pointer as long as they are the
	// same. The Mesh of Views names those domains, so it comes later, and goes before. Nil: there are none.
	Federated *latest.Value[[]*sds.Roots]
	// Acceptance records which roots and leafs Envoys have accepted. Nil: nothing does.
	Acceptance *acceptance.Record
	// Numbers gives filter chains their generations, which change numbers may lie between. Nil: they
	// are counted in memory, from the time in Unix seconds on.
	Numbers *sequence.Numbers
	// Logger gets streams, NACKs and failed builds. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
	// AckTimeout bounds how long listeners wait for Envoy to accept what they name, but for a new
	// name of the inbound filter chain: that, and new versions of routes, wait as long as it takes.
	// 0: 5 s.
	AckTimeout time.Duration
	// Recheck is how often the callers of open streams are authorized again; they are also when
	// they subscribe to something new. 0: never, so that a stream outlives the token that opened
	// it.
	Recheck time.Duration
	// StallTimeout is how long an Envoy may leave a response unread or unanswered before its stream
	// is ended. 0: 60 s.
	StallTimeout time.Duration
}

const (
	defaultAckTimeout   = 5 * time.Second
	defaultStallTimeout = 60 * time.Second
	// firstRequest is how long a stream may be open without a first request, which has the node.
	firstRequest = 10 * time.Second
	// maxStreams is how many streams a proxy may have: an Envoy has one, and a second one while it
	// restarts or after it lost its network.
	maxStreams = 4
	// At shutdown, streams are ended one per endEvery, and all within endSpread, so that their
	// Envoys do not reconnect all at once.
	endSpread = 2 * time.Second
	endEvery  = 10 * time.Millisecond
)

// Values of the label "reason" of rejected streams.
const (
	rejectedDenied  = "denied"  // Authorize returned an error
	rejectedNode    = "node_id" // node.id is not the caller's
	rejectedStreams = "streams" // too many for one proxy
	rejectedSilent  = "silent"  // no first request
	rejectedStalled = "stalled" // a response was not read or not answered
	rejectedGone    = "gone"    // the proxy left the catalog

	rejectedAgent      = "user_agent" // it is no Envoy
	rejectedVariant    = "variant"    // it asks by the state-of-the-world variant
	rejectedCall       = "call"       // a call or access log, of ext_authz and the like
	rejectedConnection = "connection" // too many without a good token
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
	placed       func(identity.ProxyID, Place, bool)
	acceptance   *acceptance.Record
	federated    *latest.Value[[]*sds.Roots]
	told         latest.Value[told]            // empty: the publisher has seen no View yet
	sockets      intern.Table[string, sockets] // by the version of the cluster
	lists        intern.Table[string, list]    // by the version of the endpoints

	refusals refusals

	streams sync.WaitGroup // goroutines of streams

	// mu is never held during sends, builds and calls of Authorize. No session's lock is taken
	// under it.
	mu           sync.Mutex
	closing      chan struct{} // closed when Run begins to end: no new streams
	proxies      map[identity.ProxyID]*proxy
	ran          bool
	pending      map[*session]bool  // to be published to without a change of the catalog
	disconnected []identity.ProxyID // proxies whose last stream has ended
	wake         chan struct{}      // pending is not empty
	ending       chan struct{}      // all connections are to end
}

var _ discoveryv3.AggregatedDiscoveryServiceServer = (*Server)(nil)

// New returns a Server, or an error if cfg lacks something, the generations file cannot be read, or
// a metric is registered already.
func New(cfg Config) (*Server, error) {
	if cfg.Views == nil || cfg.Credentials == nil || cfg.Authorize == nil {
		return nil, errors.New("xds: Config needs Views, Credentials and Authorize")
	}
	if cfg.Numbers == nil {
		cfg.Numbers = &sequence.Numbers{}
		if err := cfg.Numbers.Raise(uint64(max(time.Now().Unix(), 0))); err != nil {
			return nil, err
		}
	}
	g, err := openGenerations(cfg.GenerationsFile, cfg.UnrecordedFile, cfg.Numbers, time.Now())
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("xds metrics: %w", err)
	}
	s := &Server{
		views: cfg.Views, credentials: cfg.Credentials, authorizer: cfg.Authorize, log: cfg.Logger, metrics: m, generations: g,
		recorder: recorder{path: cfg.GenerationsFile, unrecorded: cfg.UnrecordedFile, file: atomicfile.Replace, done: make(chan recording, 1), left: new(atomic.Bool)},
		placed:   cfg.Placed, acceptance: cfg.Acceptance, federated: cmp.Or(cfg.Federated, &latest.Value[[]*sds.Roots]{}), ackTimeout: cfg.AckTimeout, stallTimeout: cfg.StallTimeout, recheckEvery: cfg.Recheck,
		proxies: map[identity.ProxyID]*proxy{}, pending: map[*session]bool{}, wake: make(chan struct{}, 1), ending: make(chan struct{}, 1), closing: make(chan struct{}),
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
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newSyncCollector(s)); err != nil {
			return nil, fmt.Errorf("xds metrics: %w", err)
		}
	}
	return s, nil
}

// ServerOptions are the options for a gRPC server that serves a Server. They permit Envoy's pings
// every 30 s, which are more than gRPC allows by default, detect a stopped or lost Envoy within
// 40 s, and accept the largest request, which lists all that an Envoy has.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(8 << 20),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(10 * time.Second),
		// Over TLS each connection has a read buffer of its own, of 32 KB by default; requests are
		// small.
		grpc.ReadBufferSize(8 << 10),
	}
}

// StreamAggregatedResources refuses: only the delta variant is served.
func (s *Server) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	err := status.Error(codes.Unimplemented, "state-of-the-world xDS is not served: set api_type DELTA_GRPC in ads_config")
	s.refuse(peerOf(stream.Context()), "", rejectedVariant, err)
	return err
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
	// Verifying a token takes a deep stack, which this goroutine would keep as long as the stream.
	var caller identity.Caller
	var authorizing sync.WaitGroup
	authorizing.Go(func() { caller, err = s.authorize(stream.Context(), identity.ProxyID(first.GetNode().GetId())) })
	authorizing.Wait()
	if err != nil {
		return err
	}
	if err := s.checkProof(caller); err != nil {
		s.refuse(peerOf(stream.Context()), caller.Proxy, rejectedDenied, err)
		return err
	}
	if err := checkAgent(first.GetNode().GetUserAgentName()); err != nil {
		s.refuse(peerOf(stream.Context()), caller.Proxy, rejectedAgent, err)
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	at := placeOf(first.GetNode().GetMetadata())
	s.place(caller.Proxy, at)
	n := newSession(s, caller, snapshot.FeaturesOf(first.GetNode()), end)
	n.network = at.Network
	if err := s.join(n); err != nil {
		n.acceptance.Close(false)
		s.refuse(peerOf(stream.Context()), caller.Proxy, rejectedStreams, err)
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
	case <-stream.Context().Done():
		return nil, context.Cause(stream.Context())
	case <-timer.C:
		err := status.Error(codes.DeadlineExceeded, "no request came")
		s.refuse(peerOf(stream.Context()), "", rejectedSilent, err)
		return nil, err
	}
}

// authorize authorizes the caller and compares its proxy with node, the one that it claims.
func (s *Server) authorize(ctx context.Context, node identity.ProxyID) (identity.Caller, error) {
	caller, err := s.authorizer(ctx, node)
	reason := rejectedDenied
	if err == nil {
		if node != "" && node == caller.Proxy {
			return caller, nil
		}
		reason, err = rejectedNode, status.Error(codes.PermissionDenied, "node.id is not the proxy that the token is for")
	}
	s.refuse(peerOf(ctx), node, reason, err)
	if _, ok := status.FromError(err); !ok {
		err = status.Error(codes.PermissionDenied, "not authorized")
	}
	return identity.Caller{}, err
}

// rejected notes for the status why a proxy got no stream, or lost it. id is not authenticated, so
// only proxies of the catalog are noted.
func (s *Server) rejected(id identity.ProxyID, err error) {
	if view, ok := s.views.Load(); !ok || view.Proxy(id) == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proxy(id).rejected = &Rejection{Time: time.Now(), Reason: cut(status.Convert(err).Message(), maxNACKText)}
}

// ended is the status with which the control plane ended a stream; nil if it did not.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// refresh has the publisher publish to a session soon. It does not block.
func (s *Server) refresh(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proxies[n.caller.Proxy]; p != nil && p.sessions[n] {
		s.enqueue(n)
	}
}

// enqueue is refresh under the lock.
func (s *Server) enqueue(n *session) {
	s.pending[n] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// endStreams ends all streams, spread over some time, and waits until they have ended.
func (s *Server) endStreams() {
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
