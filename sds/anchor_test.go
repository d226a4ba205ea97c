package sds_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
)

// TestAnchor demands that an intermediate that was verified once stands for its root with later
// leafs, and that nothing passes with it that does not pass without.
func TestAnchor(t *testing.T) {
	p := newPKI(t)
	now := time.Now()
	intermediate := func(change func(*x509.Certificate), parent *testca.Pair) *pki {
		template := &x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
		if change != nil {
			change(template)
		}
		return &pki{p.root, testca.Sign(t, template, parent)}
	}
	other := newPKI(t) // its intermediate has the same subject
	soon := intermediate(func(c *x509.Certificate) { c.NotAfter = now.Add(time.Minute) }, p.root)
	first := func(s *sds.SVID) []*x509.Certificate { return s.Certificates }
	for _, tt := range []struct {
		name     string
		before   *pki // whose leaf passes first
		leaf     []*x509.Certificate
		at       time.Time
		passes   bool
		remember int
	}{
		{"another leaf of the same", p, first(p.leaf(t, "db", nil)), now, true, 1},
		{"an intermediate of another root", p, first(other.leaf(t, "db", nil)), now, false, 1},
		{"signed by another key than the intermediate's", p, []*x509.Certificate{other.leaf(t, "db", nil).Certificates[0], p.intermediate.Cert}, now, false, 1},
		{"expired leaf", p, first(p.leaf(t, "db", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })), now, false, 1},
		{"for servers alone", p, first(p.leaf(t, "db", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), now, false, 1},
		{"for clients alone", p, first(p.leaf(t, "db", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), now, false, 1},
		{"an intermediate that has ended since", soon, first(soon.leaf(t, "db", nil)), now.Add(2 * time.Minute), false, 1},
		{"a root that has ended since", p, first(p.leaf(t, "db", func(c *x509.Certificate) { c.NotAfter = now.Add(1000 * time.Hour) })), now.Add(101 * time.Hour), false, 1},
		{"without its intermediate", p, first(p.leaf(t, "db", nil))[:1], now, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bundle(p)
			if err := b.Verify(tt.before.leaf(t, "web", nil).Certificates, now); err != nil {
				t.Fatal(err)
			}
			if n := b.Anchors(); n != tt.remember {
				t.Fatalf("%d intermediates are remembered, want %d", n, tt.remember)
			}
			remembered := b.Verify(tt.leaf, tt.at)
			fresh := bundle(p).Verify(tt.leaf, tt.at)
			if (remembered == nil) != tt.passes || (fresh == nil) != tt.passes {
				t.Errorf("Verify with an intermediate that is known = %v, and not = %v; passes should be %t", remembered, fresh, tt.passes)
			}
		})
	}
	for name, change := range map[string]func(*x509.Certificate){
		"no other names": func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"evil.example"} },
		"some names":     func(c *x509.Certificate) { c.PermittedURIDomains = []string{testDomain.Name()} },
	} {
		b, c := bundle(p), intermediate(change, p.root)
		if err := b.Verify(c.leaf(t, "web", nil).Certificates, now); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := b.Anchors(); n != 0 {
			t.Errorf("%s: an intermediate that limits names is remembered", name)
		}
	}
	b := bundle(p)
	for range 10 {
		if err := b.Verify(intermediate(nil, p.root).leaf(t, "web", nil).Certificates, now); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.Anchors(); n > 4 {
		t.Errorf("%d intermediates are remembered: they are not bounded", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	p := newPKI(b)
	bundles, chain := bundle(p), p.leaf(b, "web", nil).Certificates
	b.ReportAllocs()
	for b.Loop() {
		if err := bundles.Verify(chain, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
