package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/sallyport/sallyport/issuance"
	tokenkeys "github.com/sallyport/sallyport/jwks/keys"
	"github.com/sallyport/sallyport/observe"
	"github.com/sallyport/sallyport/revocation"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/workload"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func newServeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve {--catalog DIR | --consul}",
		Short: "Run the control plane",
		Long: `Serve runs the control plane: it reads the catalog, keeps the CA, and tells every sidecar's Envoy its configuration,
certificates and intentions over xDS. It reads changed files within a second; SIGHUP makes it read them at once. SIGTERM ends it within 5 s;
sidecars keep what they have and come back to its successor.

Every flag is also a variable (SALLYPORT_LEAF_TTL) and a key of the configuration file (leaf_ttl).`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := serveConfiguration(c.Flags())
			if err != nil && cfg.LogLevel == "" {
				return err // nothing was read, so nothing is known of the rest
			}
			log, logErr := newLogger(cfg.LogFormat, cfg.LogLevel, os.Stderr, cfg.advice())
			if err = errors.Join(err, logErr); err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				defer setGarbage()()
			}
			return serve(c.Context(), cfg, slog.New(audit.Bound(log.Handler())), c.OutOrStdout())
		},
	}
	serveFlags(c.Flags())
	return c
}

// claimsReserved is how long after a start beside Consul proxies keep the addresses that they had. Of
// some not all is known at once.
const claimsReserved = 30 * time.Second

// controlPlane is the parts of a running control plane.
type controlPlane struct {
	cfg     serveConfig
	started time.Time
	log     *slog.Logger
	metrics *prometheus.Registry

	keys      *keyring.Keyring // nil: private keys are kept in clear
	builtin   *ca.CA           // nil beside Consul
	source    source
	authority authority
	callers   callers
	agent     *consul.Agent // nil: the catalog comes from files
	store     *catalog.Store
	claims    *claim.Registry
	issued    *issuance.Record
	accepted  *acceptance.Record
	revoked   *revocation.Registry
	// revocations are where what is revoked is written.
	revocations  revocations
	rotations    rotations
	secrets      *sds.Credentials
	xds          *xds.Server
	authz        *authz.Server
	observe      *observe.Server
	http         *api.Server
	workload     *workload.Server
	domains      *bundle.Store
	tokenSigners *tokenkeys.Store
	federated    latest.Value[[]*sds.Roots] // of domains
	offer        *bundle.Offer
	// applications are those of which their sidecars say that they do not answer.
	applications applications
	remote       latest.Value[*ca.Endpoint] // empty without a TLS endpoint
	gates        gates
	// streamsEnded is closed when all xDS streams have ended, served when all servers that give leafs away have.
	streamsEnded, served chan struct{}

	// runs are the parts that run beside the servers, checks say why one cannot do its work (yet),
	// and closers close what was opened, the last one first.
	runs    []func(context.Context) error
	checks  []func() error
	closers []func() error
}

// serve runs the control plane until ctx ends or a part of it fails.
func serve(ctx context.Context, cfg serveConfig, log *slog.Logger, out io.Writer) (err error) {
	l, err := listen(ctx, cfg, log) // before open: a start that fails leaves no CA behind
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
	for _, run := range p.runs {
		g.Go(func() error { return run(ctx) })
	}
	var givers sync.WaitGroup
	gives := func(serve func() error) {
		givers.Add(1)
		g.Go(func() error {
			defer givers.Done()
			return serve()
		})
	}
	gives(func() error { return p.serveGRPC(ctx, l.xds, nil) })
	gives(func() error { return p.workload.Serve(ctx, l.workload) })
	if l.remote != nil {
		gives(func() error { return p.serveRemote(ctx, l.remote) })
	}
	g.Go(func() error { return admin.Serve(ctx, l.admin, p.api(), log) })
	gives(func() error { return p.http.Serve(ctx, l.http, nil) })
	if l.httpTCP != nil {
		gives(func() error { return p.http.Serve(ctx, l.httpTCP, l.httpTLS) })
	}
	g.Go(func() error {
		givers.Wait()
		close(p.served)
		return nil
	})
	if l.bundle != nil {
		g.Go(func() error { return p.serveBundle(ctx, l.bundle, l.bundleTLS) })
	}
	if l.metrics != nil {
		g.Go(func() error { return admin.ServeHTTP(ctx, l.metrics, p.monitoring(), log) })
	}
	g.Go(func() error { p.reloadOnHUP(ctx); return nil })
	// Sockets listen. A catalog may be long in coming; a service manager is not to end what waits for it.
	p.notify("READY=1\nSTATUS=waiting for a catalog")
	g.Go(func() error { p.announce(ctx, out, l); return nil })
	g.Go(func() error {
		<-ctx.Done()
		p.notify("STOPPING=1")
		return nil
	})
	return g.Wait()
}

// notify is notify whose failure is no more than a warning.
func (p *controlPlane) notify(state string) {
	if err := notify(state); err != nil {
		p.log.Warn("the service manager cannot be told ($NOTIFY_SOCKET)", "err", err)
	}
}

// open makes the parts. What it opened is closed again if it fails.
func open(cfg serveConfig, log *slog.Logger) (_ *controlPlane, err error) {
	p := &controlPlane{cfg: cfg, started: time.Now(), log: log, metrics: prometheus.NewRegistry(), store: &catalog.Store{Logger: log}, streamsEnded: make(chan struct{}), served: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.metrics.MustRegister(buildInfo())
	release, err := openData(cfg.Data)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, release)
	if p.keys, err = cfg.keyring(log); err != nil {
		return nil, err
	}
	claims := cfg.claims()
	claims.File, claims.Logger = filepath.Join(cfg.Data, "claims.json"), log
	parts := []func() error{p.openIssuance, p.openAcceptance, p.openCA, p.openFiles, p.openTokens, p.openServers}
	if cfg.Consul {
		claims.Reserve = claimsReserved
		parts = []func() error{p.openIssuance, p.openAcceptance, p.openAgent, p.openServers}
	}
	p.claims = claim.New(claims)
	for _, part := range parts {
		if err := part(); err != nil {
			return nil, dataError(err)
		}
	}
	return p, nil
}

// openServers makes what Envoys ask, out of the source, the authority and the callers.
func (p *controlPlane) openServers() error {
	numbers, err := sequence.Open(filepath.Join(p.cfg.Data, changeName), time.Now())
	if err != nil {
		return err
	}
	p.closers = append(p.closers, numbers.Close)
	p.store.Number = numbers.Next
	p.store.Changed = (&audit.Trail{Logger: p.log, Ready: p.source.settled}).Changed
	if err := p.openRevocation(); err != nil {
		return err
	}
	p.secrets, err = sds.New(sds.Config{Source: p.issued.Source(p.authority), Logger: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.xds, err = xds.New(xds.Config{
		Views: &p.store.Views, Credentials: p.secrets, Authorize: p.callers.Stream, Recheck: p.callers.recheck,
		GenerationsFile: filepath.Join(p.cfg.Data, "generations-2.json"), UnrecordedFile: filepath.Join(p.cfg.RuntimeDir, "unrecorded-generations"),
		Numbers: numbers, Acceptance: p.accepted, Federated: &p.federated,
		Placed: func(id identity.ProxyID, at xds.Place, alone bool) {
			p.claims.Place(id, at.Network, at.Admin, alone)
		},
		Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	p.authz, err = authz.New(authz.Config{
		Views: &p.store.Views, Told: p.xds.Told, ToldChanged: p.xds.ToldChanged, LogDenials: p.cfg.LogDenials, Logger: p.log, Registerer: p.metrics, Authorize: p.callers.Call,
	})
	if err != nil {
		return err
	}
	p.observe, err = observe.New(observe.Config{Views: &p.store.Views, Authorize: p.callers.Call, Registerer: p.metrics})
	if err != nil {
		return err
	}
	if err := p.openTrustDomains(); err != nil {
		return err
	}
	if err := p.openKeys(); err != nil {
		return err
	}
	if err := p.openWorkload(); err != nil {
		return err
	}
	if err := p.openAPI(); err != nil {
		return err
	}
	p.runs = append(p.runs, p.secrets.Run, p.authz.Run, p.observe.Run, p.workload.Run,
		func(ctx context.Context) error {
			return p.claims.Run(ctx, p.source, p.revoked.Publisher(p.withKeys(p.store.Publish))) //nolint:contextcheck // what asks for keys has it in running
		},
		func(ctx context.Context) error {
			defer close(p.streamsEnded)
			return p.xds.Run(ctx)
		},
		func(ctx context.Context) error {
			numbers.Run(ctx, func(err error) { p.log.Error("numbers of changes not reserved", "err", err) })
			return nil
		})
	return nil
}

// close closes what open has opened.
func (p *controlPlane) close() (err error) {
	for _, c := range slices.Backward(p.closers) {
		err = errors.Join(err, c())
	}
	return err
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
