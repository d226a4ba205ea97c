package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
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

// serveRoots is sallyport's control plane of the files in dir, without its command line, and with a rotation whose phases SIGUSR1 begins. It
// writes a token for each proxy of the load beside the socket.
func serveRoots(ctx context.Context, dir string) error {
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
	next := make(chan os.Signal, 1)
	signal.Notify(next, syscall.SIGUSR1)
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
	if err := writeJSON(filepath.Join(dir, "tokens"), minted); err != nil { // last: now it serves
		return err
	}
	return g.Wait()
}

// rootsPlane is serveRoots in a process of its own, under load.
func rootsPlane(ctx context.Context, dir string, l load) (*plane, error) {
	definitions := filepath.Join(dir, "catalog")
	if err := os.Mkdir(definitions, 0o700); err != nil {
		return nil, err
	}
	if err := l.write(definitions); err != nil {
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
	err = p.Await(ctx, time.Minute, "ready", func() error { return readJSON(filepath.Join(dir, "tokens"), &tokens) })
	if err != nil {
		p.stop()
		return nil, err
	}
	next := func(context.Context) (time.Time, error) {
		at := time.Now()
		return at, p.Signal(syscall.SIGUSR1)
	}
	return &plane{
		name: byThis, network: "unix", address: filepath.Join(dir, "xds.sock"), control: p,
		changes: []change{
			{name: rootAdded, make: next, told: l.sidecars, once: true},
			{name: leafsOfRoot, make: next, told: l.sidecars, once: true},
			{name: rootRetired, make: next, told: l.sidecars, once: true},
		},
		token: func(_ context.Context, id string) (string, error) {
			if t := tokens[id]; t != "" {
				return t, nil
			}
			return "", errors.New("no token for " + id)
		},
	}, nil
}

// measureRoots measures the phases of a rotation of the root: of as many sidecars as the goal is about, and of 1,000.
func measureRoots(ctx context.Context, o options, dir string) (rows []row, err error) {
	for _, l := range []load{{sidecars: 300, upstreams: 6, protocol: "tcp"}, {sidecars: 1000, upstreams: 6, protocol: "tcp"}} {
		of := filepath.Join(dir, fmt.Sprint(l.sidecars))
		if err := os.Mkdir(of, 0o700); err != nil {
			return nil, err
		}
		more, err := measureRotation(ctx, o, of, l)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func measureRotation(ctx context.Context, o options, dir string, l load) (rows []row, err error) {
	p, err := rootsPlane(ctx, dir, l)
	if err != nil {
		return nil, err
	}
	defer p.control.stop()
	err = p.measure(ctx, l, false, func(r figures) {
		if r.change != firstConfiguration {
			r.times = 1
			rows = append(rows, o.note(r).row())
		}
	})
	return rows, err
}
