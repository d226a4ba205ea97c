package snapshot

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// random makes values as people write them, and as nobody should.
type random struct{ *rand.Rand }

var oddTexts = []string{
	"", "a", "x-a", "X-B", "host", "Host", ":path", ":authority", "content-length", "transfer-encoding", "connection", "te", "a b", "a\nb", "a\x00b", "\xff", "ä", "%", "50%", "%%", "%X%", "%PROTOCOL%",
	"%REQ(x-a)%", "%REQ(%", "%START_TIME(%s)%", "%DYNAMIC_METADATA(a:b)%", "%REQ(x?y):12%", "/", "/a", "/a?b", "/a#b", "/ä", "//", "a/b", "*", "0", "{", "(", "x:y", "x,y", "x;y", "\t", " a ",
	strings.Repeat("a", 1024), strings.Repeat("a", 20000), "/%zz", "UPGRADE", "get", "GET", "CONNECT",
}

func (r random) text() string { return oddTexts[r.IntN(len(oddTexts))] }

func (r random) list(n int) (out []string) {
	for range r.IntN(n) {
		out = append(out, r.text())
	}
	return out
}

func (r random) yes() bool { return r.IntN(3) == 0 }

func (r random) duration() time.Duration {
	return []time.Duration{0, 1, -1, time.Second, time.Hour, -time.Hour, 1<<63 - 1, -1 << 63, time.Nanosecond * 1500}[r.IntN(9)]
}

// expression is a regular expression, mostly.
func (r random) expression(depth int) string {
	atoms := []string{
		"a", "/", ".", `\.`, "[a-z]", "[^/]", `\d`, `\w`, `\s`, "(?i)k", "(?s).", "^", "$", `\b`, `\pL`, "[à-ü]", `\x41`, `\x{e4}`, `\x{20ac}`, "(", ")", "[", "?", "*", "{2}", `\C`, `\1`, "(?!a)", "(?<n>a)", "(?P<n>a)", `\Qa.b\E`,
		`\pN`, `\p{Greek}`, `\p{So}`, `\PL`, `[[:alpha:]]`, `\z`, `\A`, "\xff", "\n",
	}
	if depth == 0 || r.IntN(3) == 0 {
		return atoms[r.IntN(len(atoms))]
	}
	inner := r.expression(depth - 1)
	switch r.IntN(6) {
	case 0:
		return "(" + inner + ")*"
	case 1:
		return "(?:" + inner + "|" + r.expression(depth-1) + ")"
	case 2:
		return "(?:" + inner + ")" + []string{"?", "+", "*?", "{1,5}", "{3}", "{0,20}", "{1000}"}[r.IntN(7)]
	}
	return inner + r.expression(depth-1)
}

func (r random) modifiers() *chain.HeaderModifiers {
	if !r.yes() {
		return nil
	}
	m := &chain.HeaderModifiers{Add: map[string]string{}, Set: map[string]string{}, Remove: r.list(2)}
	for range r.IntN(2) {
		m.Add[r.text()] = r.text()
	}
	for range r.IntN(2) {
		m.Set[r.text()] = r.text()
	}
	return m
}

func (r random) route() *chain.Route {
	m := &chain.HTTPMatch{CaseInsensitive: r.yes()}
	switch r.IntN(4) {
	case 0:
		m.PathExact = r.text()
	case 1:
		m.PathPrefix = r.text()
	case 2:
		m.PathRegex = r.expression(3)
	}
	if r.yes() {
		h := chain.HeaderMatch{Name: r.text(), IgnoreCase: r.yes(), Invert: r.yes()}
		switch r.IntN(7) {
		case 0:
			h.Present = true
		case 1:
			h.Exact = r.text()
		case 2:
			h.Prefix = r.text()
		case 3:
			h.Suffix = r.text()
		case 4:
			h.Contains = r.text()
		default:
			h.Regex = r.expression(2)
		}
		m.Header = append(m.Header, h)
	}
	if r.yes() {
		q := chain.QueryMatch{Name: r.text()}
		switch r.IntN(3) {
		case 0:
			q.Present = true
		case 1:
			q.Exact = r.text()
		default:
			q.Regex = r.expression(2)
		}
		m.QueryParam = append(m.QueryParam, q)
	}
	if r.yes() {
		m.Methods = r.list(3)
	}
	d := &chain.Destination{
		RequestTimeout: r.duration(), IdleTimeout: r.duration(), NumRetries: []uint32{0, 1, 5, 1<<32 - 1}[r.IntN(4)], RetryOnConnectFailure: r.yes(),
		RequestHeaders: r.modifiers(), ResponseHeaders: r.modifiers(),
	}
	if r.yes() {
		d.RetryOn = append(r.list(2), "5xx")
		d.RetryOnStatusCodes = []uint32{503, r.Uint32()}
	}
	if r.yes() {
		d.PrefixRewrite = r.text()
	}
	return &chain.Route{Match: m, Destination: d}
}

// chain is a router of routes to a splitter with a balancer; its node of the next is "splitter" or "resolver".
func (r random) chain(routes int) *chain.Chain {
	api := identity.NewName("api")
	resolver := &chain.Node{Type: chain.ResolverNode, Resolver: &chain.Resolution{Target: "api", RequestTimeout: r.duration()}}
	splitter := &chain.Node{Type: chain.SplitterNode, LoadBalancer: &chain.LoadBalancer{Policy: "ring_hash"}}
	for range 1 + r.IntN(3) {
		splitter.Splits = append(splitter.Splits, chain.NodeSplit{
			Definition: &chain.Split{RequestHeaders: r.modifiers(), ResponseHeaders: r.modifiers()}, Weight: []float64{0, 0.01, 33.33, 100}[r.IntN(4)], Next: "resolver",
		})
	}
	for range r.IntN(3) {
		splitter.LoadBalancer.HashPolicies = append(splitter.LoadBalancer.HashPolicies, chain.HashPolicy{
			Field: []string{"", "header", "cookie", "query_parameter"}[r.IntN(4)], FieldValue: r.text(), SourceIP: r.yes(), Terminal: r.yes(),
			Cookie: &chain.CookieConfig{Session: r.yes(), TTL: r.duration(), Path: r.text()},
		})
	}
	router := &chain.Node{Type: chain.RouterNode}
	for range routes {
		router.Routes = append(router.Routes, chain.NodeRoute{Definition: r.route(), Next: []string{"resolver", "splitter"}[r.IntN(2)]})
	}
	return &chain.Chain{Service: api, Protocol: "http", Start: "router", Nodes: map[string]*chain.Node{"router": router, "splitter": splitter, "resolver": resolver}}
}

// TestEnvoyTakesAnyRoutes: whatever a chain says, Envoys take what is made of it, under the bound for expressions that they have by default. One route that they
// refuse would take all others with it.
func TestEnvoyTakesAnyRoutes(t *testing.T) {
	const seed = 1
	r := random{rand.New(rand.NewPCG(seed, 5))}
	all := &routev3.RouteConfiguration{Name: "api", ValidateClusters: wrapperspb.Bool(false)}
	served, refused := 0, 0
	for range 300 {
		p := &packer{cache: &Cache{}}
		m := chainRoutes{packer: p, chain: r.chain(10), regexSize: 100, cluster: func(node string) string { return node }, warn: func(string, ...any) {}}
		host := &routev3.VirtualHost{Name: strconv.Itoa(len(all.GetVirtualHosts())), Domains: []string{fmt.Sprintf("%d.example", len(all.GetVirtualHosts()))}, Routes: m.routes()}
		for _, route := range host.GetRoutes() {
			if route.GetDirectResponse() == nil {
				served++
			} else {
				refused++
			}
		}
		all.VirtualHosts = append(all.VirtualHosts, host)
		if p.any(host); p.err() != nil {
			t.Fatal(p.err())
		}
	}
	t.Logf("%d routes are served, %d answered 503", served, refused)
	if served < 100 || refused < 100 {
		t.Errorf("%d routes are served and %d not: too few of a kind to say anything", served, refused)
	}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		if err := envoytest.Validate(t, version, routed(t, all)); err != nil {
			t.Error(err)
		}
	}
}

// TestEnvoyTakesAnyExpression does the same for expressions alone.
func TestEnvoyTakesAnyExpression(t *testing.T) {
	const seed = 1
	r := random{rand.New(rand.NewPCG(seed, 6))}
	c := chainRoutes{regexSize: 100}
	all := &routev3.RouteConfiguration{Name: "api", ValidateClusters: wrapperspb.Bool(false)}
	host := &routev3.VirtualHost{Name: "api", Domains: []string{"*"}}
	all.VirtualHosts = append(all.VirtualHosts, host)
	for len(host.GetRoutes()) < 3000 {
		expr := r.expression(5)
		if c.expressible(expr) != nil || !utf8.ValidString(expr) {
			continue
		}
		host.Routes = append(host.Routes, &routev3.Route{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: regexMatcher(expr)}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "api"}}},
		})
	}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		if err := envoytest.Validate(t, version, routed(t, all)); err != nil {
			t.Error(err)
		}
	}
}
