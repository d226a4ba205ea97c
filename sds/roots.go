package sds

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Root is a root certificate.
type Root struct {
	// ID is what its source calls it. Not empty; several certificates may share one.
	ID          string
	Certificate *x509.Certificate
}

// Roots are what the leafs of a trust domain are verified with, at one time. They are immutable but
// for a cache of verified intermediates, and nil stands for none.
type Roots struct {
	trustDomain spiffeid.TrustDomain
	active      *Root
	activeID    string
	list        []Root // sorted by certificate
	pem         string
	depth       uint32
	selfSigned  bool
	// verifier remembers the intermediates that were verified with these roots.
	verifier *certpath.Verifier
}

// NewRoots are the roots of one trust domain: in a pool of several, the CA of each could speak for
// the others, as Envoy's trusted_ca cannot tell them apart. active is the ID of the one under which
// leafs are signed now; empty: it is not known. NewRoots checks nothing: Credentials check the
// roots that they receive. list is not changed or kept.
func NewRoots(td spiffeid.TrustDomain, active string, list []Root) *Roots {
	r := &Roots{trustDomain: td, activeID: active}
	if i := slices.IndexFunc(list, func(root Root) bool { return root.ID == active }); i >= 0 {
		root := list[i]
		r.active = &root
	}
	r.list = slices.SortedFunc(slices.Values(list), func(a, b Root) int {
		return bytes.Compare(a.Certificate.Raw, b.Certificate.Raw)
	})
	r.list = slices.CompactFunc(r.list, func(a, b Root) bool { return a.Certificate.Equal(b.Certificate) })
	var text []byte
	certs := make([]*x509.Certificate, 0, len(r.list))
	r.selfSigned = true
	for _, root := range r.list {
		r.selfSigned = r.selfSigned && certpath.SelfSigned(root.Certificate)
		certs = append(certs, root.Certificate)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate.Raw})...)
	}
	r.pem, r.verifier = string(text), certpath.NewVerifier(certs)
	return r
}

// Within is r with the number of certificates that a chain may have above its leaf, the root among
// them. It is called before anybody else has r.
func (r *Roots) Within(depth uint32) *Roots {
	r.depth = depth
	return r
}

// TrustDomain is whose roots they are.
func (r *Roots) TrustDomain() spiffeid.TrustDomain { return r.trustDomain }

// Depth is what Within was told; 0: it is not known how long chains are.
func (r *Roots) Depth() uint32 { return r.depth }

// SelfSigned reports whether all are self-signed. Others' CAs, as Consul's may be, can be intermediates.
func (r *Roots) SelfSigned() bool { return r.selfSigned }

// check returns an error if leafs must not be verified with r: a root that is not a CA's, or none
// that is valid.
func (r *Roots) check(now time.Time) error {
	if r == nil || len(r.list) == 0 {
		return errors.New("no roots")
	}
	valid := false
	for _, root := range r.list {
		c := root.Certificate
		if !c.BasicConstraintsValid || !c.IsCA || (c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0) {
			return fmt.Errorf("roots of %s: the certificate %s with serial number %x is not a CA's", r.trustDomain, root.ID, c.SerialNumber)
		}
		valid = valid || !now.Before(c.NotBefore) && now.Before(c.NotAfter)
	}
	if !valid {
		return fmt.Errorf("roots of %s: none of %d is valid at %s: is the clock right?", r.trustDomain, len(r.list), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func (r *Roots) same(o *Roots) bool {
	return r.trustDomain == o.trustDomain && r.activeID == o.activeID && r.pem == o.pem && r.depth == o.depth
}

// Active returns the root under which leafs are signed now; ok is false if that is not known.
func (r *Roots) Active() (root Root, ok bool) {
	if r.active == nil {
		return Root{}, false
	}
	return *r.active, true
}

// List is all roots, sorted by certificate. It must not be changed.
func (r *Roots) List() []Root { return r.list }

// PEM is all certificates, sorted: equal roots have the same text.
func (r *Roots) PEM() string { return r.pem }

// String is the trust domain alone.
func (r *Roots) String() string { return "roots of " + r.trustDomain.Name() }
