package workload

import (
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// answer is what a process is told at one time. It is immutable, and shared by all streams of the
// same user with the same identities.
type answer struct {
	svids []svid // sorted by service; the first one is the default
	roots *sds.Roots
	// bundle is the roots in DER, one after the other.
	bundle []byte
	// foreign are the bundles of other trust domains. Each verifies its own identities and no others.
	foreign *bundle.Set
}

// svid is a leaf as it is sent.
type svid struct {
	id    identity.Service
	uri   string
	leaf  *x509.Certificate
	chain []byte // DER, the leaf first, without the root
	key   []byte // PKCS #8
	raw   *sds.SVID
}

func newSVID(id identity.Service, s *sds.SVID) (svid, error) {
	key, err := x509.MarshalPKCS8PrivateKey(s.PrivateKey)
	if err != nil {
		// The error may quote what it was given; the type is all that helps.
		return svid{}, fmt.Errorf("leaf of %s: a private key of type %T cannot be handed out", id.Service, s.PrivateKey)
	}
	out := svid{id: id, uri: id.String(), leaf: s.Certificates[0], key: key, raw: s}
	for _, c := range s.Certificates {
		out.chain = append(out.chain, c.Raw...)
	}
	return out, nil
}

// String is the SPIFFE ID; the key is never printed.
func (s svid) String() string { return s.uri }

// GoString is String.
func (s svid) GoString() string { return s.uri }

func bundleOf(r *sds.Roots) (der []byte) {
	for _, root := range r.List() {
		der = append(der, root.Certificate.Raw...)
	}
	return der
}

// same reports whether who was told a need not be told o.
func (a *answer) same(o *answer) bool {
	return a != nil && a.roots == o.roots && a.foreign == o.foreign && slices.EqualFunc(a.svids, o.svids, func(x, y svid) bool { return x.raw == y.raw && x.id == y.id })
}

// of is the bundle of the other trust domain with an ID as "spiffe://td-b.example"; nil: there is none.
func (a *answer) of(id string) *bundle.Bundle {
	for _, b := range a.foreign.All() {
		if b.TrustDomain.IDString() == id {
			return b
		}
	}
	return nil
}
