package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const testDomain = "11111111-2222-3333-4444-555555555555.consul"

func trustDomain(t testing.TB) spiffeid.TrustDomain {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(testDomain)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// caDir is a directory that does not exist yet.
func caDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "ca")
}

func mustOpen(t testing.TB, cfg Config) *CA {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustClose(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func service(td spiffeid.TrustDomain, name string) identity.Service {
	return identity.Service{TrustDomain: td, Datacenter: "dc1", Name: identity.NewName(name)}
}

// issuerOf issues leafs of c that live as long as c was told.
func issuerOf(t testing.TB, c *CA) *Issuer {
	t.Helper()
	i, err := NewIssuer(IssuerConfig{Provider: c, TrustDomain: c.TrustDomain(), TTL: c.authority.leafTTL})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// oneLeaf is a leaf of name.
func oneLeaf(t testing.TB, c *CA, name string) *sds.SVID {
	t.Helper()
	svid, _, err := issuerOf(t, c).issue(t.Context(), service(c.TrustDomain(), name).ID())
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

// rootOf is the root that signs.
func rootOf(c *CA) *x509.Certificate { return c.authority.trusted()[0] }

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, data []byte, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// forge makes a certificate of profile p as sign would, changed by mutate and seen by no check. A
// nil signer: it signs itself.
func forge(t testing.TB, p profile, uri string, signer *pair, mutate func(*x509.Certificate)) *pair {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	own, err := newPair(rootProfile(), &url.URL{Scheme: "spiffe", Host: testDomain}, time.Hour, time.Now(), nil) // for its key
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-backdate), NotAfter: now.Add(30 * time.Minute),
		URIs: []*url.URL{u}, KeyUsage: p.usage, ExtKeyUsage: p.extended, BasicConstraintsValid: true, IsCA: p.ca,
		MaxPathLen: p.pathLen, MaxPathLenZero: p.ca && p.pathLen == 0,
	}
	if p.ca {
		template.Subject = pkix.Name{CommonName: "forged " + p.name}
	}
	if mutate != nil {
		mutate(template)
	}
	parent, parentKey := template, own.key
	if signer != nil {
		parent, parentKey = signer.cert, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, own.key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert, own.key}
}
