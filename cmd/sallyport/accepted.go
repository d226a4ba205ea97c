package main

import (
	"context"
	"path/filepath"

	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/sds"
)

// openAcceptance opens the record of who has accepted which roots and leafs.
func (p *controlPlane) openAcceptance() error {
	record, err := acceptance.Open(acceptance.Config{
		File: filepath.Join(p.cfg.Data, "accepted-certificates"), Roots: p.roots, Issued: p.issued.Leafs(func(issuance.Leaf) bool { return true }),
		Proxies: p.proxies, Life: p.cfg.leafTTL(), Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	p.accepted = record
	p.checks = append(p.checks, record.Health)
	p.runs = append(p.runs, func(ctx context.Context) error {
		// Something is given and accepted until the servers have ended, and what is not written is not known at the next start.
		running, end := context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		context.AfterFunc(ctx, func() {
			<-p.served
			end()
		})
		return record.Run(running)
	})
	return nil
}

// roots are those of the mesh; ok is false as long as they are not known.
func (p *controlPlane) roots() (r *sds.Roots, ok bool) {
	if p.secrets == nil { // it is opened later
		return nil, false
	}
	return p.secrets.Roots()
}

// proxies are those of the catalog.
func (p *controlPlane) proxies() (all []identity.ProxyID) {
	if v, ok := p.store.Views.Load(); ok {
		for w := range v.Proxies() {
			all = append(all, w.ID)
		}
	}
	return all
}
