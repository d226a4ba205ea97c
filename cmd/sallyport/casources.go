package main

import (
	"context"
	"fmt"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/ca/plugin"
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
			distrust(ctx, p.log, c, name, v.Distrusted())
			return nil
		})
	}
}
