package ca

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/identity"
)

// maxRequest bounds a certificate request in PEM, in bytes. One with an RSA key of 4096 bits has 2 KiB.
const maxRequest = 16 << 10

// ErrRequest is that a certificate request is not signed. What wraps it says why, to who made it.
var ErrRequest = errors.New("certificate request")

// SignRequest returns a leaf of id for the public key of a request in PEM (PKCS #10), and after it each certificate that signed the one
// before, without the root. Nothing else of the request comes into the leaf: what asks for anything else is refused, with ErrRequest, at
// once; else it waits until ctx ends for its turn, after the leafs that are due.
func (i *Issuer) SignRequest(ctx context.Context, request []byte, id identity.Service) ([]*x509.Certificate, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	if id.TrustDomain != i.cfg.TrustDomain {
		return nil, fmt.Errorf("leaf for %s: this CA is of the trust domain %s", id, i.cfg.TrustDomain)
	}
	csr, err := parseRequest(request, id.ID().String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	leave, err := i.places.take(ctx, i.cfg.Provider.WantsCSR())
	if err != nil {
		return nil, err
	}
	defer leave()
	chain, err := i.cfg.Provider.Sign(ctx, csr, id.ID(), i.cfg.TTL)
	switch {
	case err != nil:
		return nil, err
	case len(chain) == 0:
		return nil, errors.New("the CA returned no certificate")
	}
	if i.cfg.Provider.WantsCSR() { // it was verified as Envoy will, and is not as we make leafs
		i.issued.Inc()
		return chain, nil
	}
	if err := conforms(leafProfile(), chain[0], id.ID().String(), csr.PublicKey, chain[min(1, len(chain)-1)]); err != nil {
		return nil, err
	}
	i.issued.Inc()
	return chain, valid(chain[0], time.Now())
}

// parseRequest reads a request that may be signed for uri.
func parseRequest(request []byte, uri string) (*x509.CertificateRequest, error) {
	if len(request) > maxRequest {
		return nil, fmt.Errorf("has more than %d bytes", maxRequest)
	}
	block, rest := pem.Decode(request)
	switch {
	case block == nil:
		return nil, errors.New("is not in PEM: it begins with -----BEGIN CERTIFICATE REQUEST-----")
	case strings.Contains(block.Type, "PRIVATE KEY") || strings.Contains(string(rest), "PRIVATE KEY"):
		return nil, errors.New("a private key came with it, which is nobody else's business: make a new one, and send the request alone")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST": // the latter is Java's
		return nil, fmt.Errorf("is a %.50q", block.Type)
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, errors.New("something follows it: send one at a time")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	// The key before the signature: what verifying costs depends on it.
	if err := certpath.LeafKey(csr.PublicKey); err != nil {
		return nil, err
	}
	switch csr.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		return nil, fmt.Errorf("is signed with %s, which proves nothing: sign it with SHA-256", csr.SignatureAlgorithm)
	default:
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("its signature is not that of its key")
	}
	for _, e := range csr.Extensions {
		if err := askedFor(e, uri); err != nil {
			return nil, err
		}
	}
	return csr, nil
}

// Extensions that requests and signers have (RFC 5280, 4.2.1).
var (
	subjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	keyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	subjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	basicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	nameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
	extendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	serverAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	clientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// certSign and crlSign are bits of a key usage.
const certSign, crlSign = 5, 6

// askedFor refuses an extension that asks for another certificate than the leaf of uri.
func askedFor(e pkix.Extension, uri string) error {
	unread := func(rest []byte, err error) bool { return err != nil || len(rest) > 0 }
	switch {
	case e.Id.Equal(subjectAltName):
		want, err := certpath.URISAN(uri)
		if err != nil {
			return err
		}
		if !slices.Equal(e.Value, want) {
			return fmt.Errorf("its subject alternative name is not URI:%s alone: ask for that, or for none", uri)
		}
	case e.Id.Equal(subjectKeyID): // the signer makes its own, of the same key
	case e.Id.Equal(basicConstraints):
		var asked struct {
			CA      bool `asn1:"optional"`
			PathLen int  `asn1:"optional,default:-1"`
		}
		if unread(asn1.Unmarshal(e.Value, &asked)) || asked.CA {
			return errors.New("it asks for a CA's certificate (basic constraints): leafs sign nothing")
		}
	case e.Id.Equal(keyUsage):
		var asked asn1.BitString
		if unread(asn1.Unmarshal(e.Value, &asked)) || asked.At(certSign) == 1 || asked.At(crlSign) == 1 {
			return errors.New("it asks for the right to sign certificates (key usage): leafs sign nothing")
		}
	case e.Id.Equal(extendedKeyUsage):
		var asked []asn1.ObjectIdentifier
		if unread(asn1.Unmarshal(e.Value, &asked)) || slices.ContainsFunc(asked, func(o asn1.ObjectIdentifier) bool { return !o.Equal(serverAuth) && !o.Equal(clientAuth) }) {
			return errors.New("it asks for other extended key usages than those of servers and clients")
		}
	default:
		return fmt.Errorf("it asks for the extension %s, which leafs do not have: leave it out", e.Id)
	}
	return nil
}
