package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Config is what a Server needs. Views and Credentials are required.
type Config struct {
	// Views are the catalog: who is which service.
	Views *latest.Value[*catalog.View]
	// Credentials are where leafs and roots come from.
	Credentials *sds.Credentials
	// Foreign are the bundles of other trust domains, which every process is given. Nil: there are none.
	Foreign *latest.Value[*bundle.Set]
	// JWT signs JWT-SVIDs. Nil: there are none.
	JWT *JWTKeys
	// Right is asked with which token the leaf of a service is fetched for a process that the service
	// names. Its error, a gRPC status, says why there is no right to it, or, Unavailable, that this is
	// not known. It is asked again every Recheck, and may block for a few seconds. Nil: with none.
	Right func(ctx context.Context, service identity.Name) (token string, err error)
	// Recheck is required where Right is.
	Recheck time.Duration
	// Acceptance records which roots and leafs processes were given. Nil: nothing does.
	Acceptance *acceptance.Record
	// Logger gets a line for each leaf that is handed out, never its key. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Server answers the Workload API and SDS. Make it with New; Serve serves and Run keeps it up to
// date.
type Server struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer
	secretv3.UnimplementedSecretDiscoveryServiceServer

	views       *latest.Value[*catalog.View]
	credentials *sds.Credentials
	right       func(context.Context, identity.Name) (string, error)
	recheck     time.Duration
	sets        *latest.Value[*bundle.Set]
	jwt         *JWTKeys
	acceptance  *acceptance.Record
	log         *slog.Logger
	metrics     *metrics
	namings     namings
	denials     denials

	closing chan struct{} // closed when Run ends: no stream goes on
	wake    chan struct{} // there is something in dirty

	mu       sync.Mutex
	holdings map[string]*holding
	dirty    map[*holding]bool
	users    map[int]*user
	// strangers are the streams of users that no registration names.
	strangers int
}

// New returns a server. The error is that the metrics cannot be registered.
func New(cfg Config) (*Server, error) {
	s := &Server{
		views: cfg.Views, credentials: cfg.Credentials, right: cfg.Right, recheck: cfg.Recheck, jwt: cfg.JWT, sets: cfg.Foreign, acceptance: cfg.Acceptance, log: cfg.Logger, metrics: newMetrics(),
		closing: make(chan struct{}), wake: make(chan struct{}, 1),
		holdings: map[string]*holding{}, dirty: map[*holding]bool{}, users: map[int]*user{},
	}
	if s.sets == nil {
		s.sets = &latest.Value[*bundle.Set]{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer != nil {
		if err := s.metrics.register(cfg.Registerer); err != nil {
			return nil, fmt.Errorf("metrics of the workload API: %w", err)
		}
	}
	return s, nil
}

// Run makes new answers of new leafs and roots until ctx ends; then it ends all streams, gives all
// leafs back and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	sweep := time.NewTicker(idle / 10)
	defer sweep.Stop()
	for {
		roots, foreign := s.credentials.RootsChanged(), s.sets.Changed()
		s.refreshAll()
	waiting:
		for {
			select {
			case <-ctx.Done():
				close(s.closing)
				s.sweep(time.Now(), true)
				return nil
			case <-roots:
				break waiting
			case <-foreign:
				break waiting
			case <-s.wake:
				s.refreshDirty()
			case now := <-sweep.C:
				s.sweep(now, false)
			}
		}
	}
}

// foreign are the bundles of other trust domains than own.
func (s *Server) foreign(own spiffeid.TrustDomain) *bundle.Set {
	set, _ := s.sets.Load()
	return set.Without(own)
}

// refresh has Run make a new answer of h. It does not block.
func (s *Server) refresh(h *holding) {
	s.mu.Lock()
	s.dirty[h] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Server) refreshDirty() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = map[*holding]bool{}
	s.mu.Unlock()
	for h := range dirty {
		h.update()
	}
}

func (s *Server) refreshAll() {
	s.mu.Lock()
	for _, h := range s.holdings {
		s.dirty[h] = true
	}
	s.mu.Unlock()
	s.refreshDirty()
}

// Serve serves on l, a Unix socket, until ctx ends; then it ends all streams and waits for them. It
// closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(s.options()...)
	workloadpb.RegisterSpiffeWorkloadAPIServer(g, s)
	secretv3.RegisterSecretDiscoveryServiceServer(g, s)
	healthpb.RegisterHealthServer(g, health.NewServer())
	failed := make(chan error, 1)
	go func() { failed <- g.Serve(s.listen(l)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the workload API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		g.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(stopTime):
		g.Stop()
		<-stopped
	}
	// One that is stopped before it has begun to serve says so, which is no failure.
	if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// stopTime bounds how long streams are given to end by themselves.
const stopTime = time.Second

// Statuses of what passes. Clients try again after them, whatever they asked for.
var (
	errNoCatalog = status.Error(codes.Unavailable, "the catalog has not been read yet: try again")
	errNoRoots   = status.Error(codes.Unavailable, "the trust bundle is not there yet: try again")
	errClosing   = status.Error(codes.Unavailable, "the control plane ends: try again")
	errGone      = status.Error(codes.Unavailable, "the process that asked has ended")
)

// view is the newest View in which the mesh is known.
func (s *Server) view() (*catalog.View, error) {
	v, ok := s.views.Load()
	if !ok || v.Mesh() == nil {
		return nil, errNoCatalog
	}
	return v, nil
}

// grants are the services that p is by v, sorted by name. The error is a gRPC status.
func (s *Server) grants(ctx context.Context, v *catalog.View, p *attest.Process) ([]grant, error) {
	var out []grant
	var refused error
	for _, name := range s.namings.of(v).services(p) {
		g := grant{v.Identity(name), identity.Caller{Application: application(p)}}
		if s.right != nil {
			token, err := s.right(ctx, name)
			if err != nil {
				// What is not known yet is said first: the client then tries again.
				if refused == nil || status.Code(err) == codes.Unavailable {
					refused = err
				}
				continue
			}
			g.caller.Token = token
		}
		out = append(out, g)
	}
	switch {
	case len(out) > 0:
		return out, nil
	case refused == nil:
		return nil, s.deny(p)
	case status.Code(refused) == codes.Unavailable:
		s.metrics.denied(reasonNotReady)
		return nil, refused
	default:
		return nil, s.refuse(p, reasonRight, status.Error(codes.PermissionDenied, "no identity issued: "+status.Convert(refused).Message()))
	}
}

// application is whose leafs the ones of a process are: those of its user.
func application(p *attest.Process) string { return fmt.Sprintf("uid %d", p.UID) }

// deny is the error of a process that is no service.
func (s *Server) deny(p *attest.Process) error {
	reason, err := reasonUnnamed, p.Nobody()
	if err != nil {
		reason = reasonNobody
		err = status.Errorf(codes.PermissionDenied, "no identity issued: process %d: %v", p.PID, err)
	} else {
		hint := ""
		if err := p.Known(); err != nil {
			hint = fmt.Sprintf("; selectors of a path or a unit never match here: %v", err)
		}
		err = status.Errorf(codes.PermissionDenied, `no identity issued: no service names process %d of uid %d: write meta { %s = "unix:uid:%d" } into the service's own definition%s`, p.PID, p.UID, catalog.MetaSelectors, p.UID, hint)
	}
	return s.refuse(p, reason, err)
}

// follow calls send with what the process of a connection is told, once there is something and after
// each change, until ctx ends, send fails or the process is no service any more. Whatever comes by
// more is called in between, with what was told last, which is nil if nothing was; nil when more is
// closed. The error is a gRPC status.
func (s *Server) follow(ctx context.Context, c *conn, more <-chan func(*answer) error, send func(*answer) error) error {
	var h *holding
	defer func() {
		if h != nil {
			s.release(h)
		}
	}()
	var last *answer
	late := time.NewTimer(patience + time.Second)
	defer late.Stop()
	var again <-chan time.Time // nil: never
	if s.right != nil {
		ticker := time.NewTicker(s.recheck)
		defer ticker.Stop()
		again = ticker.C
	}
	for {
		views := s.views.Changed() // before it is loaded, so that no change is missed
		v, err := s.view()
		if err != nil {
			return err
		}
		grants, err := s.grants(ctx, v, c.process)
		if err != nil {
			return err
		}
		if h == nil || !h.of(grants) {
			next := s.hold(grants)
			if h != nil {
				s.release(h)
			}
			h = next
		}
		told := h.told.Changed()
		if next, ok := h.told.Load(); ok && !last.same(next) {
			s.handOut(c, next)
			if err := send(next); err != nil {
				return err
			}
			last = next
			late.Stop()
		}
		select {
		case <-views:
		case <-told:
		case <-again:
		case f, ok := <-more:
			if !ok {
				return nil
			}
			if err := f(last); err != nil {
				return err
			}
		case <-late.C:
			return s.notReady(grants)
		case <-c.process.Ended():
			return errGone
		case <-s.closing:
			return errClosing
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// of reports whether h is the holding of grants.
func (h *holding) of(grants []grant) bool {
	if len(grants) != len(h.grants) {
		return false
	}
	for i, g := range grants {
		if g != h.grants[i] {
			return false
		}
	}
	return true
}

// now is what p is told at this moment. It waits for leafs that are not there yet.
func (s *Server) now(ctx context.Context, c *conn) (*answer, error) {
	var got *answer
	errDone := errors.New("there it is")
	err := s.follow(ctx, c, nil, func(a *answer) error { got = a; return errDone })
	if errors.Is(err, errDone) {
		return got, nil
	}
	return nil, err
}

func (s *Server) notReady(grants []grant) error {
	s.metrics.denied(reasonNotReady)
	if _, ok := s.credentials.Roots(); !ok {
		return errNoRoots
	}
	return status.Errorf(codes.Unavailable, "the certificate of %s is not there yet: try again, and see the control plane's log for why", grants[0].id.Service)
}

// handOut logs which leafs the process of a connection gets, each once.
func (s *Server) handOut(c *conn, a *answer) {
	for _, o := range a.svids {
		if c.first(o.raw) {
			s.metrics.handedOut.Inc()
			program, err := c.process.Path()
			if err != nil {
				program = "" // the kernel or /proc does not say it to everybody
			}
			s.log.Info("leaf handed out", "audit", "workload", "service", o.id.Service, "serial", o.leaf.SerialNumber.Text(16), "expires", o.leaf.NotAfter, "uid", c.process.UID, "pid", c.process.PID, "file", program)
		}
	}
}
