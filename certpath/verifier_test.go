package certpath

import (
	"crypto/x509"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestVerifierRemembers demands that what is above a leaf is verified once, and that nothing passes with it that does not pass without.
func TestVerifierRemembers(t *testing.T) {
	p := &pki{t: t}
	edited := func(name string, edit func(*x509.Certificate)) *pki {
		return &pki{t: t, edit: map[string]func(*x509.Certificate){name: edit}}
	}
	other := &pki{t: t, keys: map[string]string{"int1": "other"}, edit: map[string]func(*x509.Certificate){
		"leaf by int1": func(c *x509.Certificate) { c.AuthorityKeyId = []byte("int1") },
	}}
	root1, int1, int2, cross := p.by("root1", "root1"), p.by("int1", "root1"), p.by("int2", "root2"), p.by("root2", "root1")
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	leafOf := func(p *pki, signer string, above ...*x509.Certificate) []*x509.Certificate {
		return append([]*x509.Certificate{p.by("leaf", signer)}, above...)
	}
	one, two := leafOf(p, "int1", int1), leafOf(p, "int2", int2, cross)
	short := edited("int1 by root1", func(c *x509.Certificate) { c.NotAfter = verifyTime.Add(2 * time.Hour) }).by("int1", "root1")
	long := edited("leaf by int1", func(c *x509.Certificate) { c.NotAfter = verifyTime.Add(1001 * time.Hour) })
	for _, tt := range []struct {
		name    string
		before  []*x509.Certificate // passes first
		chain   []*x509.Certificate
		after   time.Duration
		passes  bool
		another bool // it is not what is remembered
	}{
		{name: "another leaf of the same", before: one, chain: leafOf(p, "int1", int1), passes: true},
		{name: "of two intermediates", before: two, chain: leafOf(p, "int2", int2, cross), passes: true},
		{name: "by the root itself", before: leafOf(p, "root1"), chain: leafOf(p, "root1"), passes: true},
		{name: "another intermediate", before: one, chain: two, passes: true, another: true},
		{name: "in another order", before: two, chain: leafOf(p, "int2", cross, int2), passes: true, another: true},
		{name: "signed by another key", before: one, chain: leafOf(other, "int1", int1)},
		{name: "expired", before: one, chain: leafOf(edited("leaf by int1", func(c *x509.Certificate) { c.NotAfter = verifyTime }), "int1", int1)},
		{name: "for servers alone", before: one, chain: leafOf(edited("leaf by int1", serverOnly), "int1", int1)},
		{name: "outlives the root", before: one, chain: leafOf(long, "int1", int1)},
		{name: "an intermediate that has ended since", before: leafOf(p, "int1", short), chain: leafOf(long, "int1", short), after: 2 * time.Hour},
		{name: "before it is valid", before: one, chain: leafOf(edited("leaf by int1", func(c *x509.Certificate) { c.NotBefore = verifyTime.Add(-9 * time.Hour) }), "int1", int1), after: -2 * time.Hour},
		{name: "without its intermediate", before: one, chain: one[:1], another: true},
		{name: "without the cross-signature", before: two, chain: two[:2], another: true},
		{name: "with a root", before: one, chain: append(slices.Clone(one), root1), another: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, want := NewVerifier([]*x509.Certificate{root1}), wantWeb(t, p)
			if err := v.Verify(tt.before, want); err != nil || len(v.known) != 1 {
				t.Fatalf("%v, %d remembered, want 1", err, len(v.known))
			}
			if known := v.above(tt.chain) != nil; known == tt.another {
				t.Errorf("what is above it is known: %t", known)
			}
			want.Now = want.Now.Add(tt.after)
			remembered, fresh := v.Verify(tt.chain, want), VerifyChain(tt.chain, v.bundle, want)
			if (remembered == nil) != tt.passes || (fresh == nil) != tt.passes {
				t.Errorf("with what is known: %v, and without: %v; passes should be %t", remembered, fresh, tt.passes)
			}
		})
	}

	constrained := edited("int1 by root1", func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"evil.example"} })
	v := NewVerifier([]*x509.Certificate{root1})
	if err := v.Verify(leafOf(p, "int1", constrained.by("int1", "root1")), wantWeb(t, p)); err != nil || len(v.known) != 0 {
		t.Errorf("an intermediate that limits names: %v, %d remembered", err, len(v.known))
	}
	for i := range 2 * maxKnown {
		renewed := edited("int1 by root1", func(c *x509.Certificate) { c.NotBefore = verifyTime.Add(-time.Duration(i+1) * time.Minute) }).by("int1", "root1")
		if err := v.Verify(leafOf(p, "int1", renewed), wantWeb(t, p)); err != nil || len(v.known) > maxKnown {
			t.Fatalf("%v, %d remembered", err, len(v.known))
		}
	}
}

// TestVerifierForgetsNothing has chains of the certificates of a rotation, good and bad, verified in any order at any time: what is remembered
// changes no answer.
func TestVerifierForgetsNothing(t *testing.T) {
	p, random := &pki{t: t}, rand.New(rand.NewPCG(1, 2))
	leafs := []*x509.Certificate{p.by("leaf", "int1"), p.by("leaf", "int2"), p.by("leaf", "root1"), p.by("leaf", "int1")}
	signers := []*x509.Certificate{
		p.by("int1", "root1"), p.by("int2", "root2"), p.by("root2", "root1"), p.by("root2", "root2"), p.by("int2", "root1"), p.by("int1", "int2"), p.by("root1", "root2"),
		(&pki{t: t, edit: map[string]func(*x509.Certificate){"int1 by root1": func(c *x509.Certificate) { c.NotAfter = verifyTime.Add(30 * time.Minute) }}}).by("int1", "root1"),
	}
	passed := 0
	for range 20 {
		bundle := rotationBundles(p)[random.IntN(4)]
		v := NewVerifier(bundle)
		for range 200 {
			chain := []*x509.Certificate{leafs[random.IntN(len(leafs))]}
			for range random.IntN(3) {
				chain = append(chain, signers[random.IntN(len(signers))])
			}
			want := wantWeb(t, p)
			want.Now, want.Outlives = want.Now.Add(time.Duration(random.IntN(100)-10)*time.Minute), random.IntN(2) == 0
			fresh, remembered := VerifyChain(chain, bundle, want), v.Verify(chain, want)
			if (fresh == nil) != (remembered == nil) || fresh != nil && fresh.Error() != remembered.Error() {
				t.Fatalf("%q under %q at %s: %v, and with what is remembered: %v", names(chain), names(bundle), want.Now, fresh, remembered)
			}
			if fresh == nil {
				passed++
			}
		}
	}
	if passed < 400 {
		t.Errorf("%d of 4,000 passed: that shows little", passed)
	}
}

// BenchmarkVerifier is one leaf whose intermediates are known. The ratio is to Go's search with the intermediate in the root's place, in the
// same run.
func BenchmarkVerifier(b *testing.B) {
	p := &pki{t: b}
	for name, chain := range map[string][]*x509.Certificate{
		"intermediates=1": {p.by("leaf", "int1"), p.by("int1", "root1")},
		"intermediates=2": {p.by("leaf", "int2"), p.by("int2", "root2"), p.by("root2", "root1")},
	} {
		b.Run(name, func(b *testing.B) {
			v, want := NewVerifier([]*x509.Certificate{p.by("root1", "root1")}), wantWeb(b, p)
			if err := v.Verify(chain, want); err != nil {
				b.Fatal(err)
			}
			options := x509.VerifyOptions{Roots: x509.NewCertPool(), CurrentTime: verifyTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			options.Roots.AddCert(chain[1])
			var search time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				begin := time.Now()
				if _, err := chain[0].Verify(options); err != nil {
					b.Fatal(err)
				}
				search += time.Since(begin)
				b.StartTimer()
				if err := v.Verify(chain, want); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/search.Seconds(), "x-search/op")
		})
	}
}
