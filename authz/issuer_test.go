package authz_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/decisiontable"
)

// issuer signs certificates with any names at all.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(t testing.TB) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{key}
}

// certificate is a certificate of p in the form in which Envoy sends it.
func (i issuer) certificate(t testing.TB, p decisiontable.Peer) string {
	t.Helper()
	return i.sign(t, p, nil, nil)
}

// sign is certificate with changes, and of a key; nil: none, and the issuer's own.
func (i issuer) sign(t testing.TB, p decisiontable.Peer, change func(*x509.Certificate), key crypto.Signer) string {
	t.Helper()
	if key == nil {
		key = i.key
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: p.Subject},
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     p.DNS,
	}
	for _, u := range p.URIs {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	parent := *template
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), i.key)
	if err != nil {
		t.Fatalf("certificate of %s: %v", p, err)
	}
	return escape(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// escape is Envoy's form of a PEM text.
func escape(text []byte) string {
	return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(string(text))
}
