package certpath

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// LeftOut is a certificate that is not in a bundle.
type LeftOut struct {
	Certificate *x509.Certificate
	// Reason is why, after "left out: ".
	Reason string
}

// Bundle is those of roots that verifiers are to be given at now, in their order, and the others with the reasons. Envoys take every
// bundle and refuse what they do not understand later: by a valid root beside an expired one of its name and key, which one is a question
// of the order and of the version. So of each name and key there is one, self-signed if there is one, else the newest, and none that is
// not valid. With federated, for Envoy's SPIFFE validator, all are self-signed: it does not end at an intermediate. It is empty if nothing
// is left, which is nothing to give to anybody. Make it anew before the first of its roots ends.
func Bundle(roots []*x509.Certificate, federated bool, now time.Time) (bundle []*x509.Certificate, left []LeftOut) {
	leave := func(c *x509.Certificate, format string, args ...any) {
		left = append(left, LeftOut{c, fmt.Sprintf(format, args...)})
	}
	for _, c := range roots {
		if !c.BasicConstraintsValid || !c.IsCA || !maySign(c) {
			leave(c, "it is not a CA's")
			continue
		}
		// Before anything is verified with it: by the key of somebody else that may take minutes.
		if err := signerKey(c.PublicKey); err != nil {
			leave(c, "%v", err)
			continue
		}
		if err := readable(c); err != nil {
			leave(c, "proxies cannot read it: %v", err)
			continue
		}
		if err := Valid(c, now); err != nil {
			leave(c, "%v", err)
			continue
		}
		if federated && !SelfSigned(c) {
			leave(c, "it is not self-signed, and with other trust domains nothing else is trusted: take the root that signed it")
			continue
		}
		twin := slices.IndexFunc(bundle, func(b *x509.Certificate) bool {
			return sameName(b.RawSubject, c.RawSubject) && bytes.Equal(b.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
		})
		switch {
		case twin < 0:
			bundle = append(bundle, c)
		case bundle[twin].Equal(c): // twice
		case better(c, bundle[twin]):
			leave(bundle[twin], "another one of its name and key, of serial number %x, is newer, or is self-signed", c.SerialNumber)
			bundle[twin] = c
		default:
			leave(c, "another one of its name and key, of serial number %x, is newer, or is self-signed", bundle[twin].SerialNumber)
		}
	}
	return bundle, left
}

// better reports whether of two of the same name and key a is the one to trust, whatever order they come in.
func better(a, b *x509.Certificate) bool {
	if as, bs := SelfSigned(a), SelfSigned(b); as != bs {
		return as
	}
	if !a.NotBefore.Equal(b.NotBefore) {
		return a.NotBefore.After(b.NotBefore)
	}
	if !a.NotAfter.Equal(b.NotAfter) {
		return a.NotAfter.After(b.NotAfter)
	}
	return bytes.Compare(a.Raw, b.Raw) > 0
}
