package ca

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// BenchmarkIssue is one leaf: key, signature, check.
func BenchmarkIssue(b *testing.B) {
	c := mustOpen(b, Config{Dir: caDir(b)})
	defer mustClose(b, c)
	l := &leaf{id: service(c.TrustDomain(), "web")}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.issue(l); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTend is one look at all leafs when none is due.
func BenchmarkTend(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("size=%d", n), func(b *testing.B) {
			c := mustOpen(b, Config{Dir: caDir(b)})
			defer mustClose(b, c)
			now := time.Now()
			for i := range n {
				key := leafKey{id: identity.Service{TrustDomain: c.TrustDomain(), Datacenter: "dc1", Name: identity.NewName(strconv.Itoa(i))}}
				c.leafs[key] = &leaf{id: key.id, watchers: 1, term: newTerm(now, now, now.Add(DefaultLeafTTL), 0.5)}
			}
			b.ReportAllocs()
			for b.Loop() {
				c.tend(time.Now())
			}
		})
	}
}
