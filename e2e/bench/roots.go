package main

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"github.com/sallyport/sallyport/xds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// stepped is the gate of a rotation that goes on when it is told to, and when the record lets it.
type stepped struct {
	*acceptance.Record
	stage latest.Value[int] // 0: the first root; 1: another one is prepared; 2: leafs are signed under it; 3: the first one leaves
}

// held are the holders of stage, and one more until it has come.
func (s *stepped) held(stage int, holders []ca.Holder) []ca.Holder {
	if now, _ := s.stage.Load(); now < stage {
		holders = append(holders, ca.Holder{Name: "the measurement"})
	}
	return holders
}

func (s *stepped) Untold(roots []*x509.Certificate) []ca.Holder {
	return s.held(2, s.Record.Untold(roots))
}

func (s *stepped) Outdated(root *x509.Certificate) []ca.Holder {
	return s.held(3, s.Record.Outdated(root))
}

// Changed tells of stages: of what the record has nobody asks before all have accepted it.
func (s *stepped) Changed() <-chan struct{} { return s.stage.Changed() }

// serveRoots is sallyport's control plane of the files in dir, without its command line, and with a rotation whose phases next begins. It
// writes a token for each proxy of the load beside the socket.
func serveRoots(ctx context.Context, dir string, next <-chan os.Signal) error {
	td := spiffeid.RequireTrustDomainFromString(benchDomain)
	var credentials *sds.Credentials
	record, err := acceptance.Open(acceptance.Config{File: filepath.Join(dir, "accepted"), Roots: func() (*sds.Roots, bool) { return credentials.Roots() }})
	if err != nil {
		return err
	}
	gate := &stepped{Record: record}
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca"), TrustDomain: td, Gate: gate, Settle: time.Millisecond})
	if err != nil {
		return err
	}
	defer authority.Close()
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: authority, TrustDomain: td, TTL: ca.DefaultLeafTTL})
	if err != nil {
		return err
	}
	contents, err := files.Load(files.Config{Dir: filepath.Join(dir, "catalog"), TrustDomain: td})
	if err != nil {
		return err
	}
	store := &catalog.Store{}
	store.Publish(contents)
	tokens, err := token.Open(token.Config{File: filepath.Join(dir, "token.key"), TrustDomain: td})
	if err != nil {
		return err
	}
	if credentials, err = sds.New(sds.Config{Source: issuer}); err != nil {
		return err
	}
	server, err := xds.New(xds.Config{Views: &store.Views, Credentials: credentials, Acceptance: record, Authorize: token.Authorizer{Authority: tokens}.Stream})
	if err != nil {
		return err
	}
	minted := map[string]string{}
	for _, p := range contents.Proxies {
		m, err := tokens.Mint(token.Subject{Proxy: p.ID, Service: p.Service, UID: p.Bootstrap.UID}, time.Hour)
		if err != nil {
			return err
		}
		minted[string(p.ID)] = m.Text
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, "xds.sock"))
	if err != nil {
		return err
	}
	s := grpc.NewServer(xds.ServerOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, server)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return credentials.Run(ctx) })
	g.Go(func() error { return record.Run(ctx) })
	g.Go(func() error { return authority.Run(ctx) })
	g.Go(func() error { return issuer.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return s.Serve(l) })
	g.Go(func() error {
		defer s.Stop()
		for {
			select {
			case <-next:
				stage, _ := gate.stage.Load()
				gate.stage.Set(stage + 1)
				if stage == 0 {
					if err := authority.Rotate(ca.RotateOptions{}); err != nil {
						return err
					}
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	if err := writeJSON(tokensFile(dir), minted); err != nil { // last: now it serves
		return err
	}
	return g.Wait()
}

// rootsPlane is serveRoots in a process of its own, under load.
func rootsPlane(ctx context.Context, dir string, l load) (*plane, error) {
	if err := writeCatalog(dir, l); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := launch("the control plane whose root is replaced", filepath.Join(dir, "roots.log"), meshtest.Environ(), self, "-serve-roots", dir)
	if err != nil {
		return nil, err
	}
	var tokens map[string]string
	if err := p.Await(ctx, time.Minute, "ready", func() error { return readJSON(tokensFile(dir), &tokens) }); err != nil {
		p.stop()
		return nil, err
	}
	r := servedRoots(dir, l, tokens, func() error { return p.Signal(syscall.SIGUSR1) })
	r.control = p
	return r, nil
}

// writeCatalog puts the load where serveRoots looks for it.
func writeCatalog(dir string, l load) error {
	definitions := filepath.Join(dir, "catalog")
	if err := os.Mkdir(definitions, 0o700); err != nil {
		return err
	}
	return l.write(definitions)
}

// tokensFile is written when serveRoots serves: tokens by proxy.
func tokensFile(dir string) string { return filepath.Join(dir, "tokens") }

// servedRoots is what serveRoots serves in dir. next begins a phase.
func servedRoots(dir string, l load, tokens map[string]string, next func() error) *plane {
	begin := func(context.Context) (time.Time, error) {
		at := time.Now()
		return at, next()
	}
	return &plane{
		name: byThis, network: "unix", address: filepath.Join(dir, "xds.sock"),
		changes: []change{
			{name: rootAdded, make: begin, told: l.sidecars, once: true},
			{name: leafsOfRoot, make: begin, told: l.sidecars, once: true},
			{name: rootRetired, make: begin, told: l.sidecars, once: true},
		},
		token: func(_ context.Context, id string) (string, error) {
			if t := tokens[id]; t != "" {
				return t, nil
			}
			return "", errors.New("no token for " + id)
		},
	}
}
