package sds

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/certpath"
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
	if slices.Contains(svid.Certificates, nil) {
		return errors.New("a certificate of its chain is missing")
	}
	if public, ok := svid.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(svid.Certificates[0].PublicKey) {
		return errors.New("the private key is another certificate's")
	}
	// Whoever issued it renews it, and knows of its end and its signers'.
	return roots.verifier.Verify(svid.Certificates, certpath.Wanted{ID: want, Now: now, Outlives: true})
}

// shaped is svid with its chain in the form that every verifier accepts: CAs return roots too, or a certificate twice. What cannot be
// brought into it is left to verify.
func shaped(svid *SVID) *SVID {
	if svid == nil || svid.PrivateKey == nil || len(svid.Certificates) == 0 || slices.Contains(svid.Certificates, nil) || certpath.InShape(svid.Certificates) {
		return svid
	}
	chain, err := certpath.Chain(svid.PrivateKey.Public(), svid.Certificates)
	if err != nil {
		return svid
	}
	return &SVID{Certificates: chain, PrivateKey: svid.PrivateKey}
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
