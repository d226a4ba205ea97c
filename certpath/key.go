package certpath

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
)

// Bounds of an RSA key, in bits: above, TLS libraries refuse it or take long.
const minRSA, maxRSA = 2048, 4096

// LeafKey refuses public keys that leafs are not made for: an Envoy accepts a leaf on P-521 or of Ed25519, and then no handshake of the mesh
// works.
func LeafKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("its key is on %s: leafs are made for keys on P-256 and P-384, and RSA keys", key.Curve.Params().Name)
	case *rsa.PublicKey:
		switch n := key.N.BitLen(); {
		case n < minRSA || n > maxRSA:
			return fmt.Errorf("its RSA key has %d bits: take one of %d to %d, or one on P-256", n, minRSA, maxRSA)
		case key.E < 65537: // NIST SP 800-56B, 6.2
			return fmt.Errorf("the public exponent of its RSA key is %d: take 65537", key.E)
		}
		return nil
	}
	return fmt.Errorf("its key is a %T: leafs are made for keys on P-256 and P-384, and RSA keys", public)
}

// MaxSignerRSA bounds the RSA keys of signers, in bits, so that verifying takes no time worth mentioning: by a key of 8192 bits a signature is
// verified in 6 ms, by one of 262,144 in 7 s, and a CA's answer has room for larger ones.
const MaxSignerRSA = 8192

// signerKey refuses public keys whose signatures peers do not verify.
func signerKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return nil
		}
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSA || n > MaxSignerRSA {
			return fmt.Errorf("its RSA key has %d bits: take one of %d to %d, or one on P-256", n, minRSA, MaxSignerRSA)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("its key is none of P-256, P-384, P-521, RSA and Ed25519: take one on P-256")
}
