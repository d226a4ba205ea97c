package consul

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/internal/testca"
)

const testTrustDomain = "11111111-2222-3333-4444-555555555555.consul"

// authority signs the leafs of tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func testAuthority(t testing.TB) *authority {
	t.Helper()
	root := testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "pri-test.consul.ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		NotAfter: time.Now().Add(24 * time.Hour), URIs: []*url.URL{{Scheme: "spiffe", Host: testTrustDomain}},
	}, nil)
	return &authority{root.Cert, root.Key}
}

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func testRoots(t testing.TB, all ...*authority) api.CARootList {
	t.Helper()
	list := api.CARootList{ActiveRootID: "root-0", TrustDomain: testTrustDomain}
	for i, a := range all {
		list.Roots = append(list.Roots, &api.CARoot{ID: "root-" + string(rune('0'+i)), Name: "Consul CA Primary Cert", RootCertPEM: certificatePEM(a.cert), Active: i == 0})
	}
	return list
}

// leaf signs key for the URIs.
func (a *authority) leaf(t testing.TB, key crypto.Signer, uris ...string) string {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
