package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"github.com/sallyport/sallyport/xds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// rooted is a source of certificates whose roots can be changed: two CAs of one mesh, the second of which joins, and then signs. The
// built-in CA has one root for its life, and Consul's, which has more, is measured by -consul.
type rooted struct {
	leafs [2]*ca.Issuer
	roots [2]sds.Root
	stage latest.Value[int] // 0: the first alone; 1: the roots of both; 2: leafs of the second
}

func (r *rooted) WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	first, stop := context.WithCancel(ctx)
	defer stop()
	go r.stage.Watch(first, func(stage int) {
		if stage >= 2 {
			stop()
		}
	})
	if err := r.leafs[0].WatchSVID(first, c, id, f); err != nil || ctx.Err() != nil {
		return err
	}
	return r.leafs[1].WatchSVID(ctx, c, id, f)
}

func (r *rooted) WatchRoots(ctx context.Context, f func(*sds.Roots)) error {
	r.stage.Watch(ctx, func(stage int) {
		roots := r.roots[:1]
		if stage > 0 {
			roots = r.roots[:]
		}
		f(sds.NewRoots(spiffeid.RequireTrustDomainFromString(benchDomain), "", roots))
	})
	return nil
}

// serveRoots is sallyport's control plane of the files in dir, without its command line and with two CAs. SIGUSR1 is the next stage. It
// writes a token for each proxy of the load beside the socket.
func serveRoots(ctx context.Context, dir string) error {
	td := spiffeid.RequireTrustDomainFromString(benchDomain)
	r := &rooted{}
	for i := range r.leafs {
		c, err := ca.Open(ca.Config{Dir: filepath.Join(dir, fmt.Sprintf("ca%d", i)), TrustDomain: td})
		if err != nil {
			return err
		}
		defer c.Close()
		if r.leafs[i], err = ca.NewIssuer(ca.IssuerConfig{Provider: c, TrustDomain: td, TTL: ca.DefaultLeafTTL}); err != nil {
			return err
		}
		roots, _ := c.Roots().Load()
		r.roots[i], _ = roots.Active()
	}
	r.stage.Set(0)
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
	credentials, err := sds.New(sds.Config{Source: r})
	if err != nil {
		return err
	}
	server, err := xds.New(xds.Config{Views: &store.Views, Credentials: credentials, Authorize: token.Authorizer{Authority: tokens}.Stream})
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
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return s.Serve(l) })
	g.Go(func() error {
		defer s.Stop()
		for {
			select {
			case <-next:
				stage, _ := r.stage.Load()
				r.stage.Set(stage + 1)
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
	p, err := launch("the control plane with two CAs", filepath.Join(dir, "roots.log"), meshtest.Environ(), self, "-serve-roots", dir)
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
		},
		token: func(_ context.Context, id string) (string, error) {
			if t := tokens[id]; t != "" {
				return t, nil
			}
			return "", errors.New("no token for " + id)
		},
	}, nil
}

// measureRoots measures a change of the roots.
func measureRoots(ctx context.Context, o options, dir string) (rows []row, err error) {
	l := load{sidecars: 300, upstreams: 6, protocol: "tcp"}
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
