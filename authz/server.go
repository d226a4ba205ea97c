// Package authz answers Envoy's ext_authz filters, network and HTTP (service.auth.v3), from the
// newest View of the catalog: may this client reach this proxy's service? What it answers is
// intention.Policy.Decide, and nothing else; where live connections are to end with the access, of
// what Envoys are told, too.
//
// It fails closed: whatever is missing, malformed or contradicts itself is denied. A denial is an
// answer (Envoy makes it a 403 or a closed connection); what keeps the server from deciding is an
// RPC error (a 503 or a closed connection). Check itself takes no lock, does no I/O, waits for
// nothing but what is not known or not recorded yet, and, with a request of long texts, for others of the
// kind, and may be called by any number of goroutines; what is logged is handed to Run. Who calls is for Config.Authorize to say.
package authz

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/recent"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is what a Server needs.
type Config struct {
	// Views holds the catalog. As long as it is empty, or nil, nothing is decided.
	Views *latest.Value[*catalog.View]
	// Authorize says who calls, and about which service; its error becomes the call's, as
	// Unauthenticated. Nil refuses every call. It is called once per Check and answers from memory:
	// beside files always, beside Consul unless the verdict on the proxy's token is older than a
	// minute, which its xDS stream keeps it from becoming.
	Authorize func(ctx context.Context) (identity.Caller, error)
	// Told is what Envoys are told in place of a policy of view, which is not nil. Where live
	// connections are to end with the access, nobody is let in whom it does not allow, too; see
	// xds.Server.Told. It is called once per such Check. Nil: the policy itself.
	Told func(view *catalog.View, policy *intention.Policy) *intention.Policy
	// ToldChanged returns a channel that is closed when Told may answer otherwise: a Check waits for
	// that, up to its deadline, where Told alone keeps it from letting somebody in. Nil: none waits.
	ToldChanged func() <-chan struct{}
	// LogDenials logs denials, summed up: one line per caller, service, reason and minute, 1,000 a
	// minute at most. Without it they are only counted.
	LogDenials bool
	// Logger gets denials and panics. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics, of one Server at most. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Server is the ext_authz server.
type Server struct {
	authv3.UnimplementedAuthorizationServer
	views     *latest.Value[*catalog.View]
	authorize func(ctx context.Context) (identity.Caller, error)
	told      func(view *catalog.View, policy *intention.Policy) *intention.Policy // nil: all of it
	changed   func() <-chan struct{}                                               // of told
	// certificates are those of clients by their text.
	certificates *recent.Table[certificate]
	long         lane
	metrics      metrics
	logger       *slog.Logger
	logDenials   bool
	events       chan event
	dropped      atomic.Int64 // events that found no room
}

var _ authv3.AuthorizationServer = (*Server)(nil)

// New returns a server, or an error if its metrics are registered already. It can answer at once;
// its log waits for Run.
func New(c Config) (*Server, error) {
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		views:        c.Views,
		authorize:    c.Authorize,
		told:         c.Told,
		changed:      c.ToldChanged,
		certificates: recent.New[certificate](maxCertificates),
		long:         newLane(),
		metrics:      m,
		logger:       c.Logger,
		logDenials:   c.LogDenials,
		events:       make(chan event, maxEvents),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Register has g serve s. To Envoy Check is the unary method that it is; here it is a stream of one
// message, so that what is to be found out about the caller first is found out before the message is
// read.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	d := authv3.Authorization_ServiceDesc
	d.Methods = nil
	d.Streams = []grpc.StreamDesc{{StreamName: "Check", ClientStreams: true, ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		req := &authv3.CheckRequest{}
		if err := stream.RecvMsg(req); err != nil {
			return err
		}
		resp, err := s.Check(stream.Context(), req)
		if err != nil {
			return err
		}
		return stream.SendMsg(resp)
	}}}
	g.RegisterService(&d, s)
}

// verdict is the outcome of one Check, before it becomes a response.
type verdict struct {
	proxy       identity.ProxyID
	destination identity.Name
	principal   string // as Envoy sent it
	reason      reason
	// intention is the one that decided, and permission which of its permissions, counted from 1; nil and 0: none did.
	intention  *intention.Intention
	permission int
	// revocation is the one that denies; nil unless reason is revoked.
	revocation *intention.Revocation
	allowed    bool
}

// Check decides about one connection or request. A denial is a response with status
// PERMISSION_DENIED, and nil as error. The errors are gRPC statuses: Unauthenticated, Unavailable
// while nothing is known, and ctx's own end.
func (s *Server) Check(ctx context.Context, req *authv3.CheckRequest) (resp *authv3.CheckResponse, err error) {
	defer func() {
		if r := recover(); r != nil {
			v := verdict{reason: panicked}
			s.report(event{verdict: v, panicked: fmt.Sprint(r), stack: string(debug.Stack())})
			s.metrics.count(v)
			resp, err = respond(v, false), nil
		}
	}()
	v, failure, err := s.decide(ctx, req)
	if err == nil && v.mayChange() {
		v, failure, err = s.await(ctx, req)
	}
	if err != nil {
		s.metrics.fail(failure)
		return nil, err
	}
	resp = respond(v, req.GetAttributes().GetRequest().GetHttp() != nil)
	if !v.allowed && s.logDenials {
		s.report(event{verdict: v})
	}
	// This comes last: an Envoy has been seen to accept an OK after the deadline that it had set.
	if err := ctx.Err(); err != nil {
		s.metrics.fail(ended)
		return nil, status.FromContextError(err).Err()
	}
	s.metrics.count(v)
	return resp, nil
}

// longestWait is for how long a Check waits for what may change its verdict, and answerRoom what it
// keeps of its deadline: Envoys wait for 250 ms.
const (
	longestWait = 200 * time.Millisecond
	answerRoom  = 50 * time.Millisecond
)

// mayChange reports whether the verdict is of what is not known yet: at the start the proxies of a
// catalog come one by one; and of what is let in as soon as that is recorded, which takes a disk a
// moment: after an intention that allows it, and at the start after an upgrade.
func (v verdict) mayChange() bool {
	return v.reason == unrecorded || v.reason == unknownProxy || v.reason == noPolicy
}

// await is decide for a verdict that may change: it is asked for again with each change until it is
// another one, or the time is over.
func (s *Server) await(ctx context.Context, req *authv3.CheckRequest) (v verdict, f failure, err error) {
	wait := longestWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)-answerRoom)
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		var told <-chan struct{}
		if s.changed != nil {
			told = s.changed()
		}
		view := s.views.Changed()
		if v, f, err = s.decide(ctx, req); err != nil || !v.mayChange() {
			return v, f, err
		}
		select {
		case <-told:
		case <-view:
		case <-end.C:
			return v, f, err
		case <-ctx.Done():
			return v, f, err
		}
	}
}

// decide is Check without the response. One call looks at one View.
func (s *Server) decide(ctx context.Context, req *authv3.CheckRequest) (v verdict, f failure, err error) {
	if s.authorize == nil {
		return v, unauthenticated, status.Error(codes.Unauthenticated, "this control plane knows no proxies")
	}
	caller, err := s.authorize(ctx)
	if err != nil {
		return v, unauthenticated, status.Error(codes.Unauthenticated, status.Convert(err).Message())
	}
	view := s.view()
	if view == nil {
		return v, notReady, status.Error(codes.Unavailable, "the catalog is not known yet")
	}
	v.proxy = caller.Proxy
	drains := true // an older listener does not say whose it is
	if caller.Proxy != "" {
		switch proxy := view.Proxy(caller.Proxy); {
		case proxy == nil:
			v.reason = unknownProxy
			return v, 0, nil
		case proxy.Proxy.Service != caller.Service:
			v.reason = wrongDestination
			return v, 0, nil
		case proxy.Proxy.Admits(caller.Proof) != nil:
			return v, unauthenticated, status.Error(codes.Unauthenticated, proxy.Proxy.Admits(caller.Proof).Error())
		default:
			drains = proxy.Proxy.Inbound.Revocation == catalog.Drain
		}
	}
	v.destination = caller.Service
	attributes := req.GetAttributes()
	v.principal = attributes.GetSource().GetPrincipal()
	if !destinationAgrees(attributes, caller.Service) {
		v.reason = wrongDestination
		return v, 0, nil
	}
	source, shown, why := s.source(attributes.GetSource(), view.Mesh().TrustDomain)
	if why != 0 {
		v.reason = why
		return v, 0, nil
	}
	if v.revocation = view.Revoked().Certificate(shown.serial, shown.sha256); v.revocation != nil {
		v.reason = revoked
		return v, 0, nil
	}
	policy := view.Policy(caller.Service)
	if policy == nil {
		v.reason = noPolicy // of whoever asks something is known
		return v, 0, nil
	}
	d := view.DecideID(source, caller.Service)
	request := asked{http: attributes.GetRequest().GetHttp()}
	if request.http != nil && d.Reason == intention.RequestsOnly {
		request.done = ctx.Done()
		if d.Intention != nil && isLong(d.Intention.Permissions, request.http) {
			leave, err := s.long.enter(ctx)
			if err != nil {
				return v, longRequests, status.FromContextError(err).Err()
			}
			defer leave()
		}
		request.tokens = tokensOf(view, policy, attributes.GetMetadataContext())
		d = request.decide(func(r *intention.Request) intention.Decision { return view.DecideRequest(source, caller.Service, r) })
	}
	if err := ctx.Err(); err != nil { // what was decided may be of a part of the permissions
		return v, ended, status.FromContextError(err).Err()
	}
	if d.Allowed() && drains && s.told != nil {
		if told := s.told(view, policy); told != policy && !toldAllows(told, source, &request) {
			v.reason = unrecorded
			return v, 0, nil
		}
	}
	v.reason, v.intention, v.permission, v.revocation = reasonOf(d.Reason), d.Intention, d.Permission, d.Revocation
	v.allowed = d.Allowed() && (v.reason == byIntention || v.reason == byDefault || v.reason == byNoPermission)
	if request.lacking {
		v.reason, v.permission, v.allowed = noHeaders, 0, false
	}
	return v, 0, nil
}

// toldAllows reports whether what Envoys are told allows it, too.
func toldAllows(told *intention.Policy, source identity.ID, request *asked) bool {
	d := told.DecideID(source)
	if request.http != nil && d.Reason == intention.RequestsOnly {
		d = request.decide(func(r *intention.Request) intention.Decision { return told.DecideRequestID(source, r) })
	}
	return d.Allowed()
}

// view is the newest View; nil as long as nothing is known.
func (s *Server) view() *catalog.View {
	if s.views == nil {
		return nil
	}
	view, _ := s.views.Load()
	if view == nil || view.Mesh() == nil {
		return nil
	}
	return view
}

// respond makes the response. Its status message is for operators who read Envoy's logs; clients
// never see it.
func respond(v verdict, http bool) *authv3.CheckResponse {
	if v.allowed {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.OK), Message: v.String()}}
	}
	resp := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied), Message: v.String()}}
	if http {
		resp.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
			Body:   "sallyport: access denied\n",
		}}
	}
	return resp
}

// String is the verdict and what made it, in a sentence.
func (v verdict) String() string {
	action := "denied"
	if v.allowed {
		action = "allowed"
	}
	if v.revocation != nil {
		return action + ": " + v.revocation.Why()
	}
	i := v.intention
	if i == nil {
		return action + ": " + v.reason.String()
	}
	s := action + " by intention " + i.String()
	switch {
	case v.permission > 0: // it says which one
		s = action + " by permission " + i.Label(v.permission)
	case v.reason != byIntention:
		s = action + ", " + v.reason.String() + ": intention " + i.String()
	}
	if i.Origin != "" {
		s += ", " + i.Origin
	}
	return s
}
