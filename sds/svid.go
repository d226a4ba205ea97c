package sds

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// SVID is a leaf certificate with its chain and its private key. It is immutable. However it is
// printed, logged or marshalled to JSON, what comes out is its SPIFFE ID alone.
type SVID struct {
	Certificates []*x509.Certificate // the leaf first, each signed by the next, without the root
	PrivateKey   crypto.Signer
}

// String is the SPIFFE ID; empty if there is no certificate with one.
func (s SVID) String() string {
	if len(s.Certificates) == 0 || s.Certificates[0] == nil || len(s.Certificates[0].URIs) == 0 {
		return ""
	}
	return s.Certificates[0].URIs[0].String()
}

// Format is String, whatever the verb.
func (s SVID) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString is String.
func (s SVID) GoString() string { return s.String() }

// LogValue is String.
func (s SVID) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON.
func (s SVID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// RenewAfter is how long after it was signed a certificate with the given lifetime is renewed: 60 %
// to 90 % of it, by jitter in [0, 1). So certificates that were signed together, after a restart,
// are not renewed together for ever.
func RenewAfter(life time.Duration, jitter float64) time.Duration {
	return time.Duration((0.6 + 0.3*jitter) * float64(life))
}
