package snapshot

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/chain"
)

// BenchmarkChainRoutes makes the routes of a router with ten routes, each to a splitter of three legs with failovers, as each sidecar that
// dials by it has them.
func BenchmarkChainRoutes(b *testing.B) {
	var c routeCase
	for i := range 10 {
		c.routes = append(c.routes, chain.Route{
			Match:       &chain.HTTPMatch{PathRegex: fmt.Sprintf("/v%d/[a-z]+/.*", i), Header: []chain.HeaderMatch{{Name: "x-a", Exact: "1"}}, Methods: []string{"GET", "POST"}},
			Destination: &chain.Destination{Service: fmt.Sprintf("s%d", i), RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"x-b": "%PROTOCOL%"}}},
		})
	}
	made := c.compiled(b)
	for i := range 10 {
		for leg := range 3 {
			key := fmt.Sprintf("resolver:s%d-%d", i, leg)
			made.Nodes[key] = &chain.Node{Type: chain.ResolverNode, Resolver: &chain.Resolution{Failover: []string{"a", "b"}}}
		}
		made.Nodes[fmt.Sprintf("resolver:s%d.default.default.dc1", i)] = &chain.Node{Type: chain.SplitterNode, Splits: []chain.NodeSplit{
			{Weight: 98, Next: fmt.Sprintf("resolver:s%d-0", i)}, {Weight: 1, Next: fmt.Sprintf("resolver:s%d-1", i)}, {Weight: 1, Next: fmt.Sprintf("resolver:s%d-2", i)},
		}}
	}
	p := &packer{cache: &Cache{}}
	b.ReportAllocs()
	for b.Loop() {
		m := chainRoutes{packer: p, chain: made, regexSize: 10000, cluster: func(node string) string { return node }, warn: func(f string, a ...any) { b.Fatalf(f, a...) }}
		if n := len(m.routes()); n != 11 {
			b.Fatal(n)
		}
	}
}
