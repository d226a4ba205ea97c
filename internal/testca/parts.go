package testca

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"
)

// URIs are SANs of a certificate.
func URIs(t testing.TB, texts ...string) (all []*url.URL) {
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

// Extension is one of a certificate, or that a request asks for, which is not critical.
func Extension(t testing.TB, id asn1.ObjectIdentifier, value any) []pkix.Extension {
	t.Helper()
	b, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: id, Value: b}}
}
