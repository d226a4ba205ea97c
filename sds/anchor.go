package sds

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// anchor is an intermediate certificate whose chain to a root was verified, for clients and for
// servers.
type anchor struct {
	cert                *x509.Certificate
	pool                *x509.CertPool // cert alone
	notBefore, notAfter time.Time      // when all certificates of the chain are valid
}

// maxAnchors is how many are remembered: a CA signs with one intermediate, and for a while after
// its renewal with two.
const maxAnchors = 4

// verify returns an error unless leaf, with the intermediates that come with it, chains to a root
// for both server and client use.
//
// All leafs of a CA come with the same intermediate. Verifying its signature is half the cost of
// verifying a leaf, so it is done once; then the intermediate takes the root's place in the same
// check, as long as it and its root are valid. A leaf that does not pass this way has to pass the
// whole check.
func (r *Roots) verify(leaf *x509.Certificate, intermediates []*x509.Certificate, now time.Time) error {
	options := x509.VerifyOptions{CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if a := r.anchorOf(intermediates, now); a != nil {
		options.Roots = a.pool
		if chains, err := leaf.Verify(options); err == nil && slices.ContainsFunc(chains, forClients) {
			return nil
		}
	}
	options.Roots, options.Intermediates = r.pool, x509.NewCertPool()
	for _, cert := range intermediates {
		options.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return fmt.Errorf("as a server: %w", err)
	}
	// A client's chain differs in the usage alone, so the signatures need no second verification.
	i := slices.IndexFunc(chains, forClients)
	if i < 0 {
		return fmt.Errorf("as a client: %w", x509.CertificateInvalidError{Cert: leaf, Reason: x509.IncompatibleUsage})
	}
	if len(intermediates) == 1 {
		r.remember(chains[i])
	}
	return nil
}

// anchorOf returns the anchor of a leaf's only intermediate, if it is valid at now; nil: there is
// none.
func (r *Roots) anchorOf(intermediates []*x509.Certificate, now time.Time) *anchor {
	if len(intermediates) != 1 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.anchors {
		if a.cert.Equal(intermediates[0]) && !now.Before(a.notBefore) && !now.After(a.notAfter) {
			return a
		}
	}
	return nil
}

// remember makes the intermediate of a verified chain an anchor, unless it or its root has name
// constraints: those have to be checked with each leaf.
func (r *Roots) remember(chain []*x509.Certificate) {
	if len(chain) != 3 || constrained(chain[1]) || constrained(chain[2]) {
		return
	}
	a := &anchor{cert: chain[1], pool: x509.NewCertPool(), notBefore: chain[1].NotBefore, notAfter: chain[1].NotAfter}
	a.pool.AddCert(a.cert)
	if root := chain[2]; root.NotBefore.After(a.notBefore) {
		a.notBefore = root.NotBefore
	}
	if root := chain[2]; root.NotAfter.Before(a.notAfter) {
		a.notAfter = root.NotAfter
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.anchors, func(o *anchor) bool { return o.cert.Equal(a.cert) }) {
		return
	}
	if r.anchors = append(r.anchors, a); len(r.anchors) > maxAnchors {
		r.anchors = slices.Delete(r.anchors, 0, 1)
	}
}

// constrained reports whether cert limits the names of those below it.
func constrained(c *x509.Certificate) bool {
	return c.PermittedDNSDomainsCritical ||
		len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
			len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0
}

// forClients reports whether every certificate of a chain, from the leaf to the root, may be used
// for authenticating clients, as Verify looks at usages: one that names none is for all of them
// (RFC 5280, 4.2.1.12).
func forClients(chain []*x509.Certificate) bool {
	for _, cert := range chain {
		all := len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0
		if !all && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			return false
		}
	}
	return true
}
