package certpath

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net/url"
	"testing"
)

const (
	testDomain = "11111111-2222-3333-4444-555555555555.consul"
	webURI     = "spiffe://" + testDomain + "/ns/default/dc/dc1/svc/web"
)

// uris are URIs.
func uris(t testing.TB, texts ...string) (all []*url.URL) {
	t.Helper()
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

// newExtension is one for a certificate.
func newExtension(t testing.TB, id asn1.ObjectIdentifier, value any) []pkix.Extension {
	t.Helper()
	b, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: id, Value: b}}
}

func names(chain []*x509.Certificate) (list []string) {
	for _, c := range chain {
		list = append(list, c.Subject.CommonName+" by "+c.Issuer.CommonName)
	}
	return list
}

func inPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
