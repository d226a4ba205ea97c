package ca

import "testing"

// BenchmarkIssue is one leaf: key, request, signature, check.
func BenchmarkIssue(b *testing.B) {
	c := mustOpen(b, Config{Dir: caDir(b)})
	defer mustClose(b, c)
	issuer, id := issuerOf(b, c), service(c.TrustDomain(), "web").ID()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := issuer.issue(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
