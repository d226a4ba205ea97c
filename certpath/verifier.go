package certpath

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Verifier verifies chains under one bundle. All leafs of a CA come with the same certificates, so what is above a leaf is verified once
// and remembered as long as it is valid: a leaf then costs one signature. It may be used by several goroutines.
type Verifier struct {
	bundle []*x509.Certificate

	mu    sync.Mutex
	known []*upper // the oldest first
}

// maxKnown is how many are remembered: a CA signs with one intermediate, after its renewal with two for a while, and during a rotation each
// may come with a cross-signed root or without.
const maxKnown = 8

// NewVerifier returns a Verifier of those who trust bundle, which is not changed and must not be.
func NewVerifier(bundle []*x509.Certificate) *Verifier { return &Verifier{bundle: bundle} }

// Verify is VerifyChain.
func (v *Verifier) Verify(chain []*x509.Certificate, want Wanted) error {
	if u := v.above(chain); u != nil && u.vouches(chain, want) {
		if err := verifyOne(chain, 0, want); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalid, place(chain[0], chain), err)
		}
		return nil
	}
	u, err := verifyPath(chain, v.bundle, want)
	if err == nil {
		v.remember(u)
	}
	return err
}

// above is what is known of the certificates above a leaf; nil: nothing.
func (v *Verifier) above(chain []*x509.Certificate) *upper {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.IndexFunc(v.known, func(u *upper) bool { return u.of(chain) }); i >= 0 {
		return v.known[i]
	}
	return nil
}

// remember keeps u, unless name constraints are to be verified with each leaf.
func (v *Verifier) remember(u *upper) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if u.constrained || selfIssued(u.leaf) || slices.ContainsFunc(v.known, func(o *upper) bool { return o.of(append([]*x509.Certificate{u.leaf}, u.chain...)) }) {
		return
	}
	if v.known = append(v.known, u); len(v.known) > maxKnown {
		v.known = slices.Delete(v.known, 0, 1)
	}
}

// upper is what is above leafs that name their signer alike and come with the same certificates: verifiers take the same way from all.
type upper struct {
	// leaf is one of them.
	leaf *x509.Certificate
	// chain is what comes with it.
	chain []*x509.Certificate
	// signers are those that verifiers take for the leaf's: one of the chain, or the roots that fit.
	signers []*x509.Certificate
	// notBefore and notAfter bound the time at which all are valid, the roots among them.
	notBefore, notAfter time.Time
	constrained         bool
}

func newUpper(chain []*x509.Certificate) *upper {
	u := &upper{leaf: chain[0], chain: slices.Clone(chain[1:])}
	u.needs(u.chain...)
	return u
}

// needs bounds u by the lives of certificates.
func (u *upper) needs(certs ...*x509.Certificate) {
	for _, c := range certs {
		if u.notBefore.IsZero() || c.NotBefore.After(u.notBefore) {
			u.notBefore = c.NotBefore
		}
		if u.notAfter.IsZero() || c.NotAfter.Before(u.notAfter) {
			u.notAfter = c.NotAfter
		}
	}
}

// of reports whether u is what is above chain's leaf.
func (u *upper) of(chain []*x509.Certificate) bool {
	return len(chain) > 0 && bytes.Equal(chain[0].RawIssuer, u.leaf.RawIssuer) &&
		bytes.Equal(extension(chain[0], authorityKeyID), extension(u.leaf, authorityKeyID)) &&
		!selfIssued(chain[0]) && slices.EqualFunc(chain[1:], u.chain, (*x509.Certificate).Equal)
}

// vouches reports whether the leaf of chain, which u is above, was signed as it is to be.
func (u *upper) vouches(chain []*x509.Certificate, want Wanted) bool {
	leaf := chain[0]
	if constrained(leaf) || want.Now.Before(u.notBefore) || !want.Now.Before(u.notAfter) || !want.Outlives && leaf.NotAfter.After(u.notAfter) {
		return false
	}
	return !slices.ContainsFunc(u.signers, func(signer *x509.Certificate) bool { return verifyLink(leaf, signer) != nil })
}
