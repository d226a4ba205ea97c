package bundle

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxDocument bounds a document in bytes, maxAuthorities its certificates, and maxKeys its keys of JWT-SVIDs. Of a certificate no more
	// than maxCertificate bytes are taken: each Envoy and each process is told them all.
	maxDocument    = 1 << 20
	maxAuthorities = 32
	maxKeys        = 32
	maxCertificate = 8 << 10
	// DefaultRefreshHint is how often a bundle is asked for that does not say it (SPIFFE Federation, 4.1).
	DefaultRefreshHint = 5 * time.Minute
	// MinRefreshHint is the least that a bundle may say.
	MinRefreshHint = 10 * time.Second
	// MaxRefreshHint is the most.
	MaxRefreshHint = time.Hour
)

// Document is what somebody says that the bundle of a trust domain is. It is immutable.
type Document struct {
	trustDomain spiffeid.TrustDomain
	// authorities are CA certificates, at least one, in the order in which they came.
	authorities []*x509.Certificate
	keys        map[string]crypto.PublicKey // of JWT-SVIDs
	sequence    uint64
	sequenced   bool
	hint        time.Duration
}

// parse reads the bundle of a trust domain: a SPIFFE document (a JWK set, SPIFFE Trust Domain and Bundle, 4) or certificates in PEM.
// The document does not say whose it is, but what it says of that has to fit. It is an error unless all of its certificates are CAs'.
func parse(td spiffeid.TrustDomain, text []byte) (*Document, error) {
	d, err := decode(td, text)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", td, err)
	}
	return d, nil
}

func decode(td spiffeid.TrustDomain, text []byte) (*Document, error) {
	text = bytes.TrimSpace(text)
	switch {
	case td.IsZero():
		return nil, errors.New("no trust domain")
	case len(text) > maxDocument:
		return nil, fmt.Errorf("more than %d bytes", maxDocument)
	case len(text) == 0:
		return nil, errors.New("nothing is in it")
	case text[0] != '{':
		return parsePEM(td, text)
	}
	b, err := spiffebundle.Parse(td, text)
	if err != nil {
		return nil, fmt.Errorf("no SPIFFE bundle: %w", err)
	}
	d := &Document{trustDomain: td, authorities: b.X509Authorities(), keys: b.JWTAuthorities(), hint: DefaultRefreshHint}
	if hint, ok := b.RefreshHint(); ok {
		d.hint = min(max(hint, MinRefreshHint), MaxRefreshHint)
	}
	d.sequence, d.sequenced = b.SequenceNumber()
	return d, nil
}

func parsePEM(td spiffeid.TrustDomain, text []byte) (*Document, error) {
	d := &Document{trustDomain: td, hint: DefaultRefreshHint}
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		switch {
		case block == nil:
			return nil, errors.New("neither a SPIFFE document (a JWK set) nor certificates in PEM")
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("a PEM block is a %.50q, want certificates alone", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(d.authorities)+1, err)
		}
		d.authorities = append(d.authorities, c)
		text = rest
	}
	return d, nil
}

// check returns an error unless d can be believed, as far as that is seen in it alone.
func (d *Document) check() error {
	switch {
	case len(d.authorities) == 0:
		return errors.New("no certificate is in it (keys of the use x509-svid)")
	case len(d.authorities) > maxAuthorities:
		return fmt.Errorf("%d certificates, %d at most", len(d.authorities), maxAuthorities)
	case len(d.keys) > maxKeys:
		return fmt.Errorf("%d keys of JWT-SVIDs, %d at most", len(d.keys), maxKeys)
	}
	for id, key := range d.keys {
		switch key.(type) {
		case *ecdsa.PublicKey, *rsa.PublicKey:
		default: // a secret, or a private key, that nobody should have sent
			return fmt.Errorf("the key %.100q of JWT-SVIDs is no public key of the kinds EC and RSA", id)
		}
	}
	for _, c := range d.authorities {
		if len(c.Raw) > maxCertificate {
			return fmt.Errorf("the certificate %s has %d bytes, %d at most", name(c), len(c.Raw), maxCertificate)
		}
		if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("the certificate %s is not a CA's", name(c))
		}
		for _, u := range c.URIs {
			if u.Scheme == "spiffe" && u.String() != d.trustDomain.IDString() {
				return fmt.Errorf("the certificate %s is of %.200q: is this the bundle of another trust domain?", name(c), u)
			}
		}
	}
	return nil
}

// name is how a certificate is told from others.
func name(c *x509.Certificate) string {
	return fmt.Sprintf("%.100q with serial number %x", c.Subject.String(), c.SerialNumber)
}

// TrustDomain is whose bundle d is.
func (d *Document) TrustDomain() spiffeid.TrustDomain { return d.trustDomain }

// Sequence is its number, which grows with each change; ok is false if it has none.
func (d *Document) Sequence() (n uint64, ok bool) { return d.sequence, d.sequenced }

// RefreshHint is how often it wants to be asked for, within MinRefreshHint and MaxRefreshHint.
func (d *Document) RefreshHint() time.Duration { return d.hint }

// same reports whether d and o say the same of who is trusted.
func (d *Document) same(o *Document) bool {
	return bytes.Equal(d.digest(), o.digest())
}

// digest is what is trusted by d, whatever the order in which it is said.
func (d *Document) digest() []byte {
	var lines []string
	for _, c := range d.authorities {
		lines = append(lines, "x509 "+string(c.Raw))
	}
	for id, key := range d.keys {
		der, _ := x509.MarshalPKIXPublicKey(key) // of a kind that spiffebundle took
		lines = append(lines, "jwt "+id+" "+string(der))
	}
	slices.Sort(lines)
	return []byte(strings.Join(slices.Compact(lines), "\n"))
}

// JSON is d as a SPIFFE document. Equal documents have the same text.
func (d *Document) JSON() ([]byte, error) {
	out := struct {
		Keys        []jose.JSONWebKey `json:"keys"`
		Sequence    *uint64           `json:"spiffe_sequence,omitempty"`
		RefreshHint int64             `json:"spiffe_refresh_hint,omitempty"`
	}{Keys: []jose.JSONWebKey{}, RefreshHint: int64(d.hint / time.Second)}
	for _, c := range d.authorities {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: c.PublicKey, Certificates: []*x509.Certificate{c}, Use: "x509-svid"})
	}
	out.Keys = append(out.Keys, jwtKeys(d.keys)...)
	if d.sequenced {
		out.Sequence = &d.sequence
	}
	return json.Marshal(out)
}

// PEM is the certificates of d.
func (d *Document) PEM() string {
	var text []byte
	for _, c := range d.authorities {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(text)
}

// jwtKeys are keys by their IDs, as a JWK set has them.
func jwtKeys(keys map[string]crypto.PublicKey) (out []jose.JSONWebKey) {
	for _, id := range slices.SortedFunc(maps.Keys(keys), cmp.Compare[string]) {
		out = append(out, jose.JSONWebKey{Key: keys[id], KeyID: id, Use: "jwt-svid"})
	}
	return out
}
