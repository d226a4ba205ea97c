// Package token is how a proxy proves who it is: a JWT per proxy, which its Envoy sends with every
// xDS stream and every ext_authz call. An Issuer mints and verifies tokens with a key of its own,
// offline; Authorizer reads tokens from gRPC calls, and has an Authority judge them. Applications
// without a sidecar have tokens of the same key for another audience: neither is good for the other.
//
// A token never appears in an error or a log. All methods may be called by several goroutines.
package token

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/recent"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The aud claim: what a token is for.
const (
	audience            = "sallyport-xds"
	applicationAudience = "sallyport-api"
)

// meant says in words what a token of an audience is for.
var meant = map[string]string{audience: "xDS", applicationAudience: "the HTTP API"}

const (
	// issuerPath follows the trust domain in the iss claim.
	issuerPath = "/sallyport"
	// backDated is how far nbf lies before iat, so that a clock that is set back by less does not
	// void a fresh token. It is the only leeway there is: exp is exact.
	backDated = time.Minute
	// maxProxyID bounds a proxy's ID in bytes. Envoy's node.id is the same text.
	maxProxyID = 512
	// maxToken bounds the tokens that are parsed, in bytes. Escaped and base64-encoded, a proxy ID
	// of maxProxyID fits.
	maxToken = 8 << 10
	// maxVerified bounds how many verified tokens are kept. One that was dropped is verified again
	// (about 50 µs).
	maxVerified = 16 << 10
)

// errExpired marks a token that was valid until it expired.
var errExpired = errors.New("token has expired")

var errUser = errors.New("a user has a number that is not negative, and -1 stands for none")

var errMalformed = errors.New("not a token of this control plane, or cut or changed on its way")

// algorithms are those that a token may be signed with. There is one, which excludes "none" and any
// confusion of keys.
func algorithms() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.EdDSA} }

// Config is what an Issuer needs. File and TrustDomain are required.
type Config struct {
	// File holds the signing key; see Open.
	File string
	// Keys encrypt File. Nil: it is in clear.
	Keys *keyring.Keyring
	// TrustDomain is the mesh's. Tokens of another one are refused.
	TrustDomain spiffeid.TrustDomain
	// RevokedFile records which tokens were revoked. Empty: it is forgotten at a restart.
	RevokedFile string
}

// Issuer mints tokens and verifies them.
type Issuer struct {
	issuer       string
	public       ed25519.PublicKey
	signer       jose.Signer
	verified     *recent.Table[verified]
	applications *recent.Table[*application]
	revoked      *revocations
}

// verified is what is kept of a token whose signature and claims are valid.
type verified struct {
	proxy     identity.ProxyID
	proof     identity.Proof
	notBefore int64 // Unix seconds
	issued    int64 // 0: it does not say
}

// Subject is whom a token is made for: a proxy, as it is defined now. Proxy and Service are
// required; UID is the user that the definition names, -1 where it names none.
type Subject struct {
	Proxy   identity.ProxyID
	Service identity.Name
	UID     int
}

// Minted is a new token. Printing it prints its ID.
type Minted struct {
	Text, ID string
	Expires  time.Time
}

// String is the token's ID.
func (m Minted) String() string { return "token " + m.ID }

// GoString is String.
func (m Minted) GoString() string { return m.String() }

// claims are what a token says.
type claims struct {
	jwt.Claims
	// Service and UID bind the token; tokens of releases before have neither. Service is
	// partition/namespace/service.
	Service string `json:"svc,omitempty"`
	UID     *int   `json:"uid,omitempty"`
}

// Open returns the issuer whose key is in c.File, and makes that file, readable for its owner
// alone, if there is none; its directory must exist. A file that others can read, that is somebody
// else's or that is damaged is an error: with a key of unknown origin every proxy could be
// impersonated, and a new one behind the operator's back would lock all proxies out.
func Open(c Config) (*Issuer, error) {
	if c.TrustDomain.IsZero() {
		return nil, errors.New("token key: no trust domain")
	}
	key, err := openKey(c.File, c.Keys)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("token key %s: %w", c.File, err)
	}
	revoked, err := openRevocations(c.RevokedFile)
	if err != nil {
		return nil, err
	}
	public, _ := key.Public().(ed25519.PublicKey)
	return &Issuer{
		issuer:       c.TrustDomain.IDString() + issuerPath,
		public:       public,
		signer:       signer,
		verified:     recent.New[verified](maxVerified),
		applications: recent.New[*application](maxApplications),
		revoked:      revoked,
	}, nil
}

// String says whose issuer i is. It keeps the key out of what prints an Issuer.
func (i *Issuer) String() string { return "issuer " + i.issuer }

// GoString is String.
func (i *Issuer) GoString() string { return i.String() }

// Mint returns a token of s, which ends after ttl, rounded up to a whole second. A ttl below one
// second or beyond MaxLife is an error, and so is an s that no token can carry.
func (i *Issuer) Mint(s Subject, ttl time.Duration) (Minted, error) {
	if err := checkProxy(s.Proxy); err != nil {
		return Minted{}, err
	}
	if err := s.Service.Check(); err != nil || s.UID < -1 {
		return Minted{}, fmt.Errorf("token for %q: the service %q, user %d: %w", s.Proxy, s.Service, s.UID, cmp.Or(err, errUser))
	}
	if ttl < time.Second || ttl > MaxLife {
		return Minted{}, fmt.Errorf("token for %q: lifetime %v: must be between one second and %v", s.Proxy, ttl, MaxLife)
	}
	now := time.Now()
	m := Minted{ID: rand.Text(), Expires: now.Add(ttl + time.Second - 1).Truncate(time.Second)}
	var err error
	m.Text, err = jwt.Signed(i.signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer:    i.issuer,
			Subject:   string(s.Proxy),
			Audience:  jwt.Audience{audience},
			Expiry:    jwt.NewNumericDate(m.Expires),
			NotBefore: jwt.NewNumericDate(now.Add(-backDated)),
			IssuedAt:  jwt.NewNumericDate(i.issuable(s.Proxy, now)),
			ID:        m.ID,
		},
		Service: binding(s.Service),
		UID:     &s.UID,
	}).Serialize()
	if err != nil {
		return Minted{}, fmt.Errorf("token for %q: %w", s.Proxy, err)
	}
	return m, nil
}

// verify returns what a token says. The error of one that has expired wraps
// errExpired. The signature is checked the first time and the result kept, so that later calls take
// no lock and allocate nothing; the times, and whether it was revoked, are checked in every call.
func (i *Issuer) verify(token string) (verified, error) {
	v, ok := i.verified.Load(token)
	if !ok {
		var err error
		if v, err = i.read(token); err != nil {
			return verified{}, err
		}
	}
	now := time.Now().Unix()
	switch {
	case now >= v.proof.Expires: // RFC 7519, 4.1.4: not on or after
		return verified{}, fmt.Errorf("%w at %s", errExpired, time.Unix(v.proof.Expires, 0).UTC().Format(time.RFC3339))
	case now < v.notBefore:
		return verified{}, fmt.Errorf("token is not valid before %s: is the clock right?", time.Unix(v.notBefore, 0).UTC().Format(time.RFC3339))
	case i.revoked.current.Load().has(v):
		return verified{}, fmt.Errorf("token %.64q was revoked", v.proof.ID)
	}
	if !ok {
		i.verified.Store(token, v, func(v verified) bool { return now >= v.proof.Expires })
	}
	return v, nil
}

// read checks everything of a proxy's token but its times.
func (i *Issuer) read(token string) (verified, error) {
	c, err := i.parse(token, audience)
	if err != nil {
		return verified{}, err
	}
	p := identity.ProxyID(c.Subject)
	if err := checkProxy(p); err != nil {
		return verified{}, err
	}
	proof := identity.Proof{ID: c.ID, Expires: int64(*c.Expiry)}
	if c.Service != "" || c.UID != nil {
		service, ok := boundTo(c.Service)
		if !ok || c.UID == nil {
			return verified{}, errors.New("token is bound to nothing that this release knows")
		}
		proof.Service, proof.UID = service, *c.UID
		if proof.Service.Check() != nil {
			return verified{}, errors.New("token is bound to a service whose name cannot be one")
		}
	}
	v := verified{proxy: p, proof: proof, notBefore: int64(*c.NotBefore)}
	if c.IssuedAt != nil {
		v.issued = int64(*c.IssuedAt)
	}
	return v, nil
}

// boundTo is the service that a claim names.
func boundTo(claim string) (identity.Name, bool) {
	parts := strings.Split(claim, "/")
	if len(parts) != 3 {
		return identity.Name{}, false
	}
	return identity.Name{Partition: parts[0], Namespace: parts[1], Service: parts[2]}, true
}

// binding is the claim that names a service.
func binding(n identity.Name) string {
	return strings.Join([]string{n.Partition, n.Namespace, n.Service}, "/")
}

// parse returns what a token for that audience says, if this issuer has signed it. It has an end and a beginning.
func (i *Issuer) parse(token, wanted string) (c claims, err error) {
	if len(token) > maxToken {
		return c, fmt.Errorf("token of %d bytes is longer than any that is minted", len(token))
	}
	// What is signed are decoded bytes, encoded anew: without this check one token would have several
	// spellings.
	for part := range strings.SplitSeq(token, ".") {
		if !canonical(part) {
			return c, errMalformed
		}
	}
	// The parser's errors may quote the token, so they are not wrapped.
	parsed, err := jwt.ParseSigned(token, algorithms())
	if err != nil {
		return c, errMalformed
	}
	if err := parsed.Claims(i.public, &c); err != nil {
		return c, errors.New("token is not signed by this control plane, or not with its present key")
	}
	switch {
	case c.Issuer != i.issuer:
		return c, errors.New("token is of another mesh")
	case len(c.Audience) != 1 || c.Audience[0] != wanted:
		return c, fmt.Errorf("token is not meant for %s", meant[wanted])
	case c.Expiry == nil || c.NotBefore == nil:
		return c, errors.New("token has no bounds in time")
	}
	return c, nil
}

// canonical reports whether part is base64 in its only strict spelling: decoders ignore line breaks
// and spare bits.
func canonical(part string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && !strings.ContainsAny(part, "\r\n")
}

// checkProxy refuses IDs that a token would not preserve, and the empty one.
func checkProxy(p identity.ProxyID) error {
	switch {
	case p == "":
		return errors.New("token without a proxy")
	case len(p) > maxProxyID:
		return fmt.Errorf("token for a proxy whose ID has %d bytes: must be at most %d", len(p), maxProxyID)
	case !utf8.ValidString(string(p)):
		return errors.New("token for a proxy whose ID is not UTF-8")
	}
	return nil
}
