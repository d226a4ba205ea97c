package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// plane is a control plane under load. A change that it has no way to make is nil.
type plane struct {
	name             string
	network, address string // of its xDS server
	control          *process
	beside           *process // the Consul agent that it reads; nil: none, or it is the control plane
	token            func(ctx context.Context, proxyID string) (string, error)
	profiles         *profiler // nil: none are taken
	// Each makes a change and returns when.
	endpoint, intention, leaf, root func(ctx context.Context) (time.Time, error)
	// roots adds a root, of which then all leafs are, by newLeafs; root does both at once.
	roots, newLeafs func(ctx context.Context) (time.Time, error)
}

// serve starts sallyport and waits until it knows the load.
func serve(ctx context.Context, binary, dir string, l load, env []string, args ...string) (*process, *admin.Client, error) {
	run := filepath.Join(dir, "run")
	args = append([]string{"serve", "--data", filepath.Join(dir, "data"), "--runtime-dir", run, "--metrics-bind", "", "--log-level", "warn"}, args...)
	p, err := launch("sallyport", filepath.Join(dir, "sallyport.log"), append(meshtest.Environ(), env...), binary, args...)
	if err != nil {
		return nil, nil, err
	}
	var client *admin.Client
	err = p.Await(ctx, 3*time.Minute, "ready", func() error {
		c, err := admin.Find(run)
		if err != nil {
			return err
		}
		client = c
		s, err := c.Status(ctx)
		switch {
		case err != nil:
			return err
		case len(s.NotReady) > 0:
			return errors.New(strings.Join(s.NotReady, "; "))
		case len(s.Proxies) < l.sidecars:
			return fmt.Errorf("it knows %d proxies of %d: %s", len(s.Proxies), l.sidecars, strings.Join(s.Catalog.Problems, "; "))
		}
		return nil
	})
	if err != nil {
		p.stop()
		return nil, nil, err
	}
	return p, client, nil
}

const benchDomain = "bench.test"

// filesPlane is sallyport on a directory of files.
func filesPlane(ctx context.Context, o options, dir string, l load) (*plane, error) {
	catalog := filepath.Join(dir, "catalog")
	if err := os.MkdirAll(catalog, 0o700); err != nil {
		return nil, err
	}
	if err := l.write(catalog); err != nil {
		return nil, err
	}
	p, client, err := serve(ctx, o.sallyport, dir, l, nil, "--catalog", catalog, "--trust-domain", benchDomain)
	if err != nil {
		return nil, err
	}
	n := 0
	// The signal spares the wait that sallyport gives a directory to be left alone.
	write := func(name string, v any) (time.Time, error) {
		at := time.Now()
		if err := writeJSON(filepath.Join(catalog, name), v); err != nil {
			return at, err
		}
		return at, p.Signal(syscall.SIGHUP)
	}
	return &plane{
		name: "sallyport", network: "unix", address: admin.XDSSocket(client.Dir()), control: p, profiles: newProfiler(o.profiles, admin.Socket(client.Dir())),
		token: func(ctx context.Context, id string) (string, error) {
			r, err := client.Token(ctx, admin.TokenRequest{ProxyID: id})
			return r.Token, err
		},
		endpoint: func(context.Context) (time.Time, error) {
			n++
			d := define(60_000+n, "hub-0")
			d.ID = fmt.Sprintf("hub-0-%d", n)
			return write(d.ID+".json", map[string]any{"Services": []definition{d}})
		},
		intention: func(context.Context) (time.Time, error) {
			n++
			return write("wildcard.json", wildcard(n))
		},
		leaf: func(ctx context.Context) (time.Time, error) {
			at := time.Now()
			return at, client.Rotate(ctx, service(0))
		},
	}, nil
}

// settle waits until the processes are idle: what was done before must not be part of what is measured.
func (p *plane) settle(ctx context.Context, d time.Duration) error {
	const tick = 500 * time.Millisecond
	deadline := time.Now().Add(d)
	last := p.control.cpu() + p.beside.cpu()
	for time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tick):
		}
		now := p.control.cpu() + p.beside.cpu()
		if now-last <= tick/20 {
			return nil
		}
		last = now
	}
	return nil // a control plane that is never idle is measured with what it does
}

// measure puts a load on p, makes every change that it can, and reports each to done.
func (p *plane) measure(ctx context.Context, l load, connectTimed bool, done func(figures)) (err error) {
	f := &fleet{}
	defer f.close()
	for i := range l.sidecars {
		var token string
		if p.token != nil {
			if token, err = p.token(ctx, proxyID(i)); err != nil {
				return err
			}
		}
		s, err := dial(p.network, p.address, proxyID(i), token)
		if err != nil {
			return err
		}
		f.sidecars = append(f.sidecars, s)
	}
	if !connectTimed {
		if err := f.connect(ctx); err != nil {
			return err
		}
	}
	phase := func(name string, want expectation, change func(context.Context) (time.Time, error)) error {
		if change == nil {
			return nil
		}
		if err := p.settle(ctx, 15*time.Second); err != nil {
			return err
		}
		f.reset()
		own, beside, clients := p.control.cpu(), p.beside.cpu(), ownCPU()
		profiled := p.profiles.phase(ctx, l, name)
		since, err := change(ctx)
		if err != nil {
			return fmt.Errorf("%s, %s, %s: %w", p.name, l, name, err)
		}
		r, err := f.await(ctx, since, want)
		if err != nil {
			return fmt.Errorf("%s, %s, %s: %w", p.name, l, name, err)
		}
		r.plane, r.load, r.change = p.name, l, name
		r.cpu, r.beside, r.clients = p.control.cpu()-own, p.beside.cpu()-beside, ownCPU()-clients
		r.rss, r.rssBeside = p.control.rss(), p.beside.rss()
		done(r)
		return profiled()
	}
	users := l.users
	if users == 0 {
		users = l.sidecars
	}
	usual := expectation{sidecars: l.sidecars, quiet: 1500 * time.Millisecond, limit: 90 * time.Second}
	first := usual
	first.complete = true
	few := usual
	few.sidecars = users
	one := usual
	one.sidecars = 1
	jittered := usual
	jittered.quiet = 10 * time.Second
	jittered.limit = 4 * time.Minute
	start := func(context.Context) (time.Time, error) {
		at := time.Now()
		f.start(ctx)
		return at, nil
	}
	return errors.Join(
		phase(firstConfiguration, first, start),
		phase(oneEndpoint, few, p.endpoint),
		phase(wildcardIntention, usual, p.intention),
		phase(oneLeaf, one, p.leaf),
		phase(rootChange, jittered, p.root),
		phase(rootAdded, usual, p.roots),
		phase(leafsOfRoot, usual, p.newLeafs),
	)
}

// The changes, as they are called in the table.
const (
	firstConfiguration = "first configuration"
	oneEndpoint        = "one endpoint"
	wildcardIntention  = "wildcard intention"
	oneLeaf            = "one leaf"
	rootChange         = "root and leafs"
	rootAdded          = "another root"
	leafsOfRoot        = "leafs of the new root"
)
