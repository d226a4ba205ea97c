package xds

import (
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
)

// trust is what Envoys verify certificates of one trust domain with.
func trust(r *sds.Roots) snapshot.Trust {
	return snapshot.Trust{TrustDomain: r.TrustDomain(), Roots: r.PEM(), Depth: r.Depth(), Intermediates: !r.SelfSigned()}
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

// warnOfIntermediates says that nobody of other trust domains can be let in, where that is so.
func (p *publisher) warnOfIntermediates() {
	if len(p.federated) > 0 && p.bundles != nil && !p.bundles.SelfSigned() {
		p.server.log.Error("nobody of other trust domains is let in: a root of this mesh is not self-signed, and Envoys that keep trust domains apart end at no intermediate: "+
			"have the CA name its self-signed root", "trust_domain", p.bundles.TrustDomain().Name())
	}
}

// concernedByOthers reports whether a session has secrets that name other trust domains, whose bundles
// are others by now.
func (p *publisher) concernedByOthers(n *session) bool {
	return !slices.Equal(n.published.federated, p.federated) && slices.ContainsFunc(n.published.secrets, func(s snapshot.Secret) bool {
		return len(s.Federated) > 0 || !s.TrustDomain.IsZero()
	})
}
