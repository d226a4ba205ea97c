package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Implementations of interfaces that are declared where they are used.
var (
	_ catalog.Source  = (*files.Source)(nil)
	_ catalog.Source  = (*consul.Agent)(nil)
	_ sds.Source      = (*ca.Issuer)(nil)
	_ sds.Source      = (*consul.Agent)(nil)
	_ token.Authority = (*token.Issuer)(nil)
	_ token.Authority = (*consul.Agent)(nil)
)

// engine is where a control plane's knowledge comes from: files and a CA of its own, or the local Consul agent.
type engine struct {
	source       catalog.Source
	certificates sds.Source
	callers      token.Authorizer
	// recheck is how often the streams' callers are authorized again; 0: only when a stream opens.
	recheck time.Duration
	// background runs beside the source; nil: nothing does.
	background func(context.Context) error
	// trustDomain is the mesh's; ok is false as long as it is not known.
	trustDomain func() (td spiffeid.TrustDomain, ok bool)
	// mint makes a proxy's token; nil: proxies bring tokens of their own.
	mint     func(identity.ProxyID, time.Duration) (string, time.Time, error)
	reload   func()
	status   func() admin.Catalog
	notReady func() []string
	close    func() error
}

// filesEngine reads files and issues certificates and tokens itself.
func filesEngine(cfg serveConfig, log *slog.Logger, metrics prometheus.Registerer) (_ *engine, err error) {
	td, err := configuredTrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(cfg.Data, "ca"), TrustDomain: td, LeafTTL: cfg.LeafTTL, Logger: log, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, authority.Close())
		}
	}()
	td = authority.TrustDomain()
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: authority, TrustDomain: td, TTL: cfg.LeafTTL, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	fc, err := cfg.filesConfig(td)
	if err != nil {
		return nil, err
	}
	fc.PortsFile, fc.Logger, fc.Registerer = filepath.Join(cfg.Data, "sidecar-ports.json"), log, metrics
	source, err := files.New(fc)
	if err != nil {
		return nil, err
	}
	tokens, err := token.Open(token.Config{File: filepath.Join(cfg.Data, "token.key"), TrustDomain: td})
	if err != nil {
		return nil, err
	}
	return &engine{
		source: source, certificates: issuer, callers: token.Authorizer{Authority: tokens},
		background: func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return authority.Run(ctx) })
			g.Go(func() error { return issuer.Run(ctx) })
			return g.Wait()
		},
		trustDomain: func() (spiffeid.TrustDomain, bool) { return td, true },
		mint:        tokens.Mint, reload: source.Reload, close: authority.Close,
		status: func() admin.Catalog {
			s := source.Status()
			c := admin.Catalog{Source: "files: " + cfg.Catalog, LastLoaded: s.LastSuccess, Problems: s.Problems, Warnings: s.Warnings}
			if info, err := os.Stat(cfg.Catalog); err == nil && info.Mode().Perm()&0o002 != 0 {
				c.Warnings = append(slices.Clip(c.Warnings), cfg.Catalog+" may be written to by anybody, who can thereby let anybody in: chmod o-w "+cfg.Catalog)
			}
			return c
		},
		notReady: func() []string {
			if err := authority.Health(); err != nil {
				return []string{"the CA's state cannot be written: " + err.Error()}
			}
			return nil
		},
	}, nil
}

// recheckConsul is how often a stream's token is looked at again. With the half minute for which agents remember tokens, one that was
// deleted loses its streams within a minute.
const recheckConsul = 20 * time.Second

// openData makes the data directory, or takes the one there is, and keeps a second control plane out of it until release is called or the process
// ends. What is in it decides who is let in, so nobody else may write to it.
func openData(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := admin.CheckDir(dir); err != nil {
		return nil, fmt.Errorf("data %w (or choose another with --data)", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another sallyport uses it (stop that one, or choose another --data)")
		}
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", dir, err), d.Close())
	}
	return d.Close, nil
}

// consulSource is what a catalog's source begins with in the status if it is an agent of Consul's.
const consulSource = "consul agent "

// consulEngine reads the local agent, whose servers keep the CA and the tokens.
func consulEngine(cfg serveConfig, log *slog.Logger, metrics prometheus.Registerer) (*engine, error) {
	cc, err := cfg.consulConfig()
	if err != nil {
		return nil, err
	}
	cc.LKGFile, cc.Logger, cc.Registerer = filepath.Join(cfg.Data, "last-known-good.json"), log, metrics
	agent, err := consul.New(cc)
	if err != nil {
		return nil, err
	}
	return &engine{
		source: agent, certificates: agent, callers: token.Authorizer{Authority: agent}, recheck: recheckConsul, trustDomain: agent.TrustDomain,
		reload: func() {}, close: func() error { return nil },
		status: func() admin.Catalog {
			s := agent.Status()
			c := admin.Catalog{Source: consulSource + s.Agent, LastLoaded: s.LastContact, StaleSince: s.StaleSince}
			if s.Connected && s.StaleSince.IsZero() {
				c.LastLoaded = time.Now() // a query that blocks says that nothing has changed
			}
			for _, p := range s.Problems {
				c.Warnings = append(c.Warnings, p.String())
			}
			for _, f := range s.Filtered {
				c.Warnings = append(c.Warnings, "the token may not read all of "+f+" (`sallyport consul policy` prints what it needs)")
			}
			return c
		},
		notReady: func() []string {
			switch s := agent.Status(); {
			case !s.Connected:
				return []string{"the Consul agent " + s.Agent + " does not answer"}
			case !s.Settled:
				return []string{"what the proxies of this node need is still being read from the Consul agent " + s.Agent}
			}
			return nil
		},
	}, nil
}
