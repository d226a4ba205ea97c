package intention_test

import (
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

func permissions(t testing.TB, list ...intention.Permission) *intention.Permissions {
	t.Helper()
	p, err := intention.NewPermissions(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func scope(otherwise intention.Action) intention.Scope {
	return intention.Scope{TrustDomain: workload("x").TrustDomain, Datacenters: []string{workload("x").Datacenter}, Default: otherwise}
}

func from(name string, action intention.Action) intention.Intention {
	return intention.Intention{Source: source(name), Action: action}
}

// compile is the policy of a service of which alone intentions are.
func compile(destination string, otherwise intention.Action, all ...intention.Intention) *intention.Policy {
	name := identity.NewName(destination)
	for i := range all {
		all[i].Destination = name
	}
	return intention.Share(name, all, scope(otherwise)).Policy(name, all)
}

// request makes one of "GET /a", "GET /a x-role: guest, x-b: c"; a header that is named twice is there twice.
func request(text string) *intention.Request {
	line := strings.SplitN(text, " ", 3)
	headers := map[string][]string{}
	if len(line) == 3 {
		for h := range strings.SplitSeq(line[2], "; ") {
			name, value, _ := strings.Cut(h, ": ")
			headers[name] = append(headers[name], value)
		}
	}
	return &intention.Request{Method: line[0], Path: line[1], Header: func(name string) (string, bool) {
		v, ok := headers[name]
		return strings.Join(v, ","), ok
	}}
}

// TestPermissions: what each condition means, of an allowing permission above a default that denies, and of a denying one above one
// that allows. "met" is whether the request meets the condition, "unsure" whether it meets the denying one alone.
func TestPermissions(t *testing.T) {
	header := func(h intention.HeaderMatch) intention.Permission {
		h.Name = "x"
		return intention.Permission{Headers: []intention.HeaderMatch{h}}
	}
	for name, c := range map[string]struct {
		of                  intention.Permission
		met, unsure, refuse []string // refuse: by the guard
		not                 []string
	}{
		"everything": {of: intention.Permission{}, met: []string{"GET /", "CONNECT x", "GET /..;/a"}},
		"exact": {
			of: intention.Permission{PathExact: "/admin"}, met: []string{"GET /admin", "GET /admin?", "GET /admin?a=//..;b#é", "POST /admin?x=/a"},
			not: []string{"GET /", "GET /admin/", "GET /admin%20", "GET /Admin", "GET /a?/admin", "GET /adminx", "GET /%252e%252e/admin"},
			refuse: []string{
				"GET //admin", "GET /a/../admin", "GET /./admin", "GET /admin/.", "GET /admin/..", "GET /%61dmin", "GET /adm%69n", "GET /%2fadmin", "GET /a%2F../admin", "GET /a%5c..%5cadmin", `GET /a\..\admin`,
				"GET /admin;", "GET /admin%3b", "GET /admin%3Bx", "GET /a;x/../admin", "GET /admin#x", "GET /admin%00", "GET /admin%1f", "GET /admin%7f", "GET /admin%", "GET /admin%2", "GET /admin%zz", "GET /%2e%2E/admin", "GET /%c0%ae/admin", "GET /%e0%80%ae", "GET /%f0%80%80%ae",
				"GET /é", "GET /a\x01", "OPTIONS *", "GET admin", "GET ", "CONNECT x:1",
			},
		},
		"prefix":                        {of: intention.Permission{PathPrefix: "/v1/"}, met: []string{"GET /v1/", "GET /v1/a/b?c", "GET /v1/%20", "GET /v1/a=b:c@d,e"}, not: []string{"GET /v1", "GET /v2/", "GET /?/v1/"}, refuse: []string{"GET /v1/../v2", "GET //v1/"}},
		"prefix that reaches the query": {of: intention.Permission{PathPrefix: "/a?b"}, not: []string{"GET /a?b", "GET /a?bc"}, refuse: []string{"GET /a/.."}},
		"expression": {
			of: intention.Permission{PathRegex: `^/a/[^/]*/b$`}, met: []string{"GET /a/x/b", "GET /a/x/b?c"}, not: []string{"GET /a/x?/b", "GET /a/x/b/", "GET /aa/x/b"},
			refuse: []string{"GET /a//b", "GET /a/\xff/b"},
		},
		"expression of anything": {of: intention.Permission{PathRegex: `/a/.*`}, met: []string{"GET /a/", "GET /a/b/c?d"}, not: []string{"GET /b?/a/"}, refuse: []string{"GET /a/../b"}},
		"methods":                {of: intention.Permission{Methods: []string{"GET", "HEAD"}}, met: []string{"GET /", "HEAD //"}, not: []string{"POST /", "GETX /"}, unsure: []string{"get /", "Head /"}},
		"path and method":        {of: intention.Permission{PathExact: "/a", Methods: []string{"GET"}}, met: []string{"GET /a"}, not: []string{"POST /a", "GET /b"}, refuse: []string{"POST //a"}},
		"present":                {of: header(intention.HeaderMatch{Present: true}), met: []string{"GET / x: ", "GET / x: \xff"}, not: []string{"GET /", "GET / y: x"}},
		"not present":            {of: header(intention.HeaderMatch{Present: true, Invert: true}), met: []string{"GET /"}, not: []string{"GET / x: "}},
		"header exact": {
			of: header(intention.HeaderMatch{Exact: "guest"}), met: []string{"GET / x: guest"}, not: []string{"GET /", "GET / x: Guest", "GET / x: guests", "GET / x: a guest"},
			unsure: []string{"GET / x: guest; x: b", "GET / x: a; x: guest", "GET / x: a,guest ,b", "GET / x:  guest"},
		},
		"header not exact": {
			of: header(intention.HeaderMatch{Exact: "guest", Invert: true}), met: []string{"GET / x: admin", "GET / x: "}, not: []string{"GET /", "GET / x: guest"},
			unsure: []string{"GET / x: guest; x: b", "GET / x: a,guest"},
		},
		"header prefix": {
			of: header(intention.HeaderMatch{Prefix: "a-"}), met: []string{"GET / x: a-", "GET / x: a-b; x: c"}, not: []string{"GET / x: b", "GET / x: A-b"}, unsure: []string{"GET / x: b; x: a-c", "GET / x: b, a-c"},
		},
		"header suffix": {
			of: header(intention.HeaderMatch{Suffix: "-a"}), met: []string{"GET / x: b-a", "GET / x: c; x: b-a"}, not: []string{"GET / x: -ab"}, unsure: []string{"GET / x: b-a; x: c", "GET / x: b-a ,c"},
		},
		"header contains":     {of: header(intention.HeaderMatch{Contains: "b"}), met: []string{"GET / x: abc", "GET / x: a; x: b"}, not: []string{"GET / x: B", "GET /"}},
		"header not contains": {of: header(intention.HeaderMatch{Contains: "b", Invert: true}), met: []string{"GET / x: a"}, not: []string{"GET / x: abc", "GET /"}},
		"letter case":         {of: header(intention.HeaderMatch{Exact: "aB", IgnoreCase: true}), met: []string{"GET / x: Ab"}, not: []string{"GET / x: ac"}, unsure: []string{"GET / x: c; x: AB"}},
		"case of what it has": {of: header(intention.HeaderMatch{Contains: "aB", IgnoreCase: true}), met: []string{"GET / x: xABx"}, not: []string{"GET / x: ba"}},
		"case of its end":     {of: header(intention.HeaderMatch{Suffix: "aB", IgnoreCase: true}), met: []string{"GET / x: xAB"}, not: []string{"GET / x: abx"}},
		"header expression":   {of: header(intention.HeaderMatch{Regex: "v[0-9]+"}), met: []string{"GET / x: v1"}, not: []string{"GET / x: w", "GET / x: xv1", "GET /"}, unsure: []string{"GET / x: w; x: v2", "GET / x: \xff", "GET / x: é"}},
		"not that expression": {of: header(intention.HeaderMatch{Regex: "v[0-9]+", Invert: true}), met: []string{"GET / x: w"}, not: []string{"GET /", "GET / x: v1"}, unsure: []string{"GET / x: w; x: v2", "GET / x: \xff"}},
		"two headers":         {of: intention.Permission{Headers: []intention.HeaderMatch{{Name: "x", Exact: "a"}, {Name: "y", Present: true}}}, met: []string{"GET / x: a; y: b"}, not: []string{"GET / x: a", "GET / y: b"}},
		"the authority": {
			of: intention.Permission{Headers: []intention.HeaderMatch{{Name: "host", Exact: "h"}}}, met: []string{"GET / :authority: h"}, not: []string{"GET / host: h", "GET / :authority: h2", "GET / :authority: xh"},
			unsure: []string{"GET / :authority: H", "GET / :authority: h:8080"},
		},
		"the authority, by its end": {
			of: intention.Permission{Headers: []intention.HeaderMatch{{Name: "host", Suffix: ".local"}}}, met: []string{"GET / :authority: a.local"}, not: []string{"GET / :authority: a.locals"},
			unsure: []string{"GET / :authority: a.LOCAL", "GET / :authority: a.local:80"},
		},
		"the authority, by an expression": {
			of: intention.Permission{Headers: []intention.HeaderMatch{{Name: "host", Regex: "a[.]local"}}}, met: []string{"GET / :authority: a.local"}, not: []string{"GET / :authority: b.local"},
			unsure: []string{"GET / :authority: A.local:80"},
		},
		"crumbs": {
			of: intention.Permission{Headers: []intention.HeaderMatch{{Name: "cookie", Exact: "role=guest"}}}, met: []string{"GET / cookie: role=guest"}, not: []string{"GET / cookie: role=guests", "GET / cookie: xrole=guest"},
			unsure: []string{"GET / cookie: a=b;role=guest", "GET / cookie: role=guest ;a=b", "GET / cookie: a=b,role=guest"},
		},
		"a backslash before a C":   {of: header(intention.HeaderMatch{Exact: `CORP\Carol`}), met: []string{`GET / x: CORP\Carol`}, not: []string{`GET / x: CORP\Bob`, "GET / x: CORParol"}, unsure: []string{`GET / x: a,CORP\Carol`}},
		"one at its beginning":     {of: header(intention.HeaderMatch{Suffix: `\C(`}), met: []string{`GET / x: CORP\C(`}, not: []string{`GET / x: C(`}, unsure: []string{`GET / x: \C(,b`}},
		"one in an expression":     {of: header(intention.HeaderMatch{Regex: `CORP\\C(arol|laire)`}), met: []string{`GET / x: CORP\Carol`}, not: []string{"GET / x: CORPxarol"}, unsure: []string{`GET / x: CORP\Claire,b`}},
		"a query in an exact path": {of: intention.Permission{PathExact: "/a?b=c"}, not: []string{"GET /a", "GET /a?b=c"}, refuse: []string{"GET //a?b=c"}},
		"a denying one's token":    {of: intention.Permission{Methods: []string{"GET"}}, met: []string{"GET /"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, action := range []intention.Action{intention.Allow, intention.Deny} {
				c.of.Action = action
				otherwise := intention.Allow - action
				p := compile("api", otherwise, intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Permissions: permissions(t, c.of)})
				ask := func(list []string, want intention.Action, by intention.Reason) {
					t.Helper()
					for _, text := range list {
						d := p.DecideRequest(workload("web"), request(text))
						if d.Action != want || d.Reason != by {
							t.Errorf("%s by a permission that %ss: %s, %s; want %s, %s", text, action, d.Action, d.Reason, want, by)
						}
					}
				}
				ask(c.met, action, intention.ByIntention)
				ask(c.not, otherwise, intention.ByNoPermission)
				ask(c.refuse, intention.Deny, intention.ByPath)
				if action == intention.Allow {
					ask(c.unsure, otherwise, intention.ByNoPermission)
				} else {
					ask(c.unsure, action, intention.ByIntention)
				}
			}
		})
	}
}

// TestFirstPermission: the first one that is met decides, and says which it was; none: the default, and no other intention.
func TestFirstPermission(t *testing.T) {
	list := permissions(
		t, intention.Permission{PathExact: "/admin"}, intention.Permission{Action: intention.Allow, PathPrefix: "/"}, intention.Permission{PathPrefix: "/x"},
	)
	p := compile("api", intention.Deny,
		intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Permissions: list},
		intention.Intention{Source: intention.Source{Name: identity.NewName("get")}, Permissions: permissions(t, intention.Permission{Action: intention.Allow, Methods: []string{"GET"}})},
		from("*", intention.Allow))
	for text, want := range map[string]string{
		"web GET /admin": "web => api #1 (deny)", "web GET /admin?x": "web => api #1 (deny)", "web GET /a": "web => api #2 (allow)", "web GET /x": "web => api #2 (allow)",
		"web GET //a":  "web => api (3 permissions): the path is not canonical, and permissions look at it",
		"get POST /":   "get => api (1 permission): default policy, as no permission is met",
		"other GET //": "* => api (allow)",
	} {
		source, of, _ := strings.Cut(text, " ")
		if d := p.DecideRequest(workload(source), request(of)); d.String() != want || d.Allowed() != strings.HasSuffix(want, "(allow)") {
			t.Errorf("%s: %s, want %s", text, d, want)
		}
	}
	const connection = "web => api (3 permissions): permissions are about requests, and deny connections"
	if d := p.Decide(workload("web")); d.String() != connection || d.Allowed() {
		t.Errorf("a connection: %s", d)
	}
	tcp := p.ConnectionsOnly()
	if d := tcp.DecideRequest(workload("web"), request("GET /a")); d.String() != connection || d.Allowed() {
		t.Errorf("a request of a service that speaks tcp: %s", d)
	}
	if !tcp.DecideRequest(workload("other"), request("GET /a")).Allowed() || tcp.ConnectionsOnly() != tcp {
		t.Error("ConnectionsOnly is about more than permissions")
	}
}

// TestPermissionsAreOne: equal ones are one, also when they are read again, and intentions with them are comparable.
func TestPermissionsAreOne(t *testing.T) {
	list := []intention.Permission{{Action: intention.Allow, PathExact: "/a", Methods: []string{"GET"}, Headers: []intention.HeaderMatch{{Name: "x", Exact: "y", Invert: true}}}}
	i := intention.Intention{
		Source: intention.Source{Name: identity.NewName("web")}, Destination: identity.NewName("api"), Origin: "a.hcl:1",
	}
	if err := i.Ask(list, intention.NewTokens([]intention.TokenRequirement{{Provider: "p", Claims: []intention.Claim{{Path: []string{"a"}, Value: "b"}}}})); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	var again intention.Intention
	if err := json.Unmarshal(b, &again); err != nil || again != i || intention.Compare(again, i) != 0 {
		t.Errorf("%v, written as %s, is %v; %v", i, b, again, err)
	}
	if err := json.Unmarshal([]byte(`{"Source":{"Service":"web"},"Action":1,"OnlyOnMondays":true}`), &again); err == nil {
		t.Error("a field that is not known is taken")
	}
	if diff := cmp.Diff(list, again.Permissions.List()); diff != "" {
		t.Error(diff)
	}
	if i.Effect() != intention.Deny || i.String() != "web => api (1 permission)" || i.WhyDenied() != "" {
		t.Errorf("with a token: %s, %s", i, i.WhyDenied())
	}
	other := i
	other.Permissions = permissions(t, intention.Permission{})
	if other == i || intention.Compare(other, i) == 0 || intention.Compare(other, i) != -intention.Compare(i, other) {
		t.Error("other permissions are the same")
	}
	if p, err := intention.NewPermissions(nil); p != nil || err != nil || p.Len() != 0 || p.List() != nil || p.Steps() != nil {
		t.Error("no permissions are some")
	}
	if _, err := intention.NewPermissions(make([]intention.Permission, 1000+1)); err == nil {
		t.Error("as many as one likes")
	}
}

// TestNarrower: of two intentions about one source the one that lets in less holds, and of two entries what both let in.
func TestNarrower(t *testing.T) {
	web := func(dst string, i intention.Intention) intention.Intention {
		i.Source, i.Destination = intention.Source{Name: identity.NewName("web")}, identity.NewName(dst)
		return i
	}
	some, others := permissions(t, intention.Permission{Action: intention.Allow, PathExact: "/a"}), permissions(t, intention.Permission{Action: intention.Allow, PathExact: "/b"})
	allow, deny, a, b := intention.Intention{Action: intention.Allow}, intention.Intention{}, intention.Intention{Permissions: some}, intention.Intention{Permissions: others}
	for name, c := range map[string]struct {
		list []intention.Intention
		want bool // of GET /a
	}{
		"permissions and allow": {[]intention.Intention{allow, a}, true},
		"permissions and deny":  {[]intention.Intention{a, deny}, false},
		"twice the same":        {[]intention.Intention{a, a}, true},
	} {
		for _, spelling := range []string{"api", "API"} {
			var all []intention.Intention
			for n, i := range c.list {
				all = append(all, web([]string{"api", spelling}[n], i))
			}
			for range 2 {
				p := intention.Share(identity.NewName("api"), all, scope(intention.Deny)).Policy(identity.NewName("api"), all)
				for text, want := range map[string]bool{"GET /a": c.want, "GET /b": false} {
					if got := p.DecideRequest(workload("web"), request(text)).Allowed(); got != want {
						t.Errorf("%s, as %s: %s is allowed: %v", name, spelling, text, got)
					}
				}
				if p.Decide(workload("web")).Allowed() {
					t.Errorf("%s, as %s: a connection is allowed", name, spelling)
				}
				slices.Reverse(all)
			}
		}
	}
	both := []intention.Intention{web("api", a), web("API", b)}
	p := intention.Share(identity.NewName("api"), both, scope(intention.Allow)).Policy(identity.NewName("api"), both)
	if d := p.DecideRequest(workload("web"), request("GET /a")); d.Allowed() || !strings.Contains(d.Intention.WhyDenied(), "letter case") {
		t.Errorf("of two entries with other permissions: %s", d)
	}
	everybody := []intention.Intention{{Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("api"), Permissions: some}, web("API", allow)}
	p = intention.Share(identity.NewName("api"), everybody, scope(intention.Deny)).Policy(identity.NewName("api"), everybody)
	if !p.DecideRequest(workload("web"), request("GET /a")).Allowed() || p.DecideRequest(workload("web"), request("GET /b")).Allowed() || p.DecideRequest(workload("x"), request("GET /a")).Allowed() {
		t.Error("permissions of all in one entry, and another one that leaves them to the default")
	}
	all := []intention.Intention{web("*", a)}
	if intention.Share(identity.NewName("api"), all, scope(intention.Allow)).Policy(identity.NewName("api"), nil).DecideRequest(workload("web"), request("GET /a")).Allowed() {
		t.Error("permissions of all destinations let in")
	}
}

// TestExpressions: what is refused, and with which words.
func TestExpressions(t *testing.T) {
	for text, want := range map[string]string{
		"(": "Permissions[0]: PathRegex \"(\" is no regular expression: error parsing regexp: missing closing ): `(`", strings.Repeat("a", 1025): "has 1025 bytes, and 1024 are the most",
		`a\bc`: "anchor", "a^b": "anchor", "(?m)^a": "anchor", "x{1001}": "invalid repeat count", "(a{1,20}){1,30}b{1,999}": "too large", `\C`: "is no regular expression", `(?<a>b`: "is no regular expression",
	} {
		if _, err := intention.NewPermissions([]intention.Permission{{PathRegex: text}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
		if _, err := intention.NewPermissions([]intention.Permission{{Headers: []intention.HeaderMatch{{Name: "x", Regex: text}}}}); err == nil {
			t.Errorf("%.60q is taken for a header", text)
		}
	}
	if _, err := intention.NewPermissions([]intention.Permission{{Headers: []intention.HeaderMatch{{Name: ":path", Exact: "/"}}}}); err == nil {
		t.Error("a header :path, which no guard is before")
	}
	for _, text := range []string{"^$", "", "(^/a$)|/b", "/[^a]*", `/\d+\S`, "/(?i:aB)c?", `/\Qa.b\E`, "/é|/a", "(/a(/b)?)+", "/[[:alpha:]]{2,5}"} {
		if _, err := intention.NewPermissions([]intention.Permission{{PathRegex: text}}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzExpression: no expression makes it panic, none that is taken reaches into the query, or past the guard.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{"/a/.*/b", ".*", "(?s).*", "[^a]*", "/(a|b)c*", "\\x3f", "a{2,3}", "(?i)K", "[[:^alpha:]]", "\\pL", "^a|b$", "(?:)", "\\z"} {
		f.Add(s, "/a/x?/b")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		p, err := intention.NewPermissions([]intention.Permission{{Action: intention.Allow, PathRegex: text}})
		if err != nil || p == nil {
			return
		}
		policy := compile("api", intention.Deny, intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Permissions: p})
		ask := func(path string) intention.Decision {
			return policy.DecideRequest(workload("web"), &intention.Request{Method: "GET", Path: path})
		}
		plain, _, has := strings.Cut(path, "?")
		if d := ask(path); has && d.Allowed() != ask(plain).Allowed() || d.Allowed() && (strings.ContainsAny(plain, ";#\\") || strings.Contains(plain, "\xff")) {
			t.Fatalf("%q: %q is %s, and %q %s", text, path, d, plain, ask(plain))
		}
	})
}

// TestDecideAllocates: a request of a source without permissions costs no memory, nor do most of one with some.
func TestRequestAllocates(t *testing.T) {
	p := compile("api", intention.Deny, from("plain", intention.Allow), intention.Intention{
		Source: intention.Source{Name: identity.NewName("web")},
		Permissions: permissions(t, intention.Permission{PathExact: "/admin"}, intention.Permission{Action: intention.Allow, PathRegex: "/v[0-9]+/.*", Methods: []string{"GET"}},
			intention.Permission{Action: intention.Allow, Headers: []intention.HeaderMatch{{Name: "x", Prefix: "y"}}}),
	})
	r := request("GET /v1/items?x=y x: z")
	plain, web := workload("plain"), workload("web")
	if n := testing.AllocsPerRun(100, func() { p.DecideRequest(plain, r) }); n != 0 {
		t.Errorf("%v allocations without permissions", n)
	}
	// What an expression needs comes from a pool, which the race detector empties now and then.
	if n := testing.AllocsPerRun(100, func() { p.DecideRequest(web, r) }); n > 2 {
		t.Errorf("%v allocations with permissions", n)
	}
	runtime.KeepAlive(p)
}

func randomPermission(r *rand.Rand) intention.Permission {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	p := intention.Permission{Action: intention.Action(r.IntN(2))}
	switch r.IntN(5) {
	case 0:
		p.PathExact = pick("/", "/a", "/a/b", "/b")
	case 1:
		p.PathPrefix = pick("/", "/a", "/a/", "/b")
	case 2:
		p.PathRegex = pick("/.*", "/[ab]", "/a(/.*)?", "/a/./b")
	}
	if r.IntN(3) == 0 {
		p.Methods = []string{pick("GET", "POST")}
	}
	if r.IntN(3) == 0 {
		h := intention.HeaderMatch{Name: pick("x", "y"), Invert: r.IntN(3) == 0}
		switch r.IntN(4) {
		case 0:
			h.Present = true
		case 1:
			h.Exact = pick("a", "b")
		case 2:
			h.Prefix = pick("a", "b")
		case 3:
			h.Regex = pick("a.*", "[ab]")
		}
		p.Headers = append(p.Headers, h)
	}
	return p
}

// TestOutlines: a set that is within another one lets in no request that the other does not, and what a policy is limited to is no
// more than what the set has.
func TestOutlines(t *testing.T) {
	var requests []*intention.Request
	for _, path := range []string{"/", "/a", "/a/b", "/b", "//a", "/a/x/b?c"} {
		for _, rest := range []string{"", " x: a", " x: b; x: a", " y: b"} {
			requests = append(requests, request("GET "+path+rest), request("POST "+path+rest))
		}
	}
	within, limited := 0, 0
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 7))
		var base []intention.Permission
		for range 1 + r.IntN(4) {
			base = append(base, randomPermission(r))
		}
		policy := func() *intention.Policy {
			var all []intention.Intention
			for _, name := range []string{"web", "*", "other"} {
				i := intention.Intention{Source: intention.Source{Name: identity.NewName(name)}, Destination: identity.NewName("api"), Action: intention.Action(r.IntN(2))}
				switch r.IntN(4) {
				case 0:
					continue
				case 1, 2:
					list := slices.Clone(base)
					for range r.IntN(3) {
						if at := r.IntN(len(list) + 1); r.IntN(2) == 0 {
							list = slices.Insert(list, at, randomPermission(r))
						} else if len(list) > 1 {
							list = slices.Delete(list, at%len(list), at%len(list)+1)
						}
					}
					i.Action, i.Permissions = intention.Deny, permissions(t, list...)
				}
				all = append(all, i)
			}
			return intention.Share(identity.NewName("api"), all, scope(intention.Action(r.IntN(2)))).Policy(identity.NewName("api"), all)
		}
		a, b, c := policy(), policy(), policy()
		lets := func(p *intention.Policy, source string, r *intention.Request) bool {
			return p.DecideRequest(workload(source), r).Allowed()
		}
		is := a.Allowed().Within(b.Allowed())
		union, both := a.Allowed().Union(c.Allowed()), a.Allowed().Intersection(c.Allowed())
		if !a.Allowed().Within(a.Allowed()) || !a.Allowed().Within(union) || !c.Allowed().Within(union) || !both.Within(a.Allowed()) || !both.Within(c.Allowed()) {
			t.Fatalf("seed %d: %+v and %+v, their union %+v, their intersection %+v", seed, a.Allowed(), c.Allowed(), union, both)
		}
		for _, source := range []string{"web", "other", "third"} {
			for _, r := range requests {
				if is && lets(a, source, r) && !lets(b, source, r) {
					t.Fatalf("seed %d: %+v within %+v, but of %s a lets in %s %s, and b does not", seed, a.Allowed(), b.Allowed(), source, r.Method, r.Path)
				}
				if is {
					within++
				}
				limit := a.Within(b.Allowed())
				if lets(limit, source, r) {
					if limited++; !lets(a, source, r) || !lets(b, source, r) {
						t.Fatalf("seed %d: limited to b, a lets in %s %s of %s", seed, r.Method, r.Path, source)
					}
				}
				if lets(a, source, r) != lets(a.Within(union), source, r) {
					t.Fatalf("seed %d: limited to more than it has, a is another", seed)
				}
			}
		}
	}
	if within == 0 || limited == 0 {
		t.Errorf("%d within, %d limited: nothing is tested", within, limited)
	}
}
