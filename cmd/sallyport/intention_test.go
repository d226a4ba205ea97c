package main

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/xds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var exampleDomain = spiffeid.RequireTrustDomainFromString("example.consul")

func exampleView() *catalog.View {
	name := identity.NewName
	return catalogtest.Mesh{
		Mesh: catalog.Mesh{TrustDomain: exampleDomain, Datacenter: "dc1", Datacenters: []string{"dc1", "east"}},
		Proxies: []catalog.Proxy{
			{ID: "web-sidecar-proxy", Instance: "web", Service: name("web"), Upstreams: []catalog.Upstream{{Destination: name("far"), BindPort: 1}}},
			{ID: "api-1", Instance: "api", Service: name("api")},
			{ID: "api-2", Instance: "api", Service: name("api")},
		},
		Registrations: []catalog.Registration{{ID: "orders-1", Service: name("orders"), Native: true}},

		Services:  []catalog.Service{{Name: name("ap")}, {Name: name("api")}, {Name: name("far")}, {Name: name("plain")}, {Name: name("web")}},
		Endpoints: []catalog.Endpoints{{Name: name("far"), List: []catalog.Endpoint{{Address: "192.0.2.1", Port: 1, Weight: 1}}}},
		Intentions: []intention.Intention{
			{Source: intention.Source{Name: name("web")}, Destination: name("api"), Action: intention.Allow, Origin: "api.hcl:3"},
			{Source: intention.Source{Name: name("l7")}, Destination: name("api"), Action: intention.Allow, Unsupported: "permissions", Origin: "api.hcl:4"},
			{Source: intention.Source{Name: name("job")}, Destination: name("api"), Action: intention.Allow, Held: "that is recorded on disk", Origin: "api.hcl:5"},
			{Source: intention.Source{Name: name("web")}, Destination: name("ap"), Action: intention.Allow, Origin: "ap.hcl:1"},
		},
	}.View()
}

func TestCheckIntention(t *testing.T) {
	v := exampleView()
	for _, tc := range []struct{ source, destination, want string }{
		{"web", "api", "Allowed: web => api, by the intention web => api (allow) at api.hcl:3"},
		{"spiffe://example.consul/ns/default/dc/dc1/svc/web", "api", "by the intention web => api (allow)"},
		{"spiffe://other.consul/ns/default/dc/dc1/svc/web", "api", "by foreign trust domain"},
		{"spiffe://example.consul/ns/default/dc/dc2/svc/web", "api", "by unknown datacenter"},
		{"batch", "api", "by default policy (no service \"batch\" is registered)"},
		{"web", "ap", "by the intention web => ap (allow) at ap.hcl:1 (no sidecar of \"ap\" is known)"},
		{"batch", "ap", "by default policy (no service \"batch\" is registered; no sidecar of \"ap\" is known)"},
		{"spiffe://example.consul/ns/default/dc/east/svc/web", "api", "by the intention web => api (allow)"},
		{"spiffe://example.consul/ns/default/dc/east/svc/batch", "api", "by default policy\n"},
		{"web", "orders", "by default policy (\"orders\" is a native application, which asks for itself)"},
		{"web", "far", "by default policy\n"}, // an endpoint of it is known
		{"web", "API", "Allowed: web => API, by the intention web => api (allow) at api.hcl:3\n"},
		{"Web", "api", "by default policy (no service \"Web\" is registered: did you mean \"web\"?)"},
		{"l7", "api", "does not support its permissions"},
	} {
		r, err := checkIntention(v, tc.source, tc.destination, admin.CheckRequest{}, "")
		if err != nil || !strings.Contains(r.Explain()+"\n", tc.want) {
			t.Errorf("check %s %s = %q, %v, want %q", tc.source, tc.destination, r.Explain(), err, tc.want)
		}
	}
	// Of files all is known that is registered, and what an intention alone names is not.
	for _, tc := range []struct{ source, destination, want string }{
		{"web", "api", "Allowed: web => api, by the intention web => api (allow) at api.hcl:3\n"},
		{"wbe", "api", `(no service "wbe" is registered: did you mean "web"?)`},
		{"web", "plain", `(no service "plain" is registered)`},
		{"web", "ap", `(no service "ap" is registered)`},
		{"web", "apii", `by default policy (no service "apii" is registered: did you mean "api"?)`},
		{"web", "API", "Allowed: web => API, by the intention web => api (allow) at api.hcl:3\n"},
	} {
		r, err := checkIntention(v, tc.source, tc.destination, admin.CheckRequest{}, "/etc/sallyport")
		if err != nil || !strings.Contains(r.Explain()+"\n", tc.want) {
			t.Errorf("check %s %s of files = %q, %v, want %q", tc.source, tc.destination, r.Explain(), err, tc.want)
		}
	}
	for _, tc := range []struct{ source, destination, want string }{
		{"web", "a/b", "destination"},
		{"w b", "api", "source"},
		{"spiffe://example.consul/agent/x", "api", "source"},
	} {
		if _, err := checkIntention(v, tc.source, tc.destination, admin.CheckRequest{}, ""); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("check %s %s: %v, want %q", tc.source, tc.destination, err, tc.want)
		}
	}
	if _, err := checkIntention(nil, "a", "b", admin.CheckRequest{}, ""); err == nil {
		t.Error("check without a view gave no error")
	}
}

// TestRemedy: what is denied by default is said with what would allow it, and where to write that.
func TestRemedy(t *testing.T) {
	for _, tc := range []struct{ source, destination, dir, want string }{
		{"batch", "api", "/etc/mesh", `to allow it, write { Name = "batch" Action = "allow" } into the Sources of the service-intentions of api, at api.hcl:5`},
		{"batch", "API", "", `to allow it, write { Name = "batch" Action = "allow" } into the Sources of the service-intentions of api, at api.hcl:5`},
		{"web", "far", "/etc/mesh", `to allow it, write into a file of /etc/mesh: Kind = "service-intentions" Name = "far" Sources = [{ Name = "web" Action = "allow" }]`},
		{"web", "far", "", "to allow it, write for `consul config write -`: Kind = \"service-intentions\" Name = \"far\""},
		{"web", "api", "/etc/mesh", ""},
		{"l7", "api", "/etc/mesh", ""},
		{"spiffe://other.consul/ns/default/dc/dc1/svc/web", "api", "/etc/mesh", `neither * nor the default is about other trust domains: to allow it, write { SpiffeID = "spiffe://other.consul/ns/default/dc/dc1/svc/web" Action = "allow" }`},
		{"spiffe://other.consul/x", "api", "", `neither * nor the default is about other trust domains: to allow it, write into the service-intentions of api, for a name x of your choice: Sources = [{ Name = "x" Peer = "other.consul" Action = "allow" }]`},
	} {
		r, err := checkIntention(exampleView(), tc.source, tc.destination, admin.CheckRequest{}, tc.dir)
		if err != nil || !strings.HasPrefix(r.Remedy, tc.want) || tc.want == "" && r.Remedy != "" {
			t.Errorf("check %s %s: remedy %q, %v, want %q", tc.source, tc.destination, r.Remedy, err, tc.want)
		}
	}
}

// TestAsTaken: an answer says when that was taken which decided, if its file was written since and is not taken, and its
// exit status that something waits.
func TestAsTaken(t *testing.T) {
	at := time.Date(2026, 1, 2, 10, 42, 0, 0, time.Local)
	for _, tc := range []struct {
		source   string
		notTaken []admin.NotTaken
		want     string
		status   exitError
	}{
		{"web", nil, "Allowed: web => api, by the intention web => api (allow) at api.hcl:3", 0},
		{"l7", nil, "Denied: l7 => api, by the intention l7 => api (deny) at api.hcl:4 (denies because", 1},
		{"job", nil, "Denied: job => api, by the intention job => api (deny) at api.hcl:5 (waits until that is recorded on disk)", 4},
		{"web", []admin.NotTaken{{File: "api.hcl", TakenAt: at}}, "at api.hcl:3 (as taken at 10:42 on 2026-01-02); newer contents wait until they can be taken: api.hcl", 3},
		{"web", []admin.NotTaken{{File: "b.hcl"}, {File: "c.hcl", TakenAt: at}}, "at api.hcl:3; newer contents wait until they can be taken: b.hcl, c.hcl", 3},
		{"batch", []admin.NotTaken{{File: "b.hcl"}}, "by default policy (no service \"batch\" is registered); newer contents wait until they can be taken: b.hcl", 4},
	} {
		r, err := checkIntention(exampleView(), tc.source, "api", admin.CheckRequest{}, "")
		if err != nil {
			t.Fatal(err)
		}
		r = asTaken(r, tc.notTaken)
		status, _ := errors.AsType[exitError](answer(r))
		if !strings.Contains(r.Explain(), tc.want) || status != tc.status {
			t.Errorf("with %v: %q and exit status %d, want %q and %d", tc.notTaken, r.Explain(), status, tc.want, tc.status)
		}
	}
	if now := time.Now(); !strings.Contains((admin.CheckResponse{TakenAt: now}).Explain(), "(as taken at "+now.Format("15:04")+")") {
		t.Error("the time of a day is not told alone on that day")
	}
}

// TestRulesAbout: a service, an instance or a proxy has rules, none of its own too; what nobody knows is an error.
func TestRulesAbout(t *testing.T) {
	t.Parallel()
	rules := []admin.Rule{{Source: "web", Destination: "api"}, {Source: "job", Destination: "db"}, {Source: "*", Destination: "db"}}
	s := admin.Status{
		Proxies:   []xds.ProxyStatus{{ID: "web-sidecar-proxy", Instance: "web-1", Service: "web"}, {ID: "x-sidecar-proxy", Instance: "x", Service: "x"}},
		Instances: []admin.Instance{{ID: "mail-1", Service: "mail"}},
	}
	for name, want := range map[string]string{
		"web": "2", "web-1": "2", "web-sidecar-proxy": "2", "api": "2", "x": "1", "mail": "1", "job": "2", "db": "2",
		"wbe": `nothing is known of a service "wbe", and no intention names it: did you mean "web"?`, "nosuch": "`sallyport status` lists what is known",
	} {
		about, err := rulesAbout(name, rules, s)
		got := strconv.Itoa(len(about))
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("about %s: %s, want %s", name, got, want)
		}
	}
}

func TestProxyOf(t *testing.T) {
	v := exampleView()
	for _, tc := range []struct {
		r    admin.TokenRequest
		want string // the proxy, or a part of the error
	}{
		{admin.TokenRequest{SidecarFor: "web"}, "web-sidecar-proxy"},
		{admin.TokenRequest{ProxyID: "api-2"}, "api-2"},
		{admin.TokenRequest{SidecarFor: "api"}, "has 2 proxies: choose one with --proxy-id"},
		{admin.TokenRequest{SidecarFor: "batch"}, "not found in the catalog: `sallyport status` lists the proxies"},
		{admin.TokenRequest{SidecarFor: "plain"}, "not found in the catalog, where the service has none: add `connect { sidecar_service {} }`"},
		{admin.TokenRequest{ProxyID: "batch"}, "not found"},
		{admin.TokenRequest{}, "exactly one"},
		{admin.TokenRequest{SidecarFor: "web", ProxyID: "api-1"}, "exactly one"},
	} {
		p, err := proxyOf(v, tc.r)
		if (err != nil && !strings.Contains(err.Error(), tc.want)) || (err == nil && string(p.ID) != tc.want) {
			t.Errorf("proxyOf(%+v) = %v, %v, want %s", tc.r, p, err, tc.want)
		}
	}
}

func TestPlainLines(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(&plainHandler{w: &b, mu: &sync.Mutex{}, level: slog.LevelInfo}).With("proxy", "web-sidecar-proxy")
	log.Debug("hidden")
	log.Warn("envoy refused resources", "err", "bad\n\x1b[2Jforged line")
	got := b.String()
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") || strings.Contains(got, "hidden") ||
		!strings.Contains(got, "warn: envoy refused resources, proxy web-sidecar-proxy, err bad  [2Jforged line") {
		t.Errorf("plain line = %q", got)
	}
}

// TestCheckFiles: the files alone give the answer that a control plane of the same configuration
// gives.
func TestCheckFiles(t *testing.T) {
	dir := shortTemp(t)
	writeText(t, filepath.Join(dir, "mesh.hcl"), twoServices)
	for _, tc := range []struct{ env, args, want string }{
		{"", "web api", "Allowed"},
		{"", "spiffe://7a1f.consul/ns/default/dc/dc1/svc/web api", "Allowed"},
		{"", "spiffe://7a1f.consul/ns/default/dc/dc2/svc/web api", "unknown datacenter"},
		{"", "spiffe://7a1f.consul/x api", "Denied: spiffe://7a1f.consul/x => api, by foreign trust domain"},
		{"", "api web", "Denied: api => web, by default policy"},
		{"", "--default-intention-policy allow api web", "Allowed: api => web, by default policy"},
		{"allow", "api web", "Allowed: api => web, by default policy"},
		{"allow", "--default-intention-policy deny api web", "Denied: api => web, by default policy"},
		{"permit", "api web", "--default-intention-policy"},
	} {
		if tc.env != "" {
			t.Setenv("SALLYPORT_DEFAULT_INTENTION_POLICY", tc.env)
		}
		out, err := command(t, append([]string{"intention", "check", "--catalog", dir}, strings.Fields(tc.args)...)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, tc.want) {
			t.Errorf("intention check --catalog %s (policy %q) = %s, want %q", tc.args, tc.env, out, tc.want)
		}
	}
	for _, f := range []string{"--default-intention-policy=allow", "--intention-enforcement=bogus", "--datacenter=dc1", "--revocation=new"} {
		if _, err := command(t, "intention", "check", f, "--runtime-dir", dir, "web", "api"); err == nil || !strings.Contains(err.Error(), "is for --catalog") {
			t.Errorf("intention check %s without --catalog: %v, want a refusal", f, err)
		}
	}
}

// TestValidate: warnings stand like mistakes, and a file that cannot be parsed hides others.
func TestValidate(t *testing.T) {
	dir := shortTemp(t)
	writeText(t, filepath.Join(dir, "a.hcl"), strings.Replace(twoServices, `"api" local`, `"aip" local`, 1))
	out, err := command(t, "validate", dir)
	if want := "a.hcl:5: warning: upstream aip: no service of that name has a proxy here"; err != nil || !strings.HasPrefix(out, want) {
		t.Errorf("validate = %s, %v, want %q", out, err, want)
	}
	const more = "there may be more: what depends on a file"
	writeText(t, filepath.Join(dir, "b.hcl"), "service {")
	if out, err = command(t, "validate", dir); err == nil || !strings.Contains(out, "b.hcl:1: ") || !strings.Contains(out, more) {
		t.Errorf("validate with a file that cannot be parsed = %s, %v", out, err)
	}
	writeText(t, filepath.Join(dir, "b.hcl"), "service {}")
	if out, err = command(t, "validate", dir); err == nil || !strings.Contains(out, "b.hcl:1: ") || strings.Contains(out, more) {
		t.Errorf("validate with a mistake = %s, %v", out, err)
	}
}

// TestCheckRequests: of a request the permission that decides is named, and of a connection why it is denied.
func TestCheckRequests(t *testing.T) {
	dir := shortTemp(t)
	entry := `Kind = "service-intentions"
Name = "api"
Sources = [{ Name = "web" Permissions = [
	{ Action = "deny" HTTP { PathExact = "/admin" } },
	{ Action = "allow" HTTP { PathPrefix = "/" Header = [{ Name = "X-Role" Exact = "admin" }] } },
] }]
`
	writeText(t, filepath.Join(dir, "api.hcl"), entry)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--path", "/admin?x"}, "Denied: web => api, by the intention web => api #1 (deny) at api.hcl:3"},
		{[]string{"--path", "/a", "--header", "x-role: admin", "--method", "POST"}, "Allowed: web => api, by the intention web => api #2 (allow) at "},
		{[]string{"--header", "x-role:admin", "--path", "/a//b"}, "(the path is not canonical, and permissions look at it)"},
		{[]string{"--method", "GET"}, "Denied: web => api, by the intention web => api (2 permissions) at "},
		{[]string{"--method", "GET"}, "(default policy, as no permission is met)"},
		{nil, "(its permissions are about requests, and deny connections: ask with --method, --path and --header)"},
		{[]string{"--header", "x role"}, `header "x role": want a name and a value, as 'x-role: admin'`},
	} {
		out, err := command(t, append([]string{"intention", "check", "--catalog", dir, "web", "api"}, c.args...)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%q: %s, want %s", c.args, out, c.want)
		}
	}
}
