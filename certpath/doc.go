// Package certpath decides whether a chain of certificates leads to a root (RFC 5280, 6), for a verifier that is an Envoy: it follows the
// first issuer that fits and does not come back, and some of what it accepts breaks later. It decides too what the roots are that a verifier
// may be given, and brings chains that come from outside into the form that every verifier accepts.
//
// It knows no CA, reads no file and asks nobody. All but Verifier are functions; what they are given is not changed.
package certpath
