package ca

import (
	"context"
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
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
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

// oneLeaf is the first leaf that a watch of name gives.
func oneLeaf(t testing.TB, c *CA, name string) *x509svid.SVID {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got *x509svid.SVID
	if err := c.WatchSVID(ctx, identity.Caller{Proxy: "p"}, service(c.TrustDomain(), name), func(s *x509svid.SVID) {
		got = s
		cancel()
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

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

// forge makes a certificate of profile p as sign would, changed by mutate and seen by no check. A nil signer: it signs itself.
func forge(t testing.TB, p profile, uri string, signer *pair, mutate func(*x509.Certificate)) *pair {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	own, err := sign(rootProfile(), &url.URL{Scheme: "spiffe", Host: testDomain}, time.Hour, time.Now(), nil) // for its key
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
