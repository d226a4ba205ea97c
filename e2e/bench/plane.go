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

// Who makes a configuration, as the table has it.
const (
	byThis   = "sallyport"
	byBase   = "base"
	byBare   = "bare sender"
	byConsul = "consul"
)

// plane is a control plane under load.
type plane struct {
	name             string
	network, address string // of its xDS server
	control          *process
	beside           *process // the Consul agent that it reads; nil: none, or it is the control plane
	token            func(ctx context.Context, proxyID string) (string, error)
	profiles         *profiler // nil: none are taken
	unconfigured     bool      // it has no first configuration
	changes          []change
	// repeat is how often each change is made that can be; in turns, as one makes the next one larger.
	repeat  int
	answers *answers // of the agent; nil: they are not looked at
	// scripts is where it is kept what changes with script were to the sidecars; nil: it is not.
	scripts *[]script
}

// change is something that a control plane can be made to tell its sidecars.
type change struct {
	name string
	// make makes it and returns when.
	make func(ctx context.Context) (time.Time, error)
	told int  // how many sidecars it is to reach
	slow bool // it is spread over time on purpose
	once bool // not repeated; and after those that are
	// script: it is worth a comparison with the bare sender.
	script bool
	answer string // the path of the agent's answer that tells of it; empty: none does
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

// filesPlane is sallyport, or the one that it is compared with, on a directory of files.
func filesPlane(ctx context.Context, o options, by, dir string, l load) (*plane, error) {
	catalog := filepath.Join(dir, "catalog")
	if err := os.MkdirAll(catalog, 0o700); err != nil {
		return nil, err
	}
	if err := l.write(catalog); err != nil {
		return nil, err
	}
	args := []string{"--catalog", catalog, "--trust-domain", benchDomain}
	p, client, err := serve(ctx, o.binary(by), dir, l, nil, args...)
	if err != nil {
		return nil, err
	}
	n := 0
	write := func(name string, v any, signal bool) (time.Time, error) {
		at := time.Now()
		err := writeJSON(filepath.Join(catalog, name), v)
		if err == nil && signal { // it spares the wait that sallyport gives a directory to be left alone
			err = p.Signal(syscall.SIGHUP)
		}
		return at, err
	}
	endpoint := func(signal bool) func(context.Context) (time.Time, error) {
		return func(context.Context) (time.Time, error) {
			n++
			d := define(60_000+n, "hub-0")
			d.ID = fmt.Sprintf("hub-0-%d", n)
			return write(d.ID+".json", map[string]any{"Services": []definition{d}}, signal)
		}
	}
	intention := func(signal bool) func(context.Context) (time.Time, error) {
		return func(context.Context) (time.Time, error) {
			n++
			return write(wildcardFile, wildcard(l.wildcards+n), signal)
		}
	}
	out := &plane{
		name: by, network: "unix", address: admin.XDSSocket(client.Dir()), control: p, repeat: 3,
		token: func(ctx context.Context, id string) (string, error) {
			r, err := client.Token(ctx, admin.TokenRequest{ProxyID: id})
			return r.Token, err
		},
		changes: []change{
			{name: oneEndpoint, make: endpoint(true), told: l.dialling(), script: true},
			{name: oneEndpoint + unsignalled, make: endpoint(false), told: l.dialling()},
			{name: wildcardIntention, make: intention(true), told: l.sidecars, script: true},
			{name: wildcardIntention + unsignalled, make: intention(false), told: l.sidecars},
			{name: oneLeaf, told: 1, once: true, make: func(ctx context.Context) (time.Time, error) {
				at := time.Now()
				_, err := client.Rotate(ctx, service(0))
				return at, err
			}},
		},
	}
	if by == byThis {
		out.profiles = newProfiler(o.profiles, admin.Socket(client.Dir()))
	}
	return out, nil
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
	if p.unconfigured {
		f.start(ctx)
	} else {
		first := change{name: firstConfiguration, told: l.sidecars}
		first.make = func(context.Context) (time.Time, error) {
			at := time.Now()
			f.start(ctx)
			return at, nil
		}
		if err := p.change(ctx, l, f, first, done); err != nil {
			return err
		}
	}
	for n := range p.repeat {
		for _, c := range p.changes {
			if c.once {
				continue
			}
			if err := p.change(ctx, l, f, c, done); err != nil {
				return fmt.Errorf("%w (made %d times before)", err, n)
			}
		}
	}
	for _, c := range p.changes {
		if !c.once {
			continue
		}
		if err := p.change(ctx, l, f, c, done); err != nil {
			return err
		}
	}
	return nil
}

// change makes one change and reports to done what it cost.
func (p *plane) change(
	ctx context.Context, l load, f *fleet, c change, done func(figures),
) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s, %s, %s: %w", p.name, l, c.name, err)
		}
	}()
	want := expectation{sidecars: c.told, quiet: 1500 * time.Millisecond, limit: 90 * time.Second}
	want.complete = c.name == firstConfiguration
	if c.slow {
		want.quiet, want.limit = 10*time.Second, 4*time.Minute
	}
	if err := p.settle(ctx, 15*time.Second); err != nil {
		return err
	}
	record := c.script && p.scripts != nil
	f.reset(record)
	own, beside, clients := p.control.cpu(), p.beside.cpu(), ownCPU()
	profiled := p.profiles.phase(ctx, l, c.name)
	since, err := c.make(ctx)
	if err != nil {
		return err
	}
	r, err := f.await(ctx, since, want)
	if err != nil {
		return err
	}
	if p.answers != nil && c.answer != "" {
		if r.answered, err = p.answers.after(since, c.answer); err != nil {
			return err
		}
	}
	if record {
		responses, err := f.recorded()
		if err != nil {
			return err
		}
		*p.scripts = append(*p.scripts, script{c.name, responses})
	}
	r.plane, r.load, r.change = p.name, l, c.name
	r.cpu, r.beside, r.clients = p.control.cpu()-own, p.beside.cpu()-beside, ownCPU()-clients
	r.rss, r.rssBeside = p.control.rss(), p.beside.rss()
	done(r)
	return profiled()
}

// The changes, as they are called in the table.
const (
	firstConfiguration = "first configuration"
	oneEndpoint        = "one endpoint"
	wildcardIntention  = "wildcard intention"
	unsignalled        = ", unsignalled" // the files are noticed, not told of
	oneLeaf            = "one leaf"
	rootChange         = "root and leafs"
	rootAdded          = "another root"
	leafsOfRoot        = "leafs of the new root"
	rootRetired        = "the old root leaves"
)
