package sds

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"weak"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TypeURL is the xDS type of what this package makes.
const TypeURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Bundles are the roots that certificates are verified with, at one time. They are immutable but for what Validation and the verification of
// leafs remember.
type Bundles struct {
	trustDomain spiffeid.TrustDomain
	pool        *x509.CertPool
	pem         []byte // all roots, sorted

	mu sync.Mutex
	// made holds the validation contexts that somebody still uses: intentions change for years under the same roots.
	made  map[validationKey]weak.Pointer[discoveryv3.Resource]
	sweep int // the size of made at which those that nobody uses are dropped
	// anchors are intermediates that were verified with these roots.
	anchors []*anchor
}

type validationKey struct{ name, version string }

const firstSweep = 64

// newBundles returns an error if certificates verified with set would not mean what they should. One trust domain is what Envoy's
// plain trusted_ca can tell apart: in a pool of several, the CA of each could speak for the others.
func newBundles(set *x509bundle.Set, now time.Time) (*Bundles, error) {
	if set == nil || set.Len() == 0 {
		return nil, errors.New("no roots")
	}
	if n := set.Len(); n > 1 {
		return nil, fmt.Errorf("roots of %d trust domains, of which each could issue certificates in the name of the others: one is supported", n)
	}
	bundle := set.Bundles()[0]
	roots := slices.Clone(bundle.X509Authorities())
	slices.SortFunc(roots, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	roots = slices.CompactFunc(roots, (*x509.Certificate).Equal)

	b := &Bundles{
		trustDomain: bundle.TrustDomain(),
		pool:        x509.NewCertPool(),
		made:        make(map[validationKey]weak.Pointer[discoveryv3.Resource]),
		sweep:       firstSweep,
	}
	valid := false
	for _, root := range roots {
		if !root.BasicConstraintsValid || !root.IsCA || (root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0) {
			return nil, fmt.Errorf("roots of %s: the certificate with serial number %x is not a CA's", b.trustDomain, root.SerialNumber)
		}
		valid = valid || !now.Before(root.NotBefore) && now.Before(root.NotAfter)
		b.pool.AddCert(root)
		b.pem = append(b.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	if !valid {
		return nil, fmt.Errorf("roots of %s: none of %d is valid at %s: is the clock right?", b.trustDomain, len(roots), now.UTC().Format(time.RFC3339))
	}
	return b, nil
}

func (b *Bundles) same(o *Bundles) bool {
	return b.trustDomain == o.trustDomain && bytes.Equal(b.pem, o.pem)
}

// TrustDomain is whose roots they are.
func (b *Bundles) TrustDomain() spiffeid.TrustDomain { return b.trustDomain }

// String is the trust domain alone.
func (b *Bundles) String() string { return "roots of " + b.trustDomain.Name() }

// Validation returns the secret name, a validation context of the roots and of who passes: a peer whose certificate has one of sans.
// version stands for sans (their hash): all who ask for the same name and version get the same resource, as long as one of them holds
// on to it. The secret "roots" has no sans, as its users say beside it who passes; for any other name an empty list is an error,
// since Envoy takes it to mean everybody. sans are not changed or kept.
func (b *Bundles) Validation(name string, sans []*tlsv3.SubjectAltNameMatcher, version string) (*discoveryv3.Resource, error) {
	switch {
	case name == "":
		return nil, errors.New("validation context without a name")
	case version == "":
		return nil, fmt.Errorf("validation context %s: no version", name)
	case name == identity.RootsSecret && len(sans) > 0:
		// Envoy joins the two lists to one in which any match lets in.
		return nil, fmt.Errorf("validation context %s: its users say who passes, so it has no list of its own", name)
	case name != identity.RootsSecret && len(sans) == 0:
		return nil, fmt.Errorf("validation context %s: an empty list of peers would let in everybody", name)
	case slices.Contains(sans, nil):
		return nil, fmt.Errorf("validation context %s: the list of peers has an empty entry", name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := validationKey{name, version}
	if r := b.made[key].Value(); r != nil {
		return r, nil
	}
	r, err := pack(&tlsv3.Secret{
		Name: name,
		Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 inline(b.pem),
			MatchTypedSubjectAltNames: sans,
		}},
	})
	if err != nil {
		return nil, err
	}
	if len(b.made) >= b.sweep {
		for k, p := range b.made {
			if p.Value() == nil {
				delete(b.made, k)
			}
		}
		b.sweep = max(firstSweep, 2*len(b.made))
	}
	b.made[key] = weak.Make(r)
	return r, nil
}

// pack makes a resource of a secret. Its version is the hash of its bytes, so it is the same after a restart.
func pack(s *tlsv3.Secret) (*discoveryv3.Resource, error) {
	if err := s.ValidateAll(); err != nil {
		return nil, fmt.Errorf("secret %s: %w", s.GetName(), err)
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", s.GetName(), err)
	}
	sum := sha256.Sum256(value)
	return &discoveryv3.Resource{
		Name:     s.GetName(),
		Version:  hex.EncodeToString(sum[:]),
		Resource: &anypb.Any{TypeUrl: TypeURL, Value: value},
	}, nil
}
