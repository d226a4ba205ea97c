package svidfile

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// leafAnswer is what is read of /v1/agent/connect/ca/leaf/SERVICE.
type leafAnswer struct{ CertPEM, PrivateKeyPEM, Service string }

// rootsAnswer is what is read of /v1/agent/connect/ca/roots.
type rootsAnswer struct {
	Roots []struct{ RootCert string }
}

// material is the contents of the files, which belong together.
type material struct {
	svid, key, roots []byte
	leaf             *x509.Certificate
}

func (m *material) equal(o *material) bool {
	return o != nil && bytes.Equal(m.svid, o.svid) && bytes.Equal(m.key, o.key) && bytes.Equal(m.roots, o.roots)
}

// materialOf checks what the API said: the key is the leaf's, and the roots are what it hangs under. A leaf of a new root may come before
// the root does.
func materialOf(l leafAnswer, r rootsAnswer, now time.Time) (*material, error) {
	m := &material{}
	roots := x509.NewCertPool()
	for n, root := range r.Roots {
		certs, err := certificates(root.RootCert)
		if err != nil {
			return nil, fmt.Errorf("root number %d of the API: %w", n+1, err)
		}
		for _, c := range certs {
			roots.AddCert(c)
			m.roots = append(m.roots, encode("CERTIFICATE", c.Raw)...)
		}
	}
	if m.roots == nil {
		return nil, errors.New("the API has no roots: is Connect enabled there?")
	}
	chain, err := certificates(l.CertPEM)
	if err != nil {
		return nil, fmt.Errorf("leaf of the API: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(l.CertPEM), []byte(l.PrivateKeyPEM))
	if err != nil {
		return nil, fmt.Errorf("leaf of the API: %w", err)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	m.leaf = chain[0]
	if _, err := m.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("leaf of the API: %w: if the clock is right, it is asked for again when the roots change", err)
	}
	for _, c := range chain {
		m.svid = append(m.svid, encode("CERTIFICATE", c.Raw)...)
	}
	// PKCS #8 is what all servers read.
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("leaf of the API: %w", err)
	}
	m.key = encode("PRIVATE KEY", der)
	return m, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// certificates reads PEM, of at least one certificate and nothing else.
func certificates(text string) (out []*x509.Certificate, err error) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has %q where a certificate should be", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("is no certificate in PEM")
	}
	return out, nil
}
