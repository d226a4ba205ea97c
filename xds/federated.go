package xds

import (
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
)

// trust is what Envoys verify certificates of one trust domain with.
func trust(r *sds.Roots) snapshot.Trust {
	return snapshot.Trust{TrustDomain: r.TrustDomain(), Roots: r.PEM(), Depth: r.Depth()}
}

// validation makes a secret that certificates are verified with. Of a trust domain without a bundle
// it lets nobody in. What another source says of the mesh's own trust domain is never taken.
func (p *publisher) validation(secret snapshot.Secret, own *sds.Roots) (*discoveryv3.Resource, error) {
	named := secret.Federated
	if !secret.TrustDomain.IsZero() {
		named = append(slices.Clone(named), secret.TrustDomain)
	}
	var others []snapshot.Trust
	for _, td := range named {
		for _, r := range p.federated {
			if r.TrustDomain() == td && td != own.TrustDomain() {
				others = append(others, trust(r))
			}
		}
	}
	return p.cache.Validation(secret, trust(own), others...)
}

// concernedByOthers reports whether a session has secrets that name other trust domains, whose bundles
// are others by now.
func (p *publisher) concernedByOthers(n *session) bool {
	return !slices.Equal(n.published.federated, p.federated) && slices.ContainsFunc(n.published.secrets, func(s snapshot.Secret) bool {
		return len(s.Federated) > 0 || !s.TrustDomain.IsZero()
	})
}
