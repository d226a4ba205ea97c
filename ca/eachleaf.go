package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// errNoCSR is that a leaf is to be signed elsewhere since a moment ago, for which its request has to be whole.
var errNoCSR = errors.New("the request is not signed by its key")

// each is the provider that signs each leaf; ok is false if leafs are signed here.
func (c *CA) each() (u UpstreamConfig, ok bool) {
	u = c.cfg.Upstreams[c.authority.record().Provider]
	return u, u.EachLeaf
}

// WantsCSR implements Provider.
func (c *CA) WantsCSR() bool {
	_, each := c.each()
	return each
}

// Sign implements Provider.
func (c *CA) Sign(ctx context.Context, csr *x509.CertificateRequest, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	u, each := c.each()
	if !each {
		return c.authority.issue(leafProfile(), id, csr.PublicKey, ttl, c.cfg.now())
	}
	if len(csr.Raw) == 0 {
		return nil, errNoCSR
	}
	chain, err := u.Upstream.Sign(ctx, UpstreamRequest{CSR: csr.Raw, Leaf: true, ID: id, TTL: ttl})
	if err != nil {
		return nil, err
	}
	return c.verified(chain, certpath.Wanted{ID: id, Key: csr.PublicKey, Now: c.cfg.now()})
}

// verified is a leaf that a provider has signed, with the old root's signature of the new one if there is one, if peers accept it: under
// the roots of which they were told, or which the old root has signed.
func (c *CA) verified(chain []*x509.Certificate, want certpath.Wanted) ([]*x509.Certificate, error) {
	a := c.authority
	rec := a.record()
	cross := rec.cross(want.Now, a.leafTTL)
	told, _ := certpath.Bundle(rec.certificates(func(r anchor) bool { return r.Told || r.State == active }), true, want.Now)
	if cross != nil && len(chain) > 0 {
		if crossed := append(slices.Clone(chain), cross); certpath.VerifyChain(crossed, told, want) == nil {
			return crossed, nil
		}
	}
	if err := certpath.VerifyChain(chain, told, want); err != nil {
		if everything, _ := certpath.Bundle(rec.certificates(all), true, want.Now); certpath.VerifyChain(chain, everything, want) == nil {
			return nil, fmt.Errorf("%w: %s signs under a root of which not all are told yet: the last leaf stays", ErrUnavailable, rec.Provider)
		}
		return nil, err
	}
	if root := anchorOf(chain, rec.certificates(all)); root != nil && rec.Active != fingerprint(root) {
		a.mu.Lock()
		c.askNow = true // Run finds that it signs under another root
		a.unlock()
		c.signal()
	}
	return chain, nil
}
