package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Implementations of interfaces that are declared where they are used.
var (
	_ catalog.Source = (*files.Source)(nil)
	_ sds.Source     = (*ca.CA)(nil)
	_ xds.Authorizer = token.Authorizer{}
)

func newServeCommand(o *clientOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve --catalog DIR --data DIR",
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
			if err := cfg.check(); err != nil {
				return err
			}
			if cfg.RuntimeDir == "" {
				cfg.RuntimeDir = admin.DefaultDir()
			}
			log, err := newLogger(cfg.LogFormat, cfg.LogLevel, os.Stderr)
			if err != nil {
				return err
			}
			return serve(c.Context(), cfg, log, c.OutOrStdout())
		},
	}
	_ = o // --runtime-dir is bound to the same name in readConfig
	serveFlags(c.Flags())
	return c
}

// controlPlane is the parts of a running control plane, for those who ask about it.
type controlPlane struct {
	cfg     serveConfig
	started time.Time
	log     *slog.Logger
	metrics *prometheus.Registry
	store   *catalog.Store
	source  *files.Source
	ca      *ca.CA
	secrets *sds.Credentials
	tokens  *token.Issuer
	xds     *xds.Server
	authz   *authz.Server
	remote  *ca.Endpoint // nil without a TLS endpoint
}

// serve runs the control plane until ctx ends or a part of it fails.
func serve(ctx context.Context, cfg serveConfig, log *slog.Logger, out io.Writer) (err error) {
	p, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	l, err := p.listen()
	if err != nil {
		return err
	}
	defer l.close()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.source.Run(ctx, p.store.Publish) })
	g.Go(func() error { return p.ca.Run(ctx) })
	// Certificates outlive the streams that they are for: the streams' end closes what they watch.
	g.Go(func() error { return p.secrets.Run(ctx) })
	g.Go(func() error { return p.xds.Run(ctx) })
	g.Go(func() error { return p.authz.Run(ctx) })
	g.Go(func() error { return p.serveGRPC(ctx, l.xds, nil) })
	if l.remote != nil {
		g.Go(func() error { return p.serveGRPC(ctx, l.remote, credentials.NewTLS(p.remote.TLSConfig())) })
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
	p := &controlPlane{cfg: cfg, started: time.Now(), log: log, metrics: prometheus.NewRegistry(), store: &catalog.Store{}}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	td, err := configuredTrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	if p.ca, err = ca.Open(ca.Config{Dir: filepath.Join(cfg.Data, "ca"), TrustDomain: td, LeafTTL: cfg.LeafTTL, Logger: log, Registerer: p.metrics}); err != nil {
		return nil, err
	}
	if err := p.openRest(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// close lets go of the state directories.
func (p *controlPlane) close() error {
	err := p.ca.Close()
	if p.remote != nil {
		err = errors.Join(err, p.remote.Close())
	}
	return err
}

func (p *controlPlane) openRest() error {
	td := p.ca.TrustDomain()
	fc, err := p.cfg.filesConfig(td)
	if err != nil {
		return err
	}
	fc.PortsFile, fc.Logger, fc.Registerer = filepath.Join(p.cfg.Data, "sidecar-ports.json"), p.log, p.metrics
	if p.source, err = files.New(fc); err != nil {
		return err
	}
	if p.tokens, err = token.Open(token.Config{File: filepath.Join(p.cfg.Data, "token.key"), TrustDomain: td}); err != nil {
		return err
	}
	if p.cfg.XDSAddress != "" {
		if p.remote, err = ca.OpenEndpoint(ca.EndpointConfig{Dir: filepath.Join(p.cfg.Data, "endpoint"), TrustDomain: td, Logger: p.log}); err != nil {
			return err
		}
	}
	authorizer := token.Authorizer{Issuer: p.tokens}
	p.secrets = sds.New(sds.Config{Source: p.ca, Logger: p.log, Registerer: p.metrics})
	p.xds, err = xds.New(xds.Config{
		Views: &p.store.Views, Credentials: p.secrets, Authorizer: authorizer,
		GenerationsFile: filepath.Join(p.cfg.Data, "generations.json"), Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	p.authz = authz.New(authz.Config{
		Views: &p.store.Views, LogDenials: p.cfg.LogDenials, Logger: p.log, Registerer: p.metrics,
		Authorize: func(ctx context.Context) (catalog.ProxyID, error) {
			caller, err := authorizer.Authorize(ctx, nil)
			return caller.Proxy, err
		},
	})
	return nil
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

func (p *controlPlane) listen() (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	gid, mode := -1, os.FileMode(0o600)
	if name := p.cfg.AdminGroup; name != "" {
		g, err := user.LookupGroup(name)
		if err != nil {
			return l, fmt.Errorf("--admin-group: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return l, fmt.Errorf("--admin-group: %w", err)
		}
		mode = 0o660
	}
	if err := admin.MakeDir(p.cfg.RuntimeDir); err != nil {
		return l, err
	}
	if l.admin, err = admin.Listen(admin.Socket(p.cfg.RuntimeDir), mode, gid); err != nil {
		return l, err
	}
	// Envoys of any user connect; what lets them in is their token.
	if l.xds, err = admin.Listen(admin.XDSSocket(p.cfg.RuntimeDir), 0o666, -1); err != nil {
		return l, err
	}
	if a := p.cfg.XDSAddress; a != "" {
		if l.remote, err = net.Listen("tcp", a); err != nil {
			return l, fmt.Errorf("--xds-address: %w", err)
		}
	}
	if a := p.cfg.MetricsBind; a != "" {
		if l.metrics, err = net.Listen("tcp", a); err != nil {
			return l, fmt.Errorf(`--metrics-bind: %w (several meshes on one machine need an address each, or "" to serve metrics on the admin socket alone)`, err)
		}
	}
	return l, nil
}

// serveGRPC serves xDS and ext_authz on l until ctx ends. The streams are ended by xds.Server, with jitter; what is left is cut off.
func (p *controlPlane) serveGRPC(ctx context.Context, l net.Listener, creds credentials.TransportCredentials) error {
	opts := xds.ServerOptions()
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	s := grpc.NewServer(opts...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, p.xds)
	authv3.RegisterAuthorizationServer(s, p.authz)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving xDS on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() { s.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(3 * time.Second):
		s.Stop()
		<-stopped
	}
	<-failed
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
			p.source.Reload()
		}
	}
}

// announce says, once the catalog is there, what is served and where.
func (p *controlPlane) announce(ctx context.Context, out io.Writer, l listeners) {
	changed := p.store.Views.Changed()
	v, ok := p.store.Views.Load()
	for !ok {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		changed = p.store.Views.Changed()
		v, ok = p.store.Views.Load()
	}
	proxies := slices.Collect(v.Proxies())
	fmt.Fprintf(out, "sallyport %s serves %s: %d proxies from %s\n", versionText(), p.ca.TrustDomain().Name(), len(proxies), p.cfg.Catalog)
	for n, pr := range proxies {
		if n == 10 {
			fmt.Fprintf(out, "  … and %d more (sallyport status)\n", len(proxies)-n)
			break
		}
		fmt.Fprintf(out, "  %-24s %s (%s, %s, %s)\n", pr.ID, v.Identity(pr.Service), net.JoinHostPort(pr.Inbound.Address, strconv.Itoa(int(pr.Inbound.Port))), pr.Inbound.Protocol, pr.Inbound.Enforcement)
	}
	fmt.Fprintf(out, "  sockets in %s", p.cfg.RuntimeDir)
	if l.remote != nil {
		fmt.Fprintf(out, "; Envoys elsewhere at %s", l.remote.Addr())
	}
	if l.metrics != nil {
		fmt.Fprintf(out, "; metrics at http://%s/metrics", l.metrics.Addr())
	}
	fmt.Fprintln(out)
}

// proxyOf finds the proxy that a request for a token names.
func proxyOf(v *catalog.View, r admin.TokenRequest) (*catalog.Proxy, error) {
	switch {
	case (r.SidecarFor == "") == (r.ProxyID == ""):
		return nil, errors.New("exactly one of --sidecar-for and --proxy-id says which proxy")
	case r.ProxyID != "":
		if pr := v.Proxy(catalog.ProxyID(r.ProxyID)); pr != nil {
			return pr, nil
		}
		return nil, fmt.Errorf("proxy %q: %w in the catalog (`sallyport status` lists the proxies)", r.ProxyID, admin.ErrUnknown)
	}
	switch found := v.Sidecars(r.SidecarFor); len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("a sidecar for the service instance %q: %w in the catalog (give the service's ID; `sallyport status` lists the proxies)", r.SidecarFor, admin.ErrUnknown)
	default:
		return nil, fmt.Errorf("the service instance %q has %d proxies: choose one with --proxy-id", r.SidecarFor, len(found))
	}
}

// listenersOf are what the Envoy of a proxy binds.
func listenersOf(pr *catalog.Proxy) []admin.Listener {
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	out := []admin.Listener{{Name: "public_listener", Address: net.JoinHostPort(pr.Inbound.Address, port(pr.Inbound.Port)), Origin: pr.Origin}}
	for _, u := range pr.Upstreams {
		l := admin.Listener{Name: "upstream " + u.Destination.String(), Socket: u.BindSocket, Origin: u.Origin}
		if u.BindSocket == "" {
			l.Address = net.JoinHostPort(u.BindAddress, port(u.BindPort))
		}
		out = append(out, l)
	}
	return out
}

func (p *controlPlane) mint(peer admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
	v, ok := p.store.Views.Load()
	if !ok {
		return admin.TokenResponse{}, errors.New("the catalog has not been read yet: " + fmt.Sprint(p.source.Status().Problems))
	}
	pr, err := proxyOf(v, r)
	if err != nil {
		return admin.TokenResponse{}, err
	}
	if peer.UID != 0 && peer.UID != os.Geteuid() && peer.UID != pr.Bootstrap.UID {
		return admin.TokenResponse{}, fmt.Errorf("the token of %s: %w to uid %d (root, uid %d and the proxy's own sallyport_uid are; %s)", pr.ID, admin.ErrForbidden, peer.UID, os.Geteuid(), pr.Origin)
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = p.cfg.TokenTTL
	}
	if ttl < 0 || ttl > maxTokenTTL {
		return admin.TokenResponse{}, fmt.Errorf("a token's life of %v is not between 0 and %v", ttl, maxTokenTTL)
	}
	out := admin.TokenResponse{
		ProxyID: string(pr.ID), Service: pr.Service.Service, Namespace: pr.Service.Namespace, Partition: pr.Service.Partition,
		Datacenter: v.Mesh().Datacenter, TrustDomain: v.Mesh().TrustDomain.Name(), Origin: pr.Origin,
		XDSSocket: admin.XDSSocket(p.cfg.RuntimeDir), PrometheusBindAddr: pr.Bootstrap.PrometheusBindAddr, Listeners: listenersOf(pr),
	}
	if p.remote != nil {
		out.XDSAddress, out.XDSCA, out.XDSURI = p.cfg.XDSAddress, string(p.remote.RootsPEM()), p.remote.URI()
	}
	out.Token, out.Expires, err = p.tokens.Mint(pr.ID, ttl)
	return out, err
}

// maxTokenTTL bounds the life of tokens for Envoys that somebody else starts, which nobody renews.
const maxTokenTTL = 366 * 24 * time.Hour

func (p *controlPlane) api() admin.API {
	return admin.API{
		Status: p.status,
		Check: func(source, destination string) (admin.CheckResponse, error) {
			v, _ := p.store.Views.Load()
			return checkIntention(v, source, destination)
		},
		Rotate: func(service string) error {
			if err := p.ca.Rotate(identity.NewName(service)); err != nil {
				return err
			}
			return nil
		},
		Token:   p.mint,
		Reload:  p.source.Reload,
		Metrics: promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}),
		Health:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }),
		Ready: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			reasons := p.notReady()
			if len(reasons) > 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			for _, r := range reasons {
				fmt.Fprintln(w, r)
			}
			if len(reasons) == 0 {
				fmt.Fprintln(w, "ready")
			}
		}),
	}
}

// notReady says why nobody can be served yet, or not for long.
func (p *controlPlane) notReady() []string {
	var out []string
	if _, ok := p.store.Views.Load(); !ok {
		out = append(out, "no valid catalog was read yet")
	}
	if _, ok := p.secrets.Bundles(); !ok {
		out = append(out, "the trust bundle is not there yet")
	}
	if err := p.ca.Health(); err != nil {
		out = append(out, "the CA's state cannot be written: "+err.Error())
	}
	return out
}

func (p *controlPlane) status() admin.Status {
	files := p.source.Status()
	s := admin.Status{
		Version: versionText(), PID: os.Getpid(), Started: p.started, TrustDomain: p.ca.TrustDomain().Name(), Datacenter: p.cfg.Datacenter,
		Catalog:  admin.Catalog{Source: "files: " + p.cfg.Catalog, LastLoaded: files.LastSuccess, Problems: files.Problems, Warnings: files.Warnings},
		NotReady: p.notReady(), Proxies: p.xds.Status(),
	}
	if v, ok := p.store.Views.Load(); ok {
		for range v.Services() {
			s.Catalog.Services++
		}
		s.Catalog.Intentions = v.IntentionCount()
	}
	return s
}
