package sds

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// verify returns an error if svid must not be handed to an Envoy as the leaf of id. Envoy refuses a
// secret with a wrong key, and random other secrets of the same response with it; what Envoy does
// not check, its peers would refuse at the handshake or, worse, believe.
func verify(svid *SVID, id identity.Service, roots *Roots, now time.Time) error {
	if err := verifySVID(svid, id, roots, now); err != nil {
		return fmt.Errorf("leaf for %s: %w", id, err)
	}
	return nil
}

func verifySVID(svid *SVID, id identity.Service, roots *Roots, now time.Time) error {
	want := id.ID()
	switch {
	case want.IsZero():
		return errors.New("not a valid identity")
	case svid == nil || len(svid.Certificates) == 0 || svid.Certificates[0] == nil:
		return errors.New("no certificate")
	case svid.PrivateKey == nil:
		return errors.New("no private key")
	case id.TrustDomain != roots.trustDomain:
		return fmt.Errorf("no roots of the trust domain %s, only of %s", id.TrustDomain, roots.trustDomain)
	}
	if _, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey); err != nil {
		// The error may quote what it was given; the type is all that helps.
		return fmt.Errorf("a private key of type %T cannot be handed to Envoy", svid.PrivateKey)
	}
	leaf := svid.Certificates[0]
	if public, ok := svid.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the private key is another certificate's")
	}
	// Envoy compares each URI SAN, so a second one would be a second identity.
	if len(leaf.URIs) != 1 {
		return fmt.Errorf("%d URI SANs, want one", len(leaf.URIs))
	}
	if got := leaf.URIs[0].String(); got != want.String() {
		return fmt.Errorf("it is the certificate of %q", got)
	}
	switch {
	case leaf.IsCA, leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("it is a CA's certificate")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the key usage digitalSignature is missing")
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return fmt.Errorf("an RSA key of %d bits, want 2048 or more", key.N.BitLen())
	}
	if slices.Contains(svid.Certificates, nil) {
		return errors.New("an intermediate certificate is missing")
	}
	// A sidecar is both ends of connections, and one usage that any certificate of the chain lacks
	// is enough to fail there.
	for _, use := range []struct {
		name string
		id   x509.ExtKeyUsage
	}{{"server", x509.ExtKeyUsageServerAuth}, {"client", x509.ExtKeyUsageClientAuth}} {
		if !slices.Contains(leaf.ExtKeyUsage, use.id) {
			return fmt.Errorf("the extended key usage %s authentication is missing", use.name)
		}
	}
	return roots.verify(leaf, svid.Certificates[1:], now)
}

// untilValid is how long it takes until svid's whole chain is valid, by its NotBefore; zero or less
// if it is.
func untilValid(svid *SVID, now time.Time) time.Duration {
	var wait time.Duration
	if svid == nil {
		return wait
	}
	for _, cert := range svid.Certificates {
		if cert != nil {
			wait = max(wait, cert.NotBefore.Sub(now))
		}
	}
	return wait
}
