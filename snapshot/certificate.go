package snapshot

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// leafKey is everything that the secret of a leaf depends on: a certificate has one key.
type leafKey struct {
	name string
	cert *x509.Certificate
}

// Trust is what certificates are verified with. It is comparable.
type Trust struct {
	// TrustDomain is whose it is.
	TrustDomain spiffeid.TrustDomain
	// Roots are PEM; not empty.
	Roots string
	// Depth is how many certificates a chain may have above its leaf, the root among them: what the
	// CA makes, so that no certificate that it has signed can sign another. 0: it is not known.
	Depth uint32
	// Intermediates: not all of Roots are self-signed, so that Envoy's SPIFFE validator, which ends at no intermediate, would refuse
	// the mesh's own. Nobody of other trust domains is let in beside them.
	Intermediates bool
}

// validationKey is everything that a validation context depends on. version is the hash of its
// peers.
type validationKey struct {
	name, version string
	trust         Trust
	others        string
}

// Leaf makes the secret s of a leaf's chain and key. All calls with the same certificate get the
// same resource, as long as it is referenced.
func (c *Cache) Leaf(s Secret, chain []*x509.Certificate, key crypto.Signer) (*discoveryv3.Resource, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("secret %s: no certificate", s.Name)
	}
	k := leafKey{s.Name, chain[0]}
	if r := c.leafs.Get(k); r != nil {
		return r, nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		// The error may quote what it was given; the type is all that helps.
		return nil, fmt.Errorf("secret %s: a private key of type %T cannot be handed to Envoy", s.Name, key)
	}
	var text []byte
	for _, cert := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	r, err := c.pack(&tlsv3.Secret{
		Name: s.Name,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(string(text)),
			PrivateKey:       inline(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
		}},
	})
	if err != nil {
		return nil, err
	}
	return c.leafs.Keep(k, r), nil
}

// Validation makes the secret s, a validation context of t and s.Peers. Equal calls get the same
// resource, as long as it is referenced. The secrets "roots" and "roots/…" have no SANs, as their
// users have their own; for any other name an empty list is an error, since to Envoy it means
// everybody. others are what is known of the other trust domains that s names, in order; nobody of one that is
// missing is let in.
func (c *Cache) Validation(s Secret, t Trust, others ...Trust) (*discoveryv3.Resource, error) {
	listless := s.Name == identity.RootsSecret || !s.TrustDomain.IsZero()
	var problem error
	switch {
	case t.Roots == "":
		problem = errors.New("no roots")
	case s.Version == "":
		problem = errors.New("no version")
	case listless && len(s.Peers) > 0:
		// Envoy joins the two lists to one in which any match lets in.
		problem = errors.New("its users say who passes, so it has no list of its own")
	case !listless && len(s.Peers) == 0:
		problem = errors.New("an empty list of peers would let in everybody")
	}
	if problem != nil {
		return nil, fmt.Errorf("validation context %q: %w", s.Name, problem)
	}
	k := validationKey{name: s.Name, version: s.Version, trust: t}
	for _, o := range others {
		k.others += o.TrustDomain.Name() + "\n" + o.Roots
	}
	if r := c.validations.Get(k); r != nil {
		return r, nil
	}
	p := packer{cache: c}
	r := p.resource(s.Name, &tlsv3.Secret{
		Name: s.Name,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: withFields(p.context(s, t, others), s.Peers)},
	})
	if err := p.err(); err != nil {
		return nil, err
	}
	return c.validations.Keep(k, r), nil
}

func (c *Cache) pack(s *tlsv3.Secret) (*discoveryv3.Resource, error) {
	p := packer{cache: c}
	r := p.resource(s.GetName(), s)
	if err := p.err(); err != nil {
		return nil, err
	}
	return r, nil
}

func inline(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}
