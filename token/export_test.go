package token

import "github.com/sallyport/sallyport/identity"

// Names that the tests of the package use from outside.
const Audience = audience

var ErrExpired = errExpired

// Verify is verify.
func (i *Issuer) Verify(token string) (identity.ProxyID, error) { return i.verify(token) }
