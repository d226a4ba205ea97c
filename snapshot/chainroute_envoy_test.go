package snapshot

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// routed is a bootstrap of which a listener has the routes.
func routed(t testing.TB, routes *routev3.RouteConfiguration) *bootstrapv3.Bootstrap {
	t.Helper()
	p := &packer{cache: &Cache{}}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "api",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.any(&routerv3.Router{})}}},
	}
	filter := &listenerv3.Filter{Name: "manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: p.any(manager)}}
	if p.err() != nil {
		t.Fatal(p.err())
	}
	return &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{{
		Name: "api", Address: pipe("@sallyport-never-bound", 0), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter}}},
	}}}}
}

// TestEnvoyTakesChainRoutes has Envoys judge the routes of all cases, each as a virtual host: of what a source lets through by mistake, too.
func TestEnvoyTakesChainRoutes(t *testing.T) {
	all := &routev3.RouteConfiguration{Name: "api", ValidateClusters: wrapperspb.Bool(false)} // as it is where routes come by RDS
	for _, name := range slices.Sorted(maps.Keys(routeCases)) {
		routes, _ := routeCases[name].made(t)
		host := routes.GetVirtualHosts()[0]
		host.Name = strings.ReplaceAll(name, " ", "-")
		host.Domains = []string{fmt.Sprintf("%d.example", len(all.GetVirtualHosts()))}
		all.VirtualHosts = append(all.VirtualHosts, host)
	}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		if err := envoytest.Validate(t, version, routed(t, all)); err != nil {
			t.Error(err)
		}
	}
	// Envoy looks at the routes: one of them spoilt is found.
	all.GetVirtualHosts()[3].GetRoutes()[0].Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: regexMatcher("(")}}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		if err := envoytest.Validate(t, version, routed(t, all)); err == nil {
			t.Errorf("Envoy %s takes an expression that is none", version)
		}
	}
}

// TestLiteralPrefix: a text that an expression matches as a whole begins with it, also where the expression is none for Go.
func TestLiteralPrefix(t *testing.T) {
	for expr, want := range map[string]string{
		"": "/", "a": "/", "/": "/", "/a": "/a", "/a/b.*": "/a/b", "/ab?": "/a", "/ab{0}": "/a", "/a|/b": "/", "(?i)/a": "/", "^/a/b$": "/a/b",
		"/admin/(?!x)": "/admin", "^/admin/(?!x)": "/admin", "/a(?!x)|/b": "/", "(?!x)/a": "/", "/(?!x)": "/", "/ä(?!x)": "/", "/aä(?!x)": "/a", `/a\.b(?!x)`: "/",
		"[": "/", "/abc{2": "/abc{2",
	} {
		if got := literalPrefix(expr); got != want {
			t.Errorf("literalPrefix(%q) = %q, want %q", expr, got, want)
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	const letters, signs = "/ab", "/ab.*+?()|[]{}^$1"
	for range 20000 {
		word := func(of string) string {
			var b strings.Builder
			for range r.IntN(8) {
				b.WriteByte(of[r.IntN(len(of))])
			}
			return b.String()
		}
		expr, text := "/"+word(signs), "/"+word(letters)
		if e, err := regexp.Compile(`\A(?:` + expr + `)\z`); err == nil && e.MatchString(text) && !strings.HasPrefix(text, literalPrefix(expr)) {
			t.Fatalf("literalPrefix(%q) = %q, and it matches %q", expr, literalPrefix(expr), text)
		}
		// What cannot follow for Go only narrows what is before it.
		if e, err := regexp.Compile(`\A(?:` + expr + `)`); err == nil && e.MatchString(text) && !strings.HasPrefix(text, literalPrefix(expr+"(?!b)")) {
			t.Fatalf("literalPrefix(%q) = %q, and it may match %q", expr+"(?!b)", literalPrefix(expr+"(?!b)"), text)
		}
	}
}

// TestEnvoyCountsExpressions: an expression that a user wrote is held to a bound that is never too low.
func TestEnvoyCountsExpressions(t *testing.T) {
	expressions := []string{
		`/api/.*`, `/v[0-9]+/(users|orders)/[^/]+`, `(?i)/kiosk/sessions`, `(?s).*\.(jpg|png|gif)`, `.{100}`, `[^/]{20}`, `\pL+`, `\p{L}\p{N}\p{P}\p{S}`, `\PL`, `[^\pL]`, `\p{Han}\p{Cyrillic}\p{Arabic}\p{So}`, `[\x{80}-\x{ff}]`, `[éèêë]`, `[ア-ン一-龠]`, `(?i)[a-z]+\pN`, `/ä.ö`, `(a|b|c|d)*x?y+`, `\w+\d*\s?`,
		`.*.*.*`, `(?i)ſk`, `[\x00-\x{FF}]`, `(?:/[a-z]{1,30}){1,5}`, `((((a?)?)?)?)*`, `(?:a*b*c*d*e*)*`, `(a{0,3}){0,9}`, `\p{Greek}`, `[à-ü]`, `(|a|b)*?`, `\bx\B`, `(?P<n>a)(?<m>b)`, `[^\x00-\x{ff}]`, `\Qa.b\E`,
	}
	for _, expr := range expressions {
		size := userProgramSize(expr)
		t.Logf("%s: %d", expr, size)
		for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
			if err := envoytest.Validate(t, version, compiling(t, expr, size)); err != nil {
				t.Errorf("%s: the bound %d is too low: %v", expr, size, err)
			}
		}
	}
}
