package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/ca/plugin"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// providers are the CAs that may sign.
type providers struct {
	settings  caSettings
	upstreams map[string]ca.UpstreamConfig
	plugins   map[string]*plugin.CA
}

// openProviders makes the providers that are configured, and says what of the configuration means nothing.
func (p *controlPlane) openProviders(s caSettings, td spiffeid.TrustDomain) (providers, error) {
	out := providers{settings: s, upstreams: map[string]ca.UpstreamConfig{}, plugins: map[string]*plugin.CA{}}
	for _, note := range s.notes {
		p.log.Warn("a key of the configuration means nothing here", "reason", note)
	}
	asked, err := remote.NewMetrics(p.metrics)
	if err != nil {
		return out, err
	}
	questions, err := plugin.NewMetrics(p.metrics)
	if err != nil {
		return out, err
	}
	for _, c := range s.providers {
		o, err := c.open(td, p.log, asked, questions)
		if err != nil {
			return out, fmt.Errorf("provider %s: %w", c.name, err)
		}
		out.upstreams[c.name] = o.UpstreamConfig
		p.closers = append(p.closers, o.close)
		if o.run != nil {
			p.runs = append(p.runs, o.run)
		}
		if o.plugin != nil {
			out.plugins[c.name] = o.plugin
		}
	}
	return out, nil
}

// follow says that another CA signs than the configuration names, and has roots leave that a plug-in distrusts.
func (o providers) follow(p *controlPlane, c *ca.CA) {
	if now := c.Status().Provider; p.cfg.CAProvider != "" && now != o.settings.provider {
		p.log.Warn("ca_provider is for a new mesh, and another CA signs in this one: `sallyport ca rotate --to` changes it", "source", now, "destination", o.settings.provider)
	}
	for name, v := range o.plugins {
		p.runs = append(p.runs, func(ctx context.Context) error {
			v.Distrusted().Watch(ctx, func(roots [][sha256.Size]byte) { p.distrust(ctx, name, roots, c) })
			return nil
		})
	}
}

// distrustRetry is how often it is tried to have a root leave.
const distrustRetry = 10 * time.Second

// distrust begins a rotation in which nobody is waited for, or has the one that runs wait for nobody, until none of the provider's roots is one of roots.
func (p *controlPlane) distrust(ctx context.Context, name string, roots [][sha256.Size]byte, c *ca.CA) {
	var told time.Time // of which rotation
	for {
		s := c.Status()
		trusted := slices.ContainsFunc(s.Roots, func(r ca.RootStatus) bool {
			return r.Provider == name && slices.ContainsFunc(roots, func(sum [sha256.Size]byte) bool { return r.SHA256 == hex.EncodeToString(sum[:]) })
		})
		if !trusted {
			return
		}
		var err error
		switch {
		case s.Rotation != nil && s.Rotation.Started.Equal(told):
		case s.Rotation != nil:
			if err = c.Distrust(); err == nil {
				told = s.Rotation.Started
			}
		case s.Provider == name:
			err = c.Rotate(ca.RotateOptions{To: name, Distrust: true, Reason: "the provider distrusts its root"})
		}
		if err != nil {
			p.log.Error("a root that its provider distrusts cannot leave", "source", name, "err", err)
		}
		if !backoff.Sleep(ctx, distrustRetry) {
			return
		}
	}
}
