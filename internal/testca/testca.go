// Package testca makes certificates for tests.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Pair is a certificate and its private key.
type Pair struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Sign makes a certificate after template, with a new key and a serial number of its own, valid
// from a minute ago for an hour unless template says otherwise. A nil parent: it signs itself.
func Sign(t testing.TB, template *x509.Certificate, parent *Pair) *Pair {
	t.Helper()
	der, key := SignDER(t, template, parent)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Pair{cert, key}
}

// SignDER is Sign of a certificate that Go may be unable to parse.
func SignDER(t testing.TB, template *x509.Certificate, parent *Pair) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signDER(t, template, key, parent), key
}

// SignKey is Sign for a key that there is: a second certificate of a CA.
func SignKey(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, parent *Pair) *Pair {
	t.Helper()
	cert, err := x509.ParseCertificate(signDER(t, template, key, parent))
	if err != nil {
		t.Fatal(err)
	}
	return &Pair{cert, key}
}

func signDER(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, parent *Pair) []byte {
	t.Helper()
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128)); err != nil {
		t.Fatal(err)
	}
	template.BasicConstraintsValid = true
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Minute)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = &Pair{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Cert, key.Public(), parent.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// PEM is the certificate alone.
func (p *Pair) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert.Raw}))
}
