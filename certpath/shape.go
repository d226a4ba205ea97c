package certpath

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"
)

// Chain is certs brought into the shape in which Envoy follows them: first the one for public, after each one its signer, no root, as
// long as there is one. What does not belong there is left out: CAs return the root, or a root in both its own and its cross-signed
// form, and Envoy goes to the first of them and does not come back. Of two that signed a certificate the first is taken. The error,
// ErrInvalid, is that there is none for public, or more than four.
func Chain(public crypto.PublicKey, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	first := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		key, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		return ok && key.Equal(public)
	})
	if first < 0 {
		return nil, fmt.Errorf("%w: none of %d certificates is for the key of the request", ErrInvalid, len(certs))
	}
	chain := []*x509.Certificate{certs[first]}
	for {
		last := chain[len(chain)-1]
		next := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
			return !SelfSigned(c) && !slices.ContainsFunc(chain, c.Equal) && bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		switch {
		case next < 0:
			return chain, nil
		case len(chain) == MaxLength:
			return nil, fmt.Errorf("%w: a chain of more than %d certificates", ErrInvalid, MaxLength)
		}
		chain = append(chain, certs[next])
	}
}

// SelfSigned reports whether a certificate is one that its own key signed: a root.
func SelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// InShape reports whether chain may be what Chain made: after each certificate its signer, by name, no root, and four at most.
func InShape(chain []*x509.Certificate) bool {
	var before *x509.Certificate
	for _, c := range chain {
		if selfIssued(c) || before != nil && !bytes.Equal(before.RawIssuer, c.RawSubject) {
			return false
		}
		before = c
	}
	return len(chain) <= MaxLength
}

// Valid returns an error if a certificate cannot be used at now.
func Valid(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("valid only from %s on", cert.NotBefore.Format(time.RFC3339))
	case !now.Before(cert.NotAfter):
		return fmt.Errorf("expired at %s", cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// URISAN is the subject alternative name of uri alone. It is compared byte by byte, as there are names that Go does not read.
func URISAN(uri string) ([]byte, error) {
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}})
}
