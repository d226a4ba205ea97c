package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/golden"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// routeCase is what users write of api, and of others that it leads to.
type routeCase struct {
	routes    []chain.Route
	splits    []chain.Split
	resolver  chain.Resolver // of api
	resolvers map[string]chain.Resolver
	spoil     func(*chain.Chain) // what no source lets through
	// warnings are parts of those that there have to be, in order.
	warnings []string
}

// to is a route with a destination for all requests.
func to(d chain.Destination) []chain.Route { return []chain.Route{{Destination: &d}} }

// match is a route for some requests.
func match(m chain.HTTPMatch) []chain.Route { return []chain.Route{{Match: &m}} }

// headerCase is a route for requests with such a header.
func headerCase(h chain.HeaderMatch) routeCase {
	h.Name = "x-debug"
	return routeCase{routes: match(chain.HTTPMatch{Header: []chain.HeaderMatch{h}})}
}

func balanced(policy string, hash ...chain.HashPolicy) routeCase {
	return routeCase{resolver: chain.Resolver{LoadBalancer: &chain.LoadBalancer{Policy: policy, HashPolicies: hash}}}
}

// subsets are v1 and v2.
func subsets(r chain.Resolver) chain.Resolver {
	r.Subsets = map[string]chain.Subset{"v1": {}, "v2": {}}
	return r
}

var routeCases = map[string]routeCase{
	"no websockets": {resolver: chain.Resolver{ConnectTimeout: time.Second}, spoil: func(c *chain.Chain) { c.Protocol = "grpc" }},
	"no router":     {resolver: chain.Resolver{ConnectTimeout: time.Second}},

	"match exact":                   {routes: match(chain.HTTPMatch{PathExact: "/status"})},
	"match prefix":                  {routes: match(chain.HTTPMatch{PathPrefix: "/old/"})},
	"match regex":                   {routes: match(chain.HTTPMatch{PathRegex: `/v[0-9]+/.*`})},
	"match exact, any letter case":  {routes: match(chain.HTTPMatch{PathExact: "/Status", CaseInsensitive: true})},
	"match prefix, any letter case": {routes: match(chain.HTTPMatch{PathPrefix: "/Old/", CaseInsensitive: true})},
	"match regex, any letter case":  {routes: match(chain.HTTPMatch{PathRegex: `/v1`, CaseInsensitive: true})},
	"match method":                  {routes: match(chain.HTTPMatch{Methods: []string{"GET"}})},
	"match methods":                 {routes: match(chain.HTTPMatch{Methods: []string{"GET", "POST"}})},
	"match all of it": {routes: match(chain.HTTPMatch{
		PathPrefix: "/a", Methods: []string{"PUT"}, Header: []chain.HeaderMatch{{Name: "x-a", Exact: "1"}, {Name: "x-b", Present: true}},
		QueryParam: []chain.QueryMatch{{Name: "q", Exact: "1"}, {Name: "r", Present: true}},
	})},
	"match header present":                    headerCase(chain.HeaderMatch{Present: true}),
	"match header not present":                headerCase(chain.HeaderMatch{Present: true, Invert: true}),
	"match header exact":                      headerCase(chain.HeaderMatch{Exact: "1"}),
	"match header not exact":                  headerCase(chain.HeaderMatch{Exact: "1", Invert: true}),
	"match header prefix":                     headerCase(chain.HeaderMatch{Prefix: "a"}),
	"match header suffix, any letter case":    headerCase(chain.HeaderMatch{Suffix: "a", IgnoreCase: true}),
	"match header contains":                   headerCase(chain.HeaderMatch{Contains: "a"}),
	"match header contains, any letter case":  headerCase(chain.HeaderMatch{Contains: "a", IgnoreCase: true}),
	"match header regex":                      headerCase(chain.HeaderMatch{Regex: "a+"}),
	"match header not regex, any letter case": headerCase(chain.HeaderMatch{Regex: "a+", IgnoreCase: true, Invert: true}),
	"match query present":                     {routes: match(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "q", Present: true}}})},
	"match query exact":                       {routes: match(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "q", Exact: "1"}}})},
	"match query regex":                       {routes: match(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "q", Regex: "[0-9]"}}})},

	"to another service": {routes: to(chain.Destination{Service: "web"})},
	"to a subset":        {routes: to(chain.Destination{Subset: "v2"}), resolver: subsets(chain.Resolver{})},
	"rewrite": {routes: []chain.Route{{
		Match: &chain.HTTPMatch{PathPrefix: "/old/"}, Destination: &chain.Destination{PrefixRewrite: "/new/"},
	}}},
	"timeout":                     {routes: to(chain.Destination{RequestTimeout: 7 * time.Second})},
	"timeout never":               {routes: to(chain.Destination{RequestTimeout: -1}), resolver: chain.Resolver{RequestTimeout: time.Second}},
	"timeout of the resolver":     {resolver: chain.Resolver{RequestTimeout: 9 * time.Second}},
	"timeout behind a router":     {routes: match(chain.HTTPMatch{PathExact: "/a"}), resolver: chain.Resolver{RequestTimeout: 9 * time.Second}},
	"timeout of the route counts": {routes: to(chain.Destination{RequestTimeout: time.Second}), resolver: chain.Resolver{RequestTimeout: 9 * time.Second}},
	"timeout of legs": {
		splits:    []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}},
		resolver:  chain.Resolver{RequestTimeout: 9 * time.Second},
		resolvers: map[string]chain.Resolver{"web": {RequestTimeout: 11 * time.Second}},
	},
	"timeout of one leg": {splits: []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}}, resolver: chain.Resolver{RequestTimeout: 9 * time.Second}},
	"timeout for ever":   {routes: to(chain.Destination{RequestTimeout: 1<<63 - 1, IdleTimeout: 1<<63 - 1})},
	"idle timeout":       {routes: to(chain.Destination{IdleTimeout: time.Minute})},
	"idle timeout never": {routes: to(chain.Destination{IdleTimeout: -time.Minute})},
	"retries":            {routes: to(chain.Destination{NumRetries: 7})},
	"retries on":         {routes: to(chain.Destination{RetryOn: []string{"5xx", "reset"}})},
	"retries on connect": {routes: to(chain.Destination{RetryOnConnectFailure: true})},
	"retries on what already is": {
		routes: to(chain.Destination{RetryOn: []string{"connect-failure", "refused-stream"}}),
	},
	"retries on codes": {routes: to(chain.Destination{NumRetries: 2, RetryOnStatusCodes: []uint32{503, 429}})},
	"retries with a failover": {
		resolver: chain.Resolver{Failover: map[string]chain.Failover{"*": {Service: "web"}}},
	},
	"retries on codes with a failover": {
		routes:   to(chain.Destination{RetryOnStatusCodes: []uint32{503}}),
		resolver: chain.Resolver{Failover: map[string]chain.Failover{"*": {Service: "web"}}},
	},
	"retries with a failover of one leg": {
		splits:    []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}},
		resolvers: map[string]chain.Resolver{"web": {Failover: map[string]chain.Failover{"*": {Service: "old"}}}},
	},
	"headers": {routes: to(chain.Destination{
		RequestHeaders:  &chain.HeaderModifiers{Add: map[string]string{"x-b": "2", "x-a": "%PROTOCOL%"}, Set: map[string]string{"x-s": "100%%"}, Remove: []string{"x-r"}},
		ResponseHeaders: &chain.HeaderModifiers{Add: map[string]string{"x-c": "3"}, Set: map[string]string{"x-t": "4"}, Remove: []string{"server"}},
	})},

	"split": {
		splits: []chain.Split{
			{Weight: 98.99, Subset: "v1", RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"x-leg": "v1"}}},
			{Weight: 1.01, Subset: "v2", ResponseHeaders: &chain.HeaderModifiers{Add: map[string]string{"x-leg": "v2"}, Remove: []string{"server"}}},
		},
		resolver: subsets(chain.Resolver{}),
	},
	"split, one of it is off": {splits: []chain.Split{{Weight: 100, Subset: "v1"}, {Weight: 0, Subset: "v2"}}, resolver: subsets(chain.Resolver{})},
	"split behind a router":   {routes: match(chain.HTTPMatch{PathExact: "/a"}), splits: []chain.Split{{Weight: 60}, {Weight: 40, Service: "web"}}},

	"hash header":          balanced("ring_hash", chain.HashPolicy{Field: "header", FieldValue: "x-user", Terminal: true}),
	"hash query parameter": balanced("maglev", chain.HashPolicy{Field: "query_parameter", FieldValue: "u"}),
	"hash cookie":          balanced("maglev", chain.HashPolicy{Field: "cookie", FieldValue: "sid", Cookie: &chain.CookieConfig{TTL: time.Minute, Path: "/a"}}),
	"hash session":         balanced("maglev", chain.HashPolicy{Field: "cookie", FieldValue: "sid", Cookie: &chain.CookieConfig{Session: true}}),
	"hash cookie of theirs": with(balanced("maglev", chain.HashPolicy{Field: "cookie", FieldValue: "sid"}),
		`HashPolicies[0] is sticky only for who has the cookie "sid" already`),
	"hash cookie of a path alone": with(balanced("maglev", chain.HashPolicy{Field: "cookie", FieldValue: "sid", Cookie: &chain.CookieConfig{Path: "/"}}),
		`HashPolicies[0] is sticky only for who has the cookie "sid" already`),
	"hash source": with(balanced("ring_hash", chain.HashPolicy{SourceIP: true}),
		`HashPolicies[0] hashes the source's address`),
	"hash nothing": with(balanced("ring_hash"), "nothing is sticky: the balancer is ring_hash, and no hash policy"),
	"hash without a hash": with(balanced("least_request", chain.HashPolicy{Field: "header", FieldValue: "x-user"}),
		"nothing is sticky: hash policies need the balancer ring_hash or maglev, and it is least_request"),
	"hash of what is none": with(balanced("ring_hash", chain.HashPolicy{Field: "method", FieldValue: "x"}, chain.HashPolicy{Field: "header"},
		chain.HashPolicy{Field: "header", FieldValue: "x-user", SourceIP: true}, chain.HashPolicy{Field: "header", FieldValue: "x-user"}),
		`HashPolicies[0] is left out: "method" is nothing that is hashed`, "HashPolicies[1] is left out: invalid", "HashPolicies[2] is left out: it hashes both"),
	"hash, balancer without a word": {resolver: chain.Resolver{LoadBalancer: &chain.LoadBalancer{}}},

	"refused regex": with(routeCase{routes: match(chain.HTTPMatch{PathRegex: `/admin/(?!x)`, Methods: []string{"GET"}})},
		"Route[0] of api answers 503: PathRegex: error parsing regexp"),
	"refused regex, too large": with(routeCase{routes: match(chain.HTTPMatch{PathRegex: `/a/[\pL\pN]{1000}`})},
		"Route[0] of api answers 503: PathRegex: the regular expression is too large for this Envoy"),
	"refused regex of a header": with(routeCase{routes: match(chain.HTTPMatch{PathExact: "/a", Header: []chain.HeaderMatch{{Name: "x", Regex: "("}, {Name: "y", Present: true}}})},
		"Route[0] of api answers 503: Header[0]: error parsing regexp"),
	"refused regex of a parameter": with(routeCase{routes: match(chain.HTTPMatch{PathExact: "/a", QueryParam: []chain.QueryMatch{{Name: "x", Regex: "("}}})},
		"Route[0] of api answers 503: QueryParam[0]: error parsing regexp"),
	"refused header of nothing":         with(headerCase(chain.HeaderMatch{}), "Route[0] of api answers 503: Header[0]: it says nothing of the value"),
	"refused header without a name":     with(routeCase{routes: match(chain.HTTPMatch{Header: []chain.HeaderMatch{{Present: true}}})}, "Route[0] of api answers 503: Header[0]: invalid"),
	"refused parameter of nothing":      with(routeCase{routes: match(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "q"}}})}, "Route[0] of api answers 503: QueryParam[0]: it says"),
	"refused parameter without a name":  with(routeCase{routes: match(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Present: true}}})}, "Route[0] of api answers 503: QueryParam[0]: inv"),
	"refused two paths":                 with(routeCase{routes: match(chain.HTTPMatch{PathExact: "/a", PathPrefix: "/b"})}, "Route[0] of api answers 503: it has several of PathExact"),
	"refused path that is no UTF-8":     with(routeCase{routes: match(chain.HTTPMatch{PathExact: "/\xff"})}, "Route[0] of api answers 503: "),
	"refused rewrite of an expression":  with(routeCase{routes: []chain.Route{{Match: &chain.HTTPMatch{PathRegex: "/a"}, Destination: &chain.Destination{PrefixRewrite: "/b"}}}}, "Route[0] of api answers 503: PrefixRewrite needs"),
	"refused rewrite without a slash":   with(routeCase{routes: []chain.Route{{Match: &chain.HTTPMatch{PathPrefix: "/a"}, Destination: &chain.Destination{PrefixRewrite: "b"}}}}, "Route[0] of api answers 503: the route PrefixRewrite doesn't start with"),
	"refused retries":                   with(routeCase{routes: to(chain.Destination{RetryOn: []string{"always", "5xx"}})}, `Route[0] of api does not retry on "always"`),
	"refused modification without name": with(routeCase{routes: to(chain.Destination{RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"": "x"}}})}, "Route[0] of api answers 503: "),
	"refused modification of a leg": with(routeCase{splits: []chain.Split{{Weight: 90}, {Weight: 10, Service: "web", RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"x\n": "x"}}}}},
		"all requests to api answers 503 to 10% of its requests: the split RequestHeaders.Set: \"x\\n\" cannot be the name of a header"),
	"refused value with a lone %": with(routeCase{routes: to(chain.Destination{RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"x": "50%"}}})},
		"Route[0] of api answers 503: the route RequestHeaders.Set"),
	"refused host": with(routeCase{routes: to(chain.Destination{RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"Host": "x"}}})},
		"Route[0] of api answers 503: the route RequestHeaders.Set"),
	"refused match that is not known": with(routeCase{routes: match(chain.HTTPMatch{PathExact: "/a"}), spoil: func(c *chain.Chain) {
		c.Nodes[c.Start].Routes[0].Definition.Unknown = []string{"Match.HTTP.Weekday"}
	}}, "Route[0] of api answers 503: the route matches by Match.HTTP.Weekday, which sallyport does not know"),
	"refused weights": with(routeCase{splits: []chain.Split{{Weight: 101}, {Weight: -1, Service: "web"}}}, "all requests to api answers 503: a split has a weight of 101%"),
	"refused weights of nothing": with(routeCase{splits: []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}}, spoil: func(c *chain.Chain) {
		for _, n := range c.Nodes {
			for i := range n.Splits {
				n.Splits[i].Weight = 0
			}
		}
	}}, "all requests to api answers 503: all splits have a weight of 0%"),
	"refused weights that are none": with(routeCase{splits: []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}}, spoil: func(c *chain.Chain) {
		for _, n := range c.Nodes {
			for i := range n.Splits {
				n.Splits[i].Weight /= n.Splits[i].Weight - n.Splits[i].Weight // not a number
			}
		}
	}}, "all requests to api answers 503: a split has a weight of +Inf%"),
	"refused node that is not there": with(routeCase{routes: to(chain.Destination{Service: "web"}), spoil: func(c *chain.Chain) { delete(c.Nodes, "resolver:web.default.default.dc1") }},
		"Route[0] of api answers 503: what it leads to is not known"),
	"refused leg that is not there": with(routeCase{splits: []chain.Split{{Weight: 50}, {Weight: 50, Service: "web"}}, spoil: func(c *chain.Chain) { delete(c.Nodes, "resolver:web.default.default.dc1") }},
		"all requests to api answers 503 to 50% of its requests: what it leads to is not known"),
	"refused start that is not there": with(routeCase{resolver: chain.Resolver{ConnectTimeout: time.Second}, spoil: func(c *chain.Chain) { c.Start = "none" }},
		"all requests to api answers 503: what it leads to is not known"),
}

func with(c routeCase, warnings ...string) routeCase {
	c.warnings = warnings
	return c
}

// compiled is the chain of api.
func (c routeCase) compiled(t testing.TB) *chain.Chain {
	t.Helper()
	name := identity.NewName
	e := &chain.Entries{
		TrustDomain: "td.consul", Datacenter: "dc1",
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
		Proxy: chain.Defaults{Protocol: "http"},
	}
	if c.routes != nil {
		e.Routers[name("api")] = &chain.Router{Service: name("api"), Routes: c.routes}
	}
	if c.splits != nil {
		e.Splitters[name("api")] = &chain.Splitter{Service: name("api"), Splits: c.splits}
	}
	e.Resolvers[name("api")] = &c.resolver
	for service, r := range c.resolvers {
		e.Resolvers[name(service)] = &r
	}
	for service, r := range e.Resolvers {
		r.Service = service
	}
	out, _, err := chain.Compile(e, name("api"), chain.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if c.spoil != nil {
		c.spoil(out)
	}
	return out
}

// made are the routes of a chain, with what is warned of.
func (c routeCase) made(t testing.TB) (routes *routev3.RouteConfiguration, warnings []string) {
	t.Helper()
	p := &packer{cache: &Cache{}}
	m := chainRoutes{
		packer: p, chain: c.compiled(t), regexSize: 1000,
		cluster: func(node string) string { return strings.TrimPrefix(node, "resolver:") },
		warn:    func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) },
	}
	routes = &routev3.RouteConfiguration{Name: "api", VirtualHosts: []*routev3.VirtualHost{{Name: "api", Domains: []string{"*"}, Routes: m.routes()}}}
	if p.any(routes); p.err() != nil {
		t.Error(p.err())
	}
	return routes, warnings
}

// TestChainRoutes compares the routes of all cases with those that were reviewed.
func TestChainRoutes(t *testing.T) {
	all := map[string]any{}
	for name, c := range routeCases {
		t.Run(name, func(t *testing.T) {
			routes, warnings := c.made(t)
			for i, w := range warnings {
				if i >= len(c.warnings) || !strings.Contains(w, c.warnings[i]) {
					t.Errorf("it warns: %s", w)
				}
			}
			if len(warnings) < len(c.warnings) {
				t.Errorf("it warns %q, want %q", warnings, c.warnings)
			}
			all[name] = plain(t, routes.GetVirtualHosts()[0].GetRoutes())
		})
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(all); err != nil {
		t.Fatal(err)
	}
	golden.New(t, "testdata", ".yaml").Equal(t, "routes.yaml", b.Bytes())
}

// plain are routes for people.
func plain(t *testing.T, routes []*routev3.Route) (all []any) {
	t.Helper()
	for _, r := range routes {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}
