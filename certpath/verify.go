package certpath

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrInvalid is that a certificate, or what comes with it, is not what its CA was asked for.
var ErrInvalid = errors.New("the CA's answer is invalid")

// MaxLength is how many certificates a chain from outside has at most, the root not counted.
const MaxLength = 4

// Wanted is the leaf that somebody asked for.
type Wanted struct {
	// ID is its only SAN. Required.
	ID spiffeid.ID
	// Key is its public key. Nil matches any.
	Key crypto.PublicKey
	// Now is when its chain is valid. Required.
	Now time.Time
	// Outlives lets the leaf end after its signers: a proxy accepts it until the first of them ends. It is not for leafs whose life is
	// asked for here, as those are renewed by their own end.
	Outlives bool
}

// VerifyChain returns an error, ErrInvalid, unless peers that trust bundle accept chain as that of want: Envoys, which follow the first
// issuer that fits and do not come back, and Go programs. chain is the leaf and after it its signers, without the root. Of those that a
// verifier does not need today it wants the same, as another verifier does. bundle is as Bundle makes it, as an Envoy may take any of the
// roots that fit. The error says which certificate is refused, why, and how to mend it.
func VerifyChain(chain, bundle []*x509.Certificate, want Wanted) error {
	_, err := verifyPath(chain, bundle, want)
	return err
}

// verifyPath is VerifyChain, and returns what was taken for the signers of the leaf.
func verifyPath(chain, bundle []*x509.Certificate, want Wanted) (*upper, error) {
	switch {
	case len(chain) == 0:
		return nil, fmt.Errorf("%w: no certificate: the CA is to return the leaf and its signers", ErrInvalid)
	case len(chain) > MaxLength:
		return nil, fmt.Errorf("%w: a chain of %d certificates, %d at most: take intermediates out of the hierarchy", ErrInvalid, len(chain), MaxLength)
	}
	for i, c := range chain {
		if err := verifyOne(chain, i, want); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, place(c, chain), err)
		}
	}
	path, own := follow(chain, bundle)
	if own == len(path) {
		last := path[own-1]
		return nil, fmt.Errorf("%w: %s: its signer, %s, is neither among the roots nor does it come with it: return each signer once, in order, without the root, "+
			"as a proxy takes the first that fits and does not come back", ErrInvalid, place(last, chain), quote(last.Issuer))
	}
	u := newUpper(chain)
	for i, c := range path[:len(path)-1] {
		signers := path[i+1 : i+2]
		if i+1 >= own {
			signers = fitting(bundle, c) // an Envoy takes one of them: which one is a question of its version
			u.needs(signers...)
		}
		if i == 0 {
			u.signers = signers
		}
		for _, signer := range signers {
			if i+1 >= own {
				if err := verifyAnchor(signer, chain[0], want); err != nil {
					return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, place(signer, chain), err)
				}
			}
			if err := verifyLink(c, signer); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, place(c, chain), err)
			}
		}
	}
	for i, c := range path[1:] {
		if c.MaxPathLen >= 0 && i > c.MaxPathLen {
			return nil, fmt.Errorf("%w: %s: its path length is %d, and %d intermediates are below it: sign it with a longer one, or the leaf by a CA nearer to it",
				ErrInvalid, place(c, chain), c.MaxPathLen, i)
		}
		for _, below := range path[:i+1] {
			if err := verifyNames(c, below); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, place(c, chain), err)
			}
		}
	}
	u.constrained = slices.ContainsFunc(path, constrained)
	if !u.constrained {
		return u, nil
	}
	return u, verifyConstrained(path, want.Now)
}

// follow is the path that BoringSSL takes from chain's first certificate, and how many of it are chain's: all, if it comes to no root of
// bundle. It takes the root if one fits, else the first of chain that fits, which it takes once, and does not come back
// (X509_verify_cert with X509_V_FLAG_TRUSTED_FIRST; Envoy adds X509_V_FLAG_PARTIAL_CHAIN outside its SPIFFE validator).
func follow(chain, bundle []*x509.Certificate) (path []*x509.Certificate, own int) {
	path, rest := []*x509.Certificate{chain[0]}, slices.Clone(chain[1:])
	for own = 1; !selfIssued(path[len(path)-1]); {
		last := path[len(path)-1]
		if roots := fitting(bundle, last); len(roots) > 0 && !slices.ContainsFunc(path[own:], roots[0].Equal) {
			path = append(path, roots[0])
			continue
		}
		next := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return fits(c, last) })
		if next < 0 || len(path) > own {
			break
		}
		path, rest = append(path, rest[next]), slices.Delete(rest, next, next+1)
		own++
	}
	return path, own
}

// fitting are those of bundle that may have signed c.
func fitting(bundle []*x509.Certificate, c *x509.Certificate) (list []*x509.Certificate) {
	for _, root := range bundle {
		if fits(root, c) {
			list = append(list, root)
		}
	}
	return list
}

// authorityKeyID is the extension that says which key, and maybe which certificate, signed (RFC 5280, 4.2.1.1).
var authorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

// fits reports whether BoringSSL takes signer for that of c: by name, key ID, serial number and usage, not by signature
// (X509_check_issued).
func fits(signer, c *x509.Certificate) bool {
	if !sameName(signer.RawSubject, c.RawIssuer) || !maySign(signer) {
		return false
	}
	if len(c.AuthorityKeyId) > 0 && len(signer.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, signer.SubjectKeyId) {
		return false
	}
	for _, e := range c.Extensions {
		var id struct {
			Key    []byte        `asn1:"optional,tag:0"`
			Issuer asn1.RawValue `asn1:"optional,tag:1"`
			Serial *big.Int      `asn1:"optional,tag:2"`
		}
		if !e.Id.Equal(authorityKeyID) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &id); err != nil || id.Serial != nil && id.Serial.Cmp(signer.SerialNumber) != 0 {
			return false
		}
	}
	return true
}

// maySign reports whether a certificate's key usage lets it sign others. Without that extension it does: OpenSSL's roots have none.
func maySign(c *x509.Certificate) bool {
	return c.KeyUsage&x509.KeyUsageCertSign != 0 || len(extension(c, keyUsage)) == 0
}

// extension is the value of one of c's extensions; empty: it is not there.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// selfIssued reports whether BoringSSL takes a certificate for its own signer, and looks for no other above it: by its name, key ID and
// usage. A leaf without a name by an intermediate without one, as Consul's secondary datacenters have, may not sign and so is none.
func selfIssued(c *x509.Certificate) bool { return fits(c, c) }

// place says which certificate of chain c is, or which root.
func place(c *x509.Certificate, chain []*x509.Certificate) string {
	name := quote(c.Subject)
	if len(c.Subject.Names) == 0 && len(c.URIs) > 0 {
		name = quote(c.URIs[0])
	}
	if i := slices.IndexFunc(chain, c.Equal); i >= 0 {
		return fmt.Sprintf("certificate %d of %d (%s)", i+1, len(chain), name)
	}
	return "root " + name
}

// quote makes foreign text fit for a line.
func quote(s fmt.Stringer) string { return fmt.Sprintf("%.200q", s) }

// verifyOne verifies what the i-th of chain says of itself.
func verifyOne(chain []*x509.Certificate, i int, want Wanted) error {
	c := chain[i]
	if err := verifyForm(c); err != nil {
		return err
	}
	if err := Valid(c, want.Now); err != nil {
		return fmt.Errorf("%w: renew it, or compare the clocks of the CA and of this machine", err)
	}
	if i == 0 {
		return verifyLeaf(c, want)
	}
	switch signs := func(below *x509.Certificate) bool { return fits(c, below) }; {
	case selfIssued(c):
		return errors.New("it is self-signed: leave roots out, as a proxy that comes to one looks for no other way")
	case !slices.ContainsFunc(chain, signs):
		return errors.New("it has signed none of the others: leave it out")
	}
	if err := outlived(c, chain[0], want); err != nil {
		return err
	}
	if c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("it lacks the key usage keyCertSign: sign it anew with it")
	}
	return verifySigner(c)
}

// outlived refuses a signer that ends before the leaf.
func outlived(c, leaf *x509.Certificate, want Wanted) error {
	end := leaf.NotAfter
	if want.Outlives || !end.After(c.NotAfter) {
		return nil
	}
	return fmt.Errorf("it ends at %s, before the leaf, at %s: renew it, or ask for leafs of a shorter life", c.NotAfter.Format(time.RFC3339), end.Format(time.RFC3339))
}

// goodSignatures are those that peers accept.
var goodSignatures = []x509.SignatureAlgorithm{
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
	x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.PureEd25519,
}

// Extensions that both BoringSSL and Go act on when they are critical (RFC 5280, 4.2.1).
var (
	keyUsage            = asn1.ObjectIdentifier{2, 5, 29, 15}
	subjectAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	basicConstraints    = asn1.ObjectIdentifier{2, 5, 29, 19}
	nameConstraints     = asn1.ObjectIdentifier{2, 5, 29, 30}
	certificatePolicies = asn1.ObjectIdentifier{2, 5, 29, 32}
	extendedKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// verifyForm verifies what all certificates of a chain are to be.
func verifyForm(c *x509.Certificate) error {
	if c.Version != 3 {
		return fmt.Errorf("it is of X.509 version %d: have the CA make version 3", c.Version)
	}
	if !slices.Contains(goodSignatures, c.SignatureAlgorithm) {
		return fmt.Errorf("it is signed with %s: have the CA sign with SHA-256 or better", c.SignatureAlgorithm)
	}
	known := []asn1.ObjectIdentifier{keyUsage, subjectAltName, basicConstraints, extendedKeyUsage, nameConstraints, certificatePolicies}
	for _, e := range c.Extensions {
		unknown := func(id asn1.ObjectIdentifier) bool { return id.Equal(e.Id) }
		if e.Critical && !slices.ContainsFunc(known, unknown) || slices.ContainsFunc(c.UnhandledCriticalExtensions, unknown) {
			return fmt.Errorf("its critical extension %s is not known to proxies: have the CA leave it out, or not make it critical", e.Id)
		}
	}
	return nil
}

// verifyLeaf verifies what is particular to a leaf.
func verifyLeaf(c *x509.Certificate, want Wanted) error {
	key, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	san, err := URISAN(want.ID.String())
	if err != nil {
		return err
	}
	switch err := LeafKey(c.PublicKey); {
	case err != nil:
		return err
	case want.Key != nil && (!ok || !key.Equal(want.Key)):
		return errors.New("it is for another key than the request's: have the CA sign the request that it got, and return its certificate first")
	case len(c.URIs) != 1 || !bytes.Equal(extension(c, subjectAltName), san):
		return fmt.Errorf("its subject alternative name is not URI:%.200s alone: have the CA take it from the request, and add none", want.ID)
	case c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("it may sign certificates: have the CA make it with CA:FALSE, and without the key usages keyCertSign and cRLSign")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("it lacks the key usage digitalSignature: have the CA add it")
	case !bothSides(c):
		return errors.New("it lacks an extended key usage, as a proxy is server and client with it: have the CA add serverAuth and clientAuth")
	}
	return nil
}

// bothSides reports whether c says that it is for servers and for clients. BoringSSL does not know "any" there.
func bothSides(c *x509.Certificate) bool {
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

// verifySigner verifies that c may sign leafs, as far as c says.
func verifySigner(c *x509.Certificate) error {
	switch err := signerKey(c.PublicKey); {
	case err != nil:
		return err
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("it is not a CA's: sign it with CA:TRUE (basic constraints), or the leaf by another one")
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !bothSides(c):
		return errors.New("its extended key usages are not serverAuth and clientAuth: sign it anew with both, or with none")
	}
	return nil
}

// verifyAnchor verifies a root that fits.
func verifyAnchor(c, leaf *x509.Certificate, want Wanted) error {
	if err := Valid(c, want.Now); err != nil {
		return fmt.Errorf("%w: take it out of the roots, also beside another one of its name and key", err)
	}
	if err := outlived(c, leaf, want); err != nil {
		return err
	}
	return verifySigner(c)
}

// verifyLink verifies that signer, which fits, has signed c.
func verifyLink(c, signer *x509.Certificate) error {
	switch {
	case !bytes.Equal(c.RawIssuer, signer.RawSubject):
		return fmt.Errorf("its issuer is not written as the subject of its signer, %s, is: sign it anew", quote(signer.Subject))
	case c.CheckSignatureFrom(signer) != nil:
		return fmt.Errorf("the first that fits as its signer, %s, has not signed it: give CAs of different keys different names", quote(signer.Subject))
	}
	return nil
}
