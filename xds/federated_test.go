package xds

import (
	"crypto/x509"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestFederatedValidation: of other trust domains each has its own roots; of one without a bundle nobody is let in, and what is said
// elsewhere of the mesh's own is none.
func TestFederatedValidation(t *testing.T) {
	roots := func(td string) *sds.Roots {
		c := testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).Cert
		return sds.NewRoots(spiffeid.RequireTrustDomainFromString(td), "", []sds.Root{{ID: td, Certificate: c}})
	}
	own, other, elsewhere := roots("td-a.example"), roots("td-b.example"), roots("td-a.example")
	p := &publisher{federated: []*sds.Roots{elsewhere, other}}
	for name, tt := range map[string]struct {
		of   string // whose roots alone
		want *sds.Roots
	}{
		"another":                   {"td-b.example", other},
		"one without a bundle":      {"td-c.example", nil},
		"the own one, as elsewhere": {"td-a.example", nil},
	} {
		t.Run(name, func(t *testing.T) {
			td := spiffeid.RequireTrustDomainFromString(tt.of)
			r, err := p.validation(snapshot.Secret{Name: identity.RootsSecretOf(td), TrustDomain: td, Version: "1"}, own)
			if err != nil {
				t.Fatal(err)
			}
			secret := &tlsv3.Secret{}
			if err := r.GetResource().UnmarshalTo(secret); err != nil {
				t.Fatal(err)
			}
			context := secret.GetValidationContext()
			got, nobody := context.GetTrustedCa().GetInlineString(), len(context.GetVerifyCertificateHash()) == 1 && strings.Trim(context.GetVerifyCertificateHash()[0], "0") == ""
			if tt.want == nil && !nobody || tt.want != nil && (nobody || got != tt.want.PEM()) || got == elsewhere.PEM() {
				t.Errorf("nobody: %t, roots\n%s", nobody, got)
			}
		})
	}
	td := other.TrustDomain()
	r, err := p.validation(snapshot.Secret{Name: "peers/api", Peers: [][]byte{{}}, Federated: []spiffeid.TrustDomain{own.TrustDomain(), td}, Version: "1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	secret, validator := &tlsv3.Secret{}, &tlsv3.SPIFFECertValidatorConfig{}
	if err := r.GetResource().UnmarshalTo(secret); err != nil {
		t.Fatal(err)
	}
	if err := secret.GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(validator); err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for _, d := range validator.GetTrustDomains() {
		of[d.GetName()] = d.GetTrustBundle().GetInlineString()
	}
	if len(validator.GetTrustDomains()) != 2 || of[own.TrustDomain().Name()] != own.PEM() || of[td.Name()] != other.PEM() {
		t.Errorf("%v", of)
	}
}

// TestFederatedBesideIntermediates: Envoy's SPIFFE validator refuses all chains that end at an intermediate. Where the mesh's own roots are
// such, its services go on with them, and nobody of another trust domain is let in.
func TestFederatedBesideIntermediates(t *testing.T) {
	ca := &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	root := testca.Sign(t, ca, nil)
	td, other := spiffeid.RequireTrustDomainFromString("td-a.example"), spiffeid.RequireTrustDomainFromString("td-b.example")
	own := sds.NewRoots(td, "", []sds.Root{{ID: "a", Certificate: testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, root).Cert}})
	p := &publisher{federated: []*sds.Roots{sds.NewRoots(other, "", []sds.Root{{ID: "b", Certificate: root.Cert}})}}
	r, err := p.validation(snapshot.Secret{Name: "peers/api", Peers: [][]byte{{}}, Federated: []spiffeid.TrustDomain{other}, Version: "1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	secret := &tlsv3.Secret{}
	if err := r.GetResource().UnmarshalTo(secret); err != nil {
		t.Fatal(err)
	}
	if c := secret.GetValidationContext(); c.GetTrustedCa().GetInlineString() != own.PEM() || c.GetCustomValidatorConfig() != nil {
		t.Errorf("%v", c)
	}
}
