package bundle

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bundle is what the identities of one other trust domain are verified with now. It is immutable, and stays the same one while it says the
// same.
type Bundle struct {
	// TrustDomain is whose it is.
	TrustDomain spiffeid.TrustDomain
	// Roots are self-signed and valid, at least one; of each name and key there is one. Which of them signs is not known.
	Roots *sds.Roots
	// JWTKeys is a JWK set of its keys of JWT-SVIDs. Nil: it has none.
	JWTKeys []byte
}

// Set is the bundles of all other trust domains of which there is a usable one. It is immutable, and nil is the empty one.
type Set struct{ list []*Bundle }

// All are the bundles, sorted by trust domain. The list must not be changed.
func (s *Set) All() []*Bundle {
	if s == nil {
		return nil
	}
	return s.list
}

// Of is the bundle of a trust domain; nil: there is none, and nobody of it can be let in.
func (s *Set) Of(td spiffeid.TrustDomain) *Bundle {
	for _, b := range s.All() {
		if b.TrustDomain == td {
			return b
		}
	}
	return nil
}

// Without is s less the bundle of a trust domain, and s itself if there is none. Who knows which is the mesh's own takes that one out: a
// Store may hear of it after a file has named it.
func (s *Set) Without(td spiffeid.TrustDomain) *Set {
	if s.Of(td) == nil {
		return s
	}
	return &Set{list: slices.DeleteFunc(slices.Clone(s.list), func(b *Bundle) bool { return b.TrustDomain == td })}
}

// same reports whether s and o have the same bundles, each of which stays the same one while it says the same.
func (s *Set) same(o *Set) bool { return s != nil && o != nil && slices.Equal(s.list, o.list) }

// lastMinute is how long before its end a root leaves: who verifies with it has to hear of it before.
const lastMinute = time.Minute

// newBundle is what of a document is used at now, old if that says the same. Nil: nothing is. left are the certificates that are not.
func newBundle(d *Document, old *Bundle, now time.Time) (b *Bundle, left []certpath.LeftOut) {
	roots, left := usable(d, now)
	if len(roots) == 0 {
		return nil, left
	}
	list := make([]sds.Root, len(roots))
	for i, c := range roots {
		sum := sha256.Sum256(c.Raw)
		list[i] = sds.Root{ID: hex.EncodeToString(sum[:]), Certificate: c}
	}
	b = &Bundle{TrustDomain: d.trustDomain, Roots: sds.NewRoots(d.trustDomain, "", list)}
	if len(d.keys) > 0 {
		b.JWTKeys, _ = json.Marshal(jose.JSONWebKeySet{Keys: jwtKeys(d.keys)}) // they were parsed from one
	}
	if old != nil && old.Roots.PEM() == b.Roots.PEM() && string(old.JWTKeys) == string(b.JWTKeys) {
		return old, left
	}
	return b, left
}

// usable are the certificates of a document that verifiers are given at now, and those that they are not.
func usable(d *Document, now time.Time) (roots []*x509.Certificate, left []certpath.LeftOut) {
	var lasting []*x509.Certificate
	for _, c := range d.authorities {
		if end := c.NotAfter; now.Before(end) && !end.After(now.Add(lastMinute)) {
			left = append(left, certpath.LeftOut{Certificate: c, Reason: "it ends within a minute"})
			continue
		}
		lasting = append(lasting, c)
	}
	roots, more := certpath.Bundle(lasting, true, now)
	return roots, append(left, more...)
}

// validUntil is the first moment after now at which other certificates of d are usable.
func validUntil(d *Document, now time.Time) time.Time {
	first := now.Add(24 * time.Hour)
	for _, c := range d.authorities {
		for _, t := range []time.Time{c.NotBefore, c.NotAfter.Add(-lastMinute)} {
			if t.After(now) && t.Before(first) {
				first = t
			}
		}
	}
	return first
}
