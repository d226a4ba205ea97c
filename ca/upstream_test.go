package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/certpath"
)

// foreign makes certificates of a CA that is not ours, by name, whose keys can be signed by several.
type foreign struct {
	t    testing.TB
	keys map[string]*ecdsa.PrivateKey
}

func (f *foreign) key(name string) *ecdsa.PrivateKey {
	if f.keys[name] == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			f.t.Fatal(err)
		}
		f.keys[name] = key
	}
	return f.keys[name]
}

// by is the certificate of subject that signer signed.
func (f *foreign) by(subject, signer string) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(subject) + 100*len(signer))), Subject: pkix.Name{CommonName: subject}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: signer}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, f.key(subject).Public(), f.key(signer))
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return cert
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

func TestParseCertificates(t *testing.T) {
	f := &foreign{t, map[string]*ecdsa.PrivateKey{}}
	huge := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	modulus := new(big.Int).SetBit(big.NewInt(1), 1<<16, 1)
	der, err := x509.CreateCertificate(rand.Reader, huge, huge, &rsa.PublicKey{N: modulus, E: 65537}, f.key("b"))
	if err != nil {
		t.Fatal(err)
	}
	one, two := inPEM(f.by("a", "b")), inPEM(f.by("b", "b"))
	for text, want := range map[string]int{
		one: 1, one + two: 2, "\n" + one + "\n\n" + two + "\n": 2,
		strings.Repeat(one, 64): 64, strings.Repeat(one, 65): 0, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})): 0,
		"": 0, "junk": 0, one + "junk": 0,
		one + "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n": 0,
		"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n":                   0,
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n":             0,
	} {
		got, err := ParseCertificates(text)
		if len(got) != want || (err == nil) != (want > 0) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60q…: %d certificates, %v, want %d", text[max(0, len(text)-60):], len(got), err, want)
		}
		if err != nil && strings.Contains(err.Error(), "AAAA") {
			t.Error("the key is in the error")
		}
	}
}

// FuzzChain has certificates of a foreign CA come in any order, how often they like, with text among them. What comes out is a chain as
// Envoy follows it, or an error.
func FuzzChain(f *testing.F) {
	c := &foreign{f, map[string]*ecdsa.PrivateKey{}}
	pool := []string{
		inPEM(c.by("ours", "int2")), inPEM(c.by("int2", "root2")), inPEM(c.by("root2", "root2")), inPEM(c.by("root2", "root1")), inPEM(c.by("root1", "root1")),
		inPEM(c.by("root1", "x")), inPEM(c.by("x", "y")), inPEM(c.by("int2", "x")), inPEM(c.by("ours", "x")), inPEM(c.by("x", "int2")), "text\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	}
	ours := c.key("ours").Public()
	for _, order := range [][]byte{{0, 1}, {0, 1, 2}, {4, 3, 2, 1, 0}, {0, 1, 3, 5, 6}, {8, 9, 7, 0, 1}, {10, 0}, {0, 11}, {}} {
		f.Add(order)
	}
	f.Fuzz(func(t *testing.T, order []byte) {
		var text strings.Builder
		for _, i := range order[:min(len(order), 70)] {
			text.WriteString(pool[int(i)%len(pool)])
		}
		certs, err := ParseCertificates(text.String())
		if err == nil {
			certs, err = certpath.Chain(ours, certs)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if key, ok := certs[0].PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(ours) || len(certs) > 4 {
			t.Errorf("%q", names(certs))
		}
		for i := 1; i < len(certs); i++ {
			if certs[i-1].CheckSignatureFrom(certs[i]) != nil || certpath.SelfSigned(certs[i]) {
				t.Errorf("%q", names(certs))
			}
		}
	})
}
