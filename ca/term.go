package ca

import (
	"crypto/x509"
	"time"

	"github.com/sallyport/sallyport/sds"
)

// term is when a certificate was signed and when it is to be renewed.
type term struct {
	begin               time.Time     // with the monotonic clock's reading
	renew               time.Duration // after begin
	notBefore, notAfter time.Time
	root                *x509.Certificate // the one under which it was signed; nil: not known
	last                bool              // it ends with its root, so the next one would be valid no longer
}

// newTerm is the term of a certificate that was signed at now. jitter, in [0, 1), says where in the
// window it is renewed.
func newTerm(now time.Time, cert *x509.Certificate, jitter float64) term {
	return term{begin: now, renew: sds.RenewAfter(cert.NotAfter.Sub(now), jitter), notBefore: cert.NotBefore, notAfter: cert.NotAfter}
}

// due reports whether the certificate is to be renewed. Normally elapsed decides, the time since it
// was signed by the monotonic clock: a step of the wall clock alone changes nothing. By the wall
// clock's now it is due when it has expired, expires soon or is not valid yet; what is signed then
// is valid by that clock, so a step renews a certificate at most once.
func (t term) due(now time.Time, elapsed time.Duration) bool {
	soon := t.notAfter.Sub(now) < t.notAfter.Sub(t.begin)/10 && (!t.last || !now.Before(t.notAfter))
	return elapsed >= t.renew || now.Before(t.notBefore) || soon
}
