package main

import (
	"context"

	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// federate has the catalog, and what verifies for Envoys, follow the bundles of other trust domains. It begins before the catalog
// is read, so that a restart holds up nobody of a domain whose bundle is kept.
func (p *controlPlane) federate() {
	sets := p.domains.Sets()
	take := func() {
		set, _ := sets.Load()
		var roots []*sds.Roots
		var names []spiffeid.TrustDomain
		for _, b := range set.All() {
			roots, names = append(roots, b.Roots), append(names, b.TrustDomain)
		}
		p.federated.Set(roots)
		p.store.Federate(names)
	}
	take()
	p.runs = append(p.runs, func(ctx context.Context) error {
		for {
			changed := sets.Changed()
			take()
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	})
}
