package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/sallyport/sallyport/observe"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func newServeCommand(o *clientOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve {--catalog DIR --data DIR | --consul}",
		Short: "Run the control plane",
		Long: `Serve runs the control plane: it reads the catalog, keeps the CA, and tells every sidecar's Envoy its configuration,
certificates and intentions over xDS. It reads changed files within a second; SIGHUP makes it read them at once. SIGTERM ends it within 5 s;
sidecars keep what they have and come back to its successor.

Every flag is also a variable (SALLYPORT_LEAF_TTL) and a key of the configuration file (leaf_ttl).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := readConfig(c.Flags())
			if err != nil {
				return err
			}
			if err := cfg.complete(); err != nil {
				return err
			}
			if err := cfg.check(); err != nil {
				return err
			}
			log, err := newLogger(cfg.LogFormat, cfg.LogLevel, os.Stderr)
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
			}
			return serve(c.Context(), cfg, log, c.OutOrStdout())
		},
	}
	_ = o // --runtime-dir is bound to the same name in readConfig
	serveFlags(c.Flags())
	return c
}

// gcPercent is how much garbage, in percent of what is in use, is let grow before it is collected, unless GOGC says otherwise. Most of the
// time a control plane keeps much and makes little: half of Go's default spares a fifth of the memory, for a twentieth of the processor
// time when a whole mesh connects at once.
const gcPercent = 50

// controlPlane is the parts of a running control plane, for those who ask about it.
type controlPlane struct {
	*engine
	cfg     serveConfig
	started time.Time
	log     *slog.Logger
	metrics *prometheus.Registry
	store   *catalog.Store
	numbers *sequence.Numbers // of changes
	secrets *sds.Credentials
	xds     *xds.Server
	authz   *authz.Server
	observe *observe.Server
	remote  latest.Value[*ca.Endpoint] // empty without a TLS endpoint
	// streamsEnded is closed when all xDS streams have ended.
	streamsEnded chan struct{}
}

// serve runs the control plane until ctx ends or a part of it fails.
func serve(ctx context.Context, cfg serveConfig, log *slog.Logger, out io.Writer) (err error) {
	l, err := listen(ctx, cfg) // before open: a start that fails leaves no CA behind
	if err != nil {
		return err
	}
	defer l.close()
	p, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.source.Run(ctx, p.store.Publish) })
	if p.background != nil {
		g.Go(func() error { return p.background(ctx) })
	}
	g.Go(func() error {
		p.numbers.Run(ctx, func(err error) { log.Error("numbers of changes not reserved", "err", err) })
		return nil
	})
	g.Go(func() error { return p.secrets.Run(ctx) })
	g.Go(func() error {
		defer close(p.streamsEnded)
		return p.xds.Run(ctx)
	})
	g.Go(func() error { return p.authz.Run(ctx) })
	g.Go(func() error { return p.observe.Run(ctx) })
	g.Go(func() error { return p.serveGRPC(ctx, l.xds, nil) })
	if l.remote != nil {
		g.Go(func() error { return p.serveRemote(ctx, l.remote) })
	}
	g.Go(func() error { return admin.Serve(ctx, l.admin, p.api(), log) })
	if l.metrics != nil {
		g.Go(func() error { return admin.ServeHTTP(ctx, p.metricsServer(), l.metrics) })
	}
	g.Go(func() error { p.reloadOnHUP(ctx); return nil })
	g.Go(func() error { p.announce(ctx, out, l); return nil })
	return g.Wait()
}

// open makes the parts. What it opened is closed again if it fails.
func open(cfg serveConfig, log *slog.Logger) (*controlPlane, error) {
	p := &controlPlane{cfg: cfg, started: time.Now(), log: log, metrics: prometheus.NewRegistry(), store: &catalog.Store{Logger: log}, streamsEnded: make(chan struct{})}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	release, err := openData(cfg.Data)
	if err != nil {
		return nil, err
	}
	make := filesEngine
	if cfg.Consul {
		make = consulEngine
	}
	if p.engine, err = make(cfg, log, p.metrics); err != nil {
		return nil, errors.Join(err, release())
	}
	if p.numbers, err = sequence.Open(filepath.Join(cfg.Data, "change"), time.Now()); err != nil {
		return nil, errors.Join(err, p.close(), release())
	}
	p.store.Number = p.numbers.Next
	closeEngine := p.engine.close
	p.engine.close = func() error { return errors.Join(p.numbers.Close(), closeEngine(), release()) }
	if p.secrets, err = sds.New(sds.Config{Source: p.certificates, Logger: log, Registerer: p.metrics}); err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.xds, err = xds.New(xds.Config{
		Views: &p.store.Views, Credentials: p.secrets, Authorize: p.callers.Stream, Recheck: p.recheck,
		GenerationsFile: filepath.Join(cfg.Data, "generations-2.json"), UnrecordedFile: filepath.Join(cfg.RuntimeDir, "unrecorded-generations"),
		Logger: log, Registerer: p.metrics,
	})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	if p.authz, err = authz.New(authz.Config{
		Views: &p.store.Views, LogDenials: cfg.LogDenials, Logger: log, Registerer: p.metrics, Authorize: p.callers.Call,
	}); err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.observe, err = observe.New(observe.Config{Views: &p.store.Views, Authorize: p.callers.Call, Registerer: p.metrics})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// listeners are the sockets of a control plane.
type listeners struct{ admin, xds, remote, metrics net.Listener }

func (l listeners) close() {
	for _, c := range []net.Listener{l.admin, l.xds, l.remote, l.metrics} {
		if c != nil {
			_ = c.Close()
		}
	}
}

func listen(ctx context.Context, cfg serveConfig) (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	gid, mode := -1, os.FileMode(0o600)
	if name := cfg.AdminGroup; name != "" {
		g, err := user.LookupGroup(name)
		if err != nil {
			return l, fmt.Errorf("--admin-group: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return l, fmt.Errorf("--admin-group: %w", err)
		}
		mode = 0o660
	}
	if err := admin.MakeDir(cfg.RuntimeDir); err != nil {
		return l, err
	}
	if gid != -1 {
		if err := admin.LetThrough(cfg.RuntimeDir); err != nil {
			return l, err
		}
	}
	if l.admin, err = admin.Listen(admin.Socket(cfg.RuntimeDir), mode, gid); err != nil {
		return l, groupError(cfg.AdminGroup, err)
	}
	// Envoys of any user connect; what lets them in is their token.
	if l.xds, err = admin.Listen(admin.XDSSocket(cfg.RuntimeDir), 0o666, -1); err != nil {
		return l, err
	}
	var lc net.ListenConfig
	if a := cfg.XDSAddress; a != "" {
		if l.remote, err = lc.Listen(ctx, "tcp", a); err != nil {
			return l, fmt.Errorf("--xds-address: %w", err)
		}
	}
	if a := cfg.MetricsBind; a != "" {
		if l.metrics, err = lc.Listen(ctx, "tcp", a); err != nil {
			return l, fmt.Errorf(`--metrics-bind: %w (several meshes on one machine need an address each, or "" to serve metrics on the admin socket alone)`, err)
		}
	}
	return l, nil
}

// groupError says how to mend that the socket could not be given to the group.
func groupError(group string, err error) error {
	if group == "" || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("--admin-group: uid %d may not give the socket to the group %s: make that user a member of the group (and start anew), or run as root: %w", os.Geteuid(), group, err)
}

// serveRemote serves Envoys on other machines, over TLS, as soon as the trust domain is known that the endpoint's certificate is made for.
func (p *controlPlane) serveRemote(ctx context.Context, l net.Listener) (err error) {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	td, ok := p.trustDomain()
	for ; !ok; td, ok = p.trustDomain() {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
	e, err := ca.OpenEndpoint(ca.EndpointConfig{Dir: filepath.Join(p.cfg.Data, "endpoint"), TrustDomain: td, Logger: p.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	p.remote.Set(e)
	return p.serveGRPC(ctx, l, credentials.NewTLS(e.TLSConfig()))
}

// stopTime bounds how long streams and calls are given to end; the process is to be gone within 5 s.
const stopTime = 3 * time.Second

// serveGRPC serves xDS, ext_authz and access logs on l until ctx ends. The streams of xDS are ended
// by xds.Server, with jitter; what is left is cut off.
func (p *controlPlane) serveGRPC(ctx context.Context, l net.Listener, creds credentials.TransportCredentials) error {
	opts := xds.ServerOptions()
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	s := grpc.NewServer(opts...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, p.xds)
	authv3.RegisterAuthorizationServer(s, p.authz)
	alsv3.RegisterAccessLogServiceServer(s, p.observe)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving xDS on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Stopping tells all Envoys at once that the connection ends, so the streams end first: spread, so that not all come back together.
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-p.streamsEnded
		s.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(stopTime):
		s.Stop()
		<-stopped
	}
	// One that is stopped before it has begun to serve says so, which is no failure.
	if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

func (p *controlPlane) metricsServer() *http.Server {
	api := p.api()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", api.Metrics)
	mux.Handle("GET /healthz", api.Health)
	mux.Handle("GET /readyz", api.Ready)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
}

func (p *controlPlane) reloadOnHUP(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			p.reload()
		}
	}
}

// announce says, once the catalog is there, what is served and where.
func (p *controlPlane) announce(ctx context.Context, out io.Writer, l listeners) {
	waiting, known := context.WithCancel(ctx)
	defer known()
	p.store.Views.Watch(waiting, func(*catalog.View) { known() })
	v, ok := p.store.Views.Load()
	if !ok {
		return
	}
	proxies := slices.Collect(v.Proxies())
	count := "no proxies yet" // a catalog may come bit by bit
	if len(proxies) > 0 {
		count = fmt.Sprintf("%d proxies", len(proxies))
	}
	fmt.Fprintf(out, "sallyport %s serves %s: %s; %s\n", versionText(), v.Mesh().TrustDomain.Name(), count, p.status().Source)
	list(out, v, proxies)
	fmt.Fprintf(out, "  sockets in %s", p.cfg.RuntimeDir)
	if l.remote != nil {
		fmt.Fprintf(out, "; Envoys elsewhere at %s", l.remote.Addr())
	}
	if l.metrics != nil {
		fmt.Fprintf(out, "; metrics at http://%s/metrics", l.metrics.Addr())
	}
	fmt.Fprintln(out)
	if len(proxies) > 0 {
		return
	}
	if v, proxies = p.firstProxies(ctx); len(proxies) > 0 {
		fmt.Fprintf(out, "%d proxies have come\n", len(proxies))
		list(out, v, proxies)
	}
}

// firstProxies waits for proxies in the catalog, and until no more of them come; none if ctx ended before.
func (p *controlPlane) firstProxies(ctx context.Context) (v *catalog.View, proxies []*catalog.Proxy) {
	var quiet <-chan time.Time
	for {
		changed := p.store.Views.Changed()
		v, _ = p.store.Views.Load()
		if now := slices.Collect(v.Proxies()); len(now) != len(proxies) {
			proxies, quiet = now, time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return v, nil
		case <-quiet:
			if len(proxies) > 0 {
				return v, proxies
			}
			quiet = nil
		case <-changed:
		}
	}
}

// list names the first of the proxies.
func list(out io.Writer, v *catalog.View, proxies []*catalog.Proxy) {
	for n, pr := range proxies {
		if n == 10 {
			fmt.Fprintf(out, "  … and %d more (sallyport status)\n", len(proxies)-n)
			break
		}
		fmt.Fprintf(out, "  %-24s %s (%s, %s, %s)\n", pr.ID, v.Identity(pr.Service), net.JoinHostPort(pr.Inbound.Address, strconv.Itoa(int(pr.Inbound.Port))), pr.Inbound.Protocol, pr.Inbound.Enforcement)
	}
}
