package apitest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"time"
)

// Authority signs certificates: a root, or an intermediate.
type Authority struct {
	t    TB
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// chain are the intermediates that its leafs come with.
	chain []*x509.Certificate
}

// NewRoot makes a root.
func NewRoot(t TB) *Authority {
	t.Helper()
	return newAuthority(t, "root", nil)
}

// Intermediate makes one that a signs.
func (a *Authority) Intermediate() *Authority {
	a.t.Helper()
	return newAuthority(a.t, "intermediate", a)
}

func newAuthority(t TB, name string, parent *Authority) *Authority {
	t.Helper()
	a := &Authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
	}
	if parent == nil {
		a.Cert = sign(t, template, template, a.key, a.key)
		return a
	}
	a.Cert = sign(t, template, parent.Cert, a.key, parent.key)
	a.chain = append([]*x509.Certificate{a.Cert}, parent.chain...)
	return a
}

// Leaf is a certificate with its key, both in PEM.
type Leaf struct{ CertPEM, PrivateKeyPEM string }

// Template is what a leaf of a SPIFFE ID says.
func Template(t TB, id string) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial(t), URIs: []*url.URL{uri}, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(72 * time.Hour),
	}
}

// Leaf signs a certificate for a SPIFFE ID. change, if there is one, spoils it.
func (a *Authority) Leaf(id string, change func(*x509.Certificate)) Leaf {
	a.t.Helper()
	template := Template(a.t, id)
	if change != nil {
		change(template)
	}
	key := newKey(a.t)
	leaf := PEM(append([]*x509.Certificate{sign(a.t, template, a.Cert, key, a.key)}, a.chain...)...)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return Leaf{CertPEM: leaf, PrivateKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))}
}

// Certificate signs what template says of a key, whether anybody can read it or not.
func (a *Authority) Certificate(template *x509.Certificate, key crypto.Signer) tls.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	for _, above := range a.chain {
		c.Certificate = append(c.Certificate, above.Raw)
	}
	return c
}

// PEM writes certificates.
func PEM(certs ...*x509.Certificate) string {
	var s []byte
	for _, c := range certs {
		s = append(s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(s)
}

func newKey(t TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func serial(t TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
