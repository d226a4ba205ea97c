package token

import "github.com/sallyport/sallyport/identity"

// Names that the tests of the package use from outside.
const Audience = audience

var ErrExpired = errExpired

// Verify is verify, without the proof.
func (i *Issuer) Verify(token string) (identity.ProxyID, error) {
	v, err := i.verify(token)
	return v.proxy, err
}

// Prove is verify's proof.
func (i *Issuer) Prove(token string) (identity.Proof, error) {
	v, err := i.verify(token)
	return v.proof, err
}
