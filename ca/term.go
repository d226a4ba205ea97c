package ca

import "time"

// term is when a certificate was signed and when it is to be renewed.
type term struct {
	begin               time.Time     // with the monotonic clock's reading
	renew               time.Duration // after begin
	notBefore, notAfter time.Time
}

// newTerm is the term of a certificate that is signed now. jitter, in [0, 1), says where in the window it is renewed.
func newTerm(now, notBefore, notAfter time.Time, jitter float64) term {
	return term{begin: now, renew: renewal(notAfter.Sub(now), jitter), notBefore: notBefore, notAfter: notAfter}
}

// renewal is how long after its begin a certificate of the given life is renewed: 60 % of it to 90 %, by jitter in [0, 1). Certificates
// that were signed together, after a restart, are so not renewed together for ever.
func renewal(life time.Duration, jitter float64) time.Duration {
	return time.Duration((0.6 + 0.3*jitter) * float64(life))
}

// due reports whether the certificate is to be renewed. elapsed is the time since its begin by the monotonic clock, and decides
// normally: a step of the wall clock alone moves nothing. By the wall clock's now it is due when it is not valid any more or soon, or not
// yet; what is signed then is valid by that clock, so a step renews a certificate once at most.
func (t term) due(now time.Time, elapsed time.Duration) bool {
	return elapsed >= t.renew || now.Before(t.notBefore) || t.notAfter.Sub(now) < t.notAfter.Sub(t.begin)/10
}
