// Package jwks reads JSON Web Key Sets (RFC 7517): the public keys by which tokens are verified. What it makes of one holds nothing but
// such keys, spelled in one way, so that whoever verifies sees what was looked at here.
package jwks

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

const (
	// MaxBytes is how long a set may be.
	MaxBytes = 1 << 20
	// maxKeys is how many keys it may have.
	maxKeys = 100

	maxText             = 1024 // of a kid, in bytes
	leastBits, mostBits = 2048, 8192
	mostExponentBits    = 33 // BoringSSL's bound

)

// Set is what was read of a set.
type Set struct {
	// Text is a set in JSON of the keys that can verify a token's signature, as they were ordered; never empty.
	Text string
	// IDs are their kids; empty for a key without.
	IDs []string
	// Secrets says of keys that were left out why each must not be here: symmetric and private ones.
	Secrets []string
	// Left says of others why they verify nothing. Keys for encryption, which have nothing to do with signatures, are not told of.
	Left []string
}

// written is a key as sets have it.
type written struct {
	Type      string   `json:"kty"`
	Use       string   `json:"use"`
	KeyOps    []string `json:"key_ops"`
	Algorithm string   `json:"alg"`
	ID        string   `json:"kid"`
	N         string   `json:"n"`
	E         string   `json:"e"`
	Curve     string   `json:"crv"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	K         string   `json:"k"`
	D         string   `json:"d"`
}

// key is one as it is passed on.
type key struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg,omitempty"`
	ID        string `json:"kid,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
}

// curve is what an elliptic curve is in a set.
type curve struct {
	algorithm string
	size      int // of a coordinate, in bytes
	of        ecdh.Curve
}

var curves = map[string]curve{
	"P-256": {"ES256", 32, ecdh.P256()}, "P-384": {"ES384", 48, ecdh.P384()}, "P-521": {"ES512", 66, ecdh.P521()},
}

// rsaAlgorithms are those that an RSA key can be for.
const rsaAlgorithms = " RS256 RS384 RS512 PS256 PS384 PS512 "

// Parse reads a set. The error is that it is none, or has no key that verifies a signature.
func Parse(text []byte) (Set, error) {
	var s Set
	if len(text) > MaxBytes {
		return s, fmt.Errorf("it has %d bytes: at most %d are taken", len(text), MaxBytes)
	}
	var in struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return s, fmt.Errorf("it is no JSON Web Key Set: %w", err)
	}
	switch {
	case in.Keys == nil:
		return s, errors.New(`it is no JSON Web Key Set: it has no "keys"`)
	case len(*in.Keys) > maxKeys:
		return s, fmt.Errorf("it has %d keys: at most %d are taken", len(*in.Keys), maxKeys)
	}
	out := struct {
		Keys []key `json:"keys"`
	}{}
	for i, raw := range *in.Keys {
		var w written
		if err := json.Unmarshal(raw, &w); err != nil {
			s.Left = append(s.Left, fmt.Sprintf("keys[%d] cannot be read: %v", i, err))
			continue
		}
		name := fmt.Sprintf("keys[%d]", i)
		if w.ID != "" {
			name += fmt.Sprintf(" (kid %.100q)", w.ID)
		}
		switch {
		case w.Type == "oct" || w.K != "":
			s.Secrets = append(s.Secrets, name+" is symmetric: whoever verifies tokens with it can make them, so only public keys are taken")
			continue
		case w.D != "":
			s.Secrets = append(s.Secrets, name+" has its private part: give the public key alone, and replace this one, as it was told")
			continue
		case w.encrypts():
			continue
		}
		k, err := w.public()
		if err != nil {
			s.Left = append(s.Left, name+" "+err.Error())
			continue
		}
		out.Keys, s.IDs = append(out.Keys, k), append(s.IDs, k.ID)
	}
	if len(out.Keys) == 0 {
		problems := append(append([]string{}, s.Secrets...), s.Left...)
		if len(problems) == 0 {
			return s, errors.New("it has no key that verifies a signature")
		}
		return s, fmt.Errorf("it has no key that verifies a signature: %s", problems[0])
	}
	b, err := json.Marshal(out)
	if err != nil {
		return s, err
	}
	s.Text = string(b)
	return s, nil
}

// encrypts reports whether a key says that it has nothing to do with signatures.
func (w *written) encrypts() bool {
	if w.Use == "enc" || strings.HasPrefix(w.Algorithm, "RSA") || strings.HasPrefix(w.Algorithm, "ECDH") {
		return true
	}
	return len(w.KeyOps) > 0 && !slices.Contains(w.KeyOps, "verify")
}

func (w *written) public() (k key, err error) {
	if len(w.ID) > maxText {
		return k, fmt.Errorf("has a kid of %d bytes: at most %d are taken", len(w.ID), maxText)
	}
	k = key{Type: w.Type, Use: "sig", Algorithm: w.Algorithm, ID: w.ID}
	switch w.Type {
	case "RSA":
		return k, w.rsa(&k)
	case "EC":
		return k, w.curve(&k)
	case "OKP":
		if w.Curve != "Ed25519" || w.Algorithm != "" && w.Algorithm != "EdDSA" {
			return k, fmt.Errorf("has the curve %.20q with alg %.20q: of this type Ed25519 with EdDSA is taken", w.Curve, w.Algorithm)
		}
		x, err := decode(w.X)
		if err != nil || len(x) != 32 {
			return k, errors.New("has no x of 32 bytes in base64url")
		}
		k.Curve, k.X = w.Curve, encode(x)
		return k, nil
	}
	return k, fmt.Errorf("has kty %.20q: RSA, EC and OKP are taken", w.Type)
}

func (w *written) rsa(k *key) error {
	if w.Algorithm != "" && !strings.Contains(rsaAlgorithms, " "+w.Algorithm+" ") {
		return fmt.Errorf("has alg %.20q, which no RSA key verifies", w.Algorithm)
	}
	n, errN := decode(w.N)
	e, errE := decode(w.E)
	if errN != nil || errE != nil || len(n) == 0 || len(e) == 0 {
		return errors.New("has no n and e in base64url")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	switch bits := modulus.BitLen(); {
	case bits < leastBits || bits > mostBits:
		return fmt.Errorf("has a modulus of %d bits: %d to %d are taken", bits, leastBits, mostBits)
	case modulus.Bit(0) == 0:
		return errors.New("has an even modulus")
	case exponent.BitLen() > mostExponentBits || exponent.Bit(0) == 0 || exponent.Cmp(big.NewInt(3)) < 0:
		return errors.New("has an exponent that is even, below 3 or too large")
	}
	k.N, k.E = encode(modulus.Bytes()), encode(exponent.Bytes())
	return nil
}

func (w *written) curve(k *key) error {
	c, ok := curves[w.Curve]
	if !ok {
		return fmt.Errorf("has the curve %.20q: P-256, P-384 and P-521 are taken", w.Curve)
	}
	if w.Algorithm != "" && w.Algorithm != c.algorithm {
		return fmt.Errorf("has alg %.20q with the curve %s, which is for %s", w.Algorithm, w.Curve, c.algorithm)
	}
	x, errX := decode(w.X)
	y, errY := decode(w.Y)
	if errX != nil || errY != nil || len(x) == 0 || len(y) == 0 || len(x) > c.size || len(y) > c.size {
		return fmt.Errorf("has no x and y of %d bytes in base64url", c.size)
	}
	point := make([]byte, 1+2*c.size)
	point[0] = 4 // uncompressed
	copy(point[1+c.size-len(x):], x)
	copy(point[1+2*c.size-len(y):], y)
	if _, err := c.of.NewPublicKey(point); err != nil {
		return errors.New("has x and y that are no point of its curve")
	}
	k.Curve, k.X, k.Y = w.Curve, encode(point[1:1+c.size]), encode(point[1+c.size:])
	return nil
}

// decode reads base64url, with its padding or without.
func decode(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
