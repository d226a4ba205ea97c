package certpath

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
)

// TestNamelessSigner verifies a leaf whose signer has no name, as that of Consul's secondary datacenters: subject and issuer are alike then, and
// it is not its own signer all the same.
func TestNamelessSigner(t *testing.T) {
	t.Parallel()
	p := &pki{t: t, edit: map[string]func(*x509.Certificate){"int1 by root1": func(c *x509.Certificate) { c.Subject = pkix.Name{} }}}
	root, intermediate := p.by("root1", "root1"), p.by("int1", "root1")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: verifyTime.Add(-time.Minute), NotAfter: verifyTime.Add(time.Hour), URIs: testca.URIs(t, webURI), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, intermediate, p.key("leaf").Public(), p.key("int1"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{leaf, intermediate}
	if err := VerifyChain(chain, []*x509.Certificate{root}, wantWeb(t, p)); err != nil {
		t.Error(err)
	}
	if err := VerifyChain(chain, []*x509.Certificate{p.by("root2", "root2")}, wantWeb(t, p)); err == nil {
		t.Error("it passes under another root")
	}
	if !InShape(chain) {
		t.Error("it is in shape")
	}
}
