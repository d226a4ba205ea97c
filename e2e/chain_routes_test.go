//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// routeOf is a case of TestChainRoutes: a route that marks its requests, and requests.
type routeOf struct {
	name  string
	match string // of HTTP
	to    string // of Destination
	asks  []routeAsk
}

// routeAsk is a request of which the application says what it got; those that are not for the route are marked by no other.
type routeAsk struct {
	method, uri string // GET if empty
	headers     []string
	not         bool // the route is not for it
	status      int  // 200 if 0
	check       func(asked) error
}

func uri(path string) func(asked) error {
	return func(a asked) error {
		if a.seen.URI != path {
			return fmt.Errorf("the application was asked for %q, want %q", a.seen.URI, path)
		}
		return nil
	}
}

func from(instance string) func(asked) error {
	return func(a asked) error {
		if a.seen.Instance != instance {
			return fmt.Errorf("%q answered, want %q", a.seen.Instance, instance)
		}
		return nil
	}
}

func sees(name, values string) func(asked) error {
	return func(a asked) error {
		if got := strings.Join(a.seen.Headers.Values(name), "|"); got != values {
			return fmt.Errorf("the application sees %s: %q, want %q", name, got, values)
		}
		return nil
	}
}

func answers(name, values string) func(asked) error {
	return func(a asked) error {
		if got := strings.Join(a.headers.Values(name), "|"); got != values {
			return fmt.Errorf("the answer has %s: %q, want %q", name, got, values)
		}
		return nil
	}
}

func h(lines ...string) []string { return lines }

var routesOf = []routeOf{
	{"exact", `PathExact = "/exact"`, ``, []routeAsk{{uri: "/exact"}, {uri: "/exact?q=1"}, {uri: "/exact/", not: true}, {uri: "/Exact", not: true}, {uri: "/exactly", not: true}}},
	{"prefix", `PathPrefix = "/prefix"`, ``, []routeAsk{{uri: "/prefix"}, {uri: "/prefix/a"}, {uri: "/prefixed"}, {uri: "/Prefix", not: true}, {uri: "/a/prefix", not: true}}},
	{"regex", `PathRegex = "/regex/[0-9]+"`, ``, []routeAsk{{uri: "/regex/12"}, {uri: "/regex/1?a=b"}, {uri: "/regex/1a", not: true}, {uri: "/x/regex/1", not: true}}},
	{"exact-case", `PathExact = "/case/Exact", CaseInsensitive = true`, ``, []routeAsk{{uri: "/CASE/exact"}, {uri: "/case/Exact"}, {uri: "/case/exact1", not: true}}},
	{"prefix-case", `PathPrefix = "/case/Prefix", CaseInsensitive = true`, ``, []routeAsk{{uri: "/CASE/prefix/a"}, {uri: "/cas/prefix", not: true}}},
	{"methods", `PathPrefix = "/methods", Methods = ["PUT", "DELETE"]`, ``, []routeAsk{{uri: "/methods", method: "PUT"}, {uri: "/methods", method: "DELETE"}, {uri: "/methods", not: true}}},
	{"method", `PathPrefix = "/method", Methods = ["POST"]`, ``, []routeAsk{{uri: "/method", method: "POST"}, {uri: "/method", method: "PUT", not: true}}},
	{"h-present", `PathPrefix = "/h-present", Header = [{ Name = "x-h", Present = true }]`, ``, []routeAsk{{uri: "/h-present", headers: h("X-H: 1")}, {uri: "/h-present", not: true}}},
	{"h-absent", `PathPrefix = "/h-absent", Header = [{ Name = "x-h", Present = true, Invert = true }]`, ``, []routeAsk{{uri: "/h-absent"}, {uri: "/h-absent", headers: h("X-H: 1"), not: true}}},
	{"h-exact", `PathPrefix = "/h-exact", Header = [{ Name = "x-h", Exact = "one" }]`, ``, []routeAsk{{uri: "/h-exact", headers: h("X-H: one")}, {uri: "/h-exact", headers: h("X-H: One"), not: true}, {uri: "/h-exact", not: true}}},
	{"h-exact-case", `PathPrefix = "/h-exact-case", Header = [{ Name = "x-h", Exact = "one", IgnoreCase = true }]`, ``, []routeAsk{{uri: "/h-exact-case", headers: h("X-H: ONE")}, {uri: "/h-exact-case", headers: h("X-H: two"), not: true}}},
	{"h-not-exact", `PathPrefix = "/h-not-exact", Header = [{ Name = "x-h", Exact = "one", Invert = true }]`, ``, []routeAsk{{uri: "/h-not-exact", headers: h("X-H: two")}, {uri: "/h-not-exact", headers: h("X-H: one"), not: true}}},
	{"h-prefix", `PathPrefix = "/h-prefix", Header = [{ Name = "x-h", Prefix = "on" }]`, ``, []routeAsk{{uri: "/h-prefix", headers: h("X-H: one")}, {uri: "/h-prefix", headers: h("X-H: ton"), not: true}}},
	{"h-suffix", `PathPrefix = "/h-suffix", Header = [{ Name = "x-h", Suffix = "ne" }]`, ``, []routeAsk{{uri: "/h-suffix", headers: h("X-H: one")}, {uri: "/h-suffix", headers: h("X-H: net"), not: true}}},
	{"h-contains", `PathPrefix = "/h-contains", Header = [{ Name = "x-h", Contains = "n" }]`, ``, []routeAsk{{uri: "/h-contains", headers: h("X-H: one")}, {uri: "/h-contains", headers: h("X-H: two"), not: true}}},
	{"h-regex", `PathPrefix = "/h-regex", Header = [{ Name = "x-h", Regex = "o.e" }]`, ``, []routeAsk{{uri: "/h-regex", headers: h("X-H: one")}, {uri: "/h-regex", headers: h("X-H: ones"), not: true}}},
	{"h-both", `PathPrefix = "/h-both", Header = [{ Name = "x-h", Exact = "1" }, { Name = "x-i", Exact = "2" }]`, ``, []routeAsk{{uri: "/h-both", headers: h("X-H: 1", "X-I: 2")}, {uri: "/h-both", headers: h("X-H: 1"), not: true}}},
	{"q-present", `PathPrefix = "/q-present", QueryParam = [{ Name = "q", Present = true }]`, ``, []routeAsk{{uri: "/q-present?q=1"}, {uri: "/q-present?q"}, {uri: "/q-present?r=1", not: true}}},
	{"q-exact", `PathPrefix = "/q-exact", QueryParam = [{ Name = "q", Exact = "1" }]`, ``, []routeAsk{{uri: "/q-exact?a=b&q=1"}, {uri: "/q-exact?q=12", not: true}}},
	{"q-regex", `PathPrefix = "/q-regex", QueryParam = [{ Name = "q", Regex = "[0-9]+" }]`, ``, []routeAsk{{uri: "/q-regex?q=12"}, {uri: "/q-regex?q=1a", not: true}}},
	{"rewrite", `PathPrefix = "/old/"`, `PrefixRewrite = "/new/"`, []routeAsk{{uri: "/old/a?q=1", check: uri("/new/a?q=1")}}},
	{"rewrite-exact", `PathExact = "/was"`, `PrefixRewrite = "/is"`, []routeAsk{{uri: "/was?q=1", check: uri("/is?q=1")}, {uri: "/was/a", not: true, check: uri("/was/a")}}},
	{"service", `PathPrefix = "/service"`, `Service = "other"`, []routeAsk{{uri: "/service", check: from("other-1")}}},
	{"subset", `PathPrefix = "/subset"`, `ServiceSubset = "v2"`, []routeAsk{{uri: "/subset", check: from("api-v2")}}},
	{"timeout", `PathPrefix = "/timeout"`, `RequestTimeout = "300ms"`, []routeAsk{{uri: "/timeout"}, {uri: "/timeout?slow=1h", status: 504}}},
	{"timeout-none", `PathPrefix = "/no-timeout"`, `RequestTimeout = "-1s"`, []routeAsk{{uri: "/no-timeout?slow=1500ms"}}},
	{"timeout-of-resolver", `PathPrefix = "/resolver"`, ``, []routeAsk{{uri: "/resolver?slow=1h", status: 504}}},
	{"idle", `PathPrefix = "/idle"`, `RequestTimeout = "-1s", IdleTimeout = "300ms"`, []routeAsk{{uri: "/idle?slow=1h", status: 504}}},
	{"idle-none", `PathPrefix = "/no-idle"`, `RequestTimeout = "-1s", IdleTimeout = "-1s"`, []routeAsk{{uri: "/no-idle?slow=500ms"}}},
	{"retry-codes", `PathPrefix = "/retry-codes"`, `NumRetries = 2, RetryOnStatusCodes = [429, 503]`, []routeAsk{
		{uri: "/retry-codes?fail=429,2,a"}, {uri: "/retry-codes?fail=503,2,b"}, {uri: "/retry-codes?fail=503,99,c", status: 503}, {uri: "/retry-codes?fail=500,1,d", status: 500},
	}},
	{"retry-5xx", `PathPrefix = "/retry-5xx"`, `RetryOn = ["5xx"]`, []routeAsk{{uri: "/retry-5xx?fail=500,1,e"}, {uri: "/retry-5xx?fail=500,99,f", status: 500}}},
	{"retry-none", `PathPrefix = "/retry-none"`, ``, []routeAsk{{uri: "/retry-none?fail=503,1,g", status: 503}}},
	{"headers", `PathPrefix = "/headers"`, `
      RequestHeaders { Add { "x-add" = "2", "x-proto" = "%PROTOCOL%" }, Set { "x-set" = "100%%" }, Remove = ["x-gone"] }
      ResponseHeaders { Add { "x-from" = "route" }, Set { "x-set" = "answer" }, Remove = ["x-secret"] }`, []routeAsk{
		{uri: "/headers", headers: h("X-Add: 1"), check: sees("X-Add", "1|2")},
		{uri: "/headers", headers: h("X-Set: 1", "X-Set: 2"), check: sees("X-Set", "100%")},
		{uri: "/headers", check: sees("X-Proto", "HTTP/1.1")},
		{uri: "/headers", headers: h("X-Gone: 1"), check: sees("X-Gone", "")},
		{uri: "/headers", check: answers("X-From", "application|route")},
		{uri: "/headers", check: answers("X-Set", "answer")},
		{uri: "/headers", check: answers("X-Secret", "")},
	}},
}

// router is a service-router of api in which each route marks its requests.
func router(routes []routeOf) string {
	var b strings.Builder
	b.WriteString("Kind = \"service-router\"\nName = \"api\"\nRoutes = [\n")
	for _, r := range routes {
		to := r.to
		mark := fmt.Sprintf("RequestHeaders { Set { \"x-route\" = %q } }", r.name)
		if before, after, ok := strings.Cut(to, "Set { \"x-set\" = \"100%%\""); ok { // it sets headers itself
			to, mark = before+"Set { \"x-route\" = \""+r.name+"\", \"x-set\" = \"100%%\""+after, ""
		}
		fmt.Fprintf(&b, "  {\n    Match { HTTP {\n%s\n} }\n    Destination {\n%s\n%s\n    }\n  },\n", lines(r.match), lines(to), mark)
	}
	b.WriteString("]\n")
	return b.String()
}

// lines has each assignment of an HCL object, as they are written here, on a line of its own.
func lines(text string) string {
	var b strings.Builder
	depth := 0
	quoted := false
	for _, c := range text {
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 0:
			b.WriteByte('\n')
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// chainRoutes asks for all of routesOf.
func chainRoutes(t *testing.T, m *routedMesh) {
	t.Helper()
	m.Write("resolver.hcl", `Kind = "service-resolver"
Name = "api"
RequestTimeout = "1s"
Subsets {
  v1 { Filter = "Service.Meta.version == v1" }
  v2 { Filter = "Service.Meta.version == v2" }
}
DefaultSubset = "v1"
`)
	m.Write("router.hcl", router(routesOf))
	c := m.client()
	meshtest.Await(t, "the last route is there", func() error {
		a, err := c.ask(t.Context(), "GET", "/headers")
		if err == nil {
			err = sees("X-Route", "headers")(a)
		}
		return err
	})
	asked := 0
	for _, r := range routesOf {
		for _, q := range r.asks {
			method := q.method
			if method == "" {
				method = http.MethodGet
			}
			start := time.Now()
			a, err := c.ask(t.Context(), method, q.uri, q.headers...)
			asked++
			want := q.status
			if want == 0 {
				want = http.StatusOK
			}
			route := r.name
			if q.not {
				route = ""
			}
			switch {
			case err != nil:
			case a.status != want:
				err = fmt.Errorf("status %d after %s, want %d", a.status, time.Since(start).Round(time.Millisecond), want)
			case want == http.StatusOK:
				err = sees("X-Route", route)(a)
			}
			if err == nil && q.check != nil {
				err = q.check(a)
			}
			if err != nil {
				t.Errorf("route %s: %s %s %q: %v", r.name, method, q.uri, q.headers, err)
			}
		}
	}
	figure(t, "routes=%d requests=%d", len(routesOf), asked)
	s, err := openSocket(t.Context(), c.addr, "/subset")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.instance != "api-v2" {
		t.Errorf("a WebSocket through a route to v2 leads to %s", s.instance)
	}
	m.Remove("router.hcl")
}
