package catalog_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func name(s string) identity.Name { return identity.NewName(s) }

// contents is a small mesh in which each field of each type has a value other than zero. It shares nothing with what an
// earlier call returned.
func contents() catalogtest.Mesh {
	timeout := catalog.Timeout{Set: true, Duration: time.Second}
	limit := catalog.Limit{Set: true, N: 7}
	upstream := func(to string) catalog.Upstream {
		return catalog.Upstream{
			Destination: name(to), BindAddress: "127.0.0.1", BindPort: 5000, BindSocket: "/run/x.sock", BindSocketMode: 0o600, ConnectTimeout: time.Second,
			Limits:             catalog.Limits{MaxConnections: limit, MaxPendingRequests: limit, MaxConcurrentRequests: limit},
			Passive:            catalog.PassiveHealthCheck{Set: true, Interval: time.Second, MaxFailures: limit, EnforcingConsecutive5xx: limit, MaxEjectionPercent: limit, BaseEjectionTime: time.Second},
			BalanceConnections: true, Origin: "web.hcl:9",
		}
	}
	proxy := func(service string, upstreams ...catalog.Upstream) catalog.Proxy {
		return catalog.Proxy{
			ID: identity.ProxyID(service + "-1-sidecar-proxy"), Service: name(service), Instance: service + "-1", Origin: service + ".hcl:3", Host: "10.0.0.1", Refused: "no port",
			Inbound: catalog.Inbound{
				Address: "127.0.0.1", Port: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080, LocalSocket: "/run/y.sock", LocalOrigin: "web.hcl:5", Protocol: catalog.HTTP,
				Enforcement: catalog.ExtAuthz, Revocation: catalog.NextRequest, ServerFirst: true, ConnectTimeout: time.Second, RequestTimeout: time.Second,
				IdleTimeout: timeout, MaxConnections: 7, BalanceConnections: true, Closed: "its port is another's",
			},
			Bootstrap: catalog.Bootstrap{PrometheusBindAddr: "127.0.0.1:9102", StatsTags: "nomad.job=web", UID: 1000},
			Upstreams: upstreams, RefuseHTTP10: true,
			Exposed: []catalog.ExposedPath{{Path: "/healthz", ListenerPort: 21600, LocalPort: 8081, Protocol: catalog.HTTP2, Origin: service + ".hcl:7"}},
		}
	}
	service := func(s, datacenter string) catalog.Service {
		return catalog.Service{Name: name(s), Datacenter: datacenter, Protocol: catalog.HTTP}
	}
	endpoints := func(s, datacenter string) catalog.Endpoints {
		return catalog.Endpoints{Name: name(s), Datacenter: datacenter, List: []catalog.Endpoint{
			{Address: "127.0.0.1", Port: 21000, Weight: 1, Healthy: true},
			{Address: "127.0.0.2", Port: 21000, Weight: 1, Healthy: false},
			{Address: "127.0.0.2", Port: 21000, Weight: 1, Healthy: true},
		}}
	}
	registration := func(s string) catalog.Registration {
		return catalog.Registration{
			ID: s + "-1", Service: name(s), Tags: []string{"blue", "green"}, Meta: map[string]string{"team": "shop"}, Address: "10.0.0.1", Port: 8443, Host: "10.0.0.1", Socket: "/run/z.sock",
			Native: true, Weights: catalog.Weights{Passing: 1, Warning: 1}, EnableTagOverride: true, Status: "passing", Origin: s + ".hcl:1",
			Checks: []catalog.Check{{ID: "service:" + s, Name: "up", Status: "passing", Notes: "n", Output: "o", Type: "ttl", Interval: "10s", Timeout: "1s"}},
		}
	}
	sidecar := func(s string) catalog.Sidecar {
		r := registration(s)
		r.ID, r.Service = s+"-1-sidecar-proxy", name(s+"-sidecar-proxy")
		return catalog.Sidecar{
			Registration: r, Destination: name(s), Instance: s + "-1", LocalAddress: "127.0.0.1", LocalPort: 8080, LocalSocket: "/run/y.sock", Config: `{"protocol":"http"}`,
			Upstreams: []catalog.SidecarUpstream{{Destination: "api", Datacenter: "dc2", BindAddress: "127.0.0.1", BindPort: 5000, BindSocket: "/run/x.sock", SocketMode: "0600", Config: "{}"}},
			Exposed:   []catalog.ExposedPath{{Path: "/healthz", ListenerPort: 21600, LocalPort: 8081, Protocol: catalog.HTTP2, OfCheck: true, Agent: "10.0.0.1", Origin: s + ".hcl:7"}},
		}
	}
	elsewhere := upstream("api")
	elsewhere.Datacenter = "dc2"
	return catalogtest.Mesh{
		Mesh: catalog.Mesh{
			TrustDomain: spiffeid.RequireTrustDomainFromString("ours.consul"), Datacenter: "dc1", Datacenters: []string{"dc1", "dc2"}, Default: intention.Allow,
			Incoming: catalog.TLS{Allow12: true}, Outgoing: catalog.TLS{Allow12: true}, DropForwardedClientCert: true,
		},
		Services:  []catalog.Service{service("web", ""), service("api", ""), service("db", ""), service("api", "dc2")},
		Endpoints: []catalog.Endpoints{endpoints("web", ""), endpoints("api", ""), endpoints("db", ""), endpoints("api", "dc2")},
		Proxies:   []catalog.Proxy{proxy("web", upstream("api"), upstream("db"), elsewhere), proxy("api", upstream("db")), proxy("db", upstream("web"))},
		Intentions: []intention.Intention{
			{Source: intention.Source{Name: name("web")}, Destination: name("api"), Action: intention.Allow, Origin: "api.hcl:1"},
			{Source: intention.Source{Name: name("*")}, Destination: name("db"), Action: intention.Deny, Origin: "db.hcl:1"},
			{Source: intention.Source{Name: name("batch")}, Destination: name("*"), Action: intention.Deny, Origin: "all.hcl:1"},
		},
		Registrations: []catalog.Registration{registration("web"), registration("batch")},
		Sidecars:      []catalog.Sidecar{sidecar("web"), sidecar("api")},
		Entries: []catalog.Entry{
			{Kind: "service-defaults", Name: "web", Meta: map[string]string{"team": "shop"}, Fields: `{"Protocol":"http"}`, Origin: "web.hcl:1"},
			{Kind: "service-intentions", Name: "api", Meta: map[string]string{"team": "shop"}, Sources: []catalog.EntrySource{{Source: intention.Source{Peer: "x", Name: name("web")}, Description: "d"}}, Origin: "api.hcl:1"},
		},
	}
}

func first(m catalogtest.Mesh) *catalog.View { return m.View() }

func TestLookUps(t *testing.T) {
	v := first(contents())
	if v.Mesh().Datacenter != "dc1" || v.Identity(name("web")).String() != "spiffe://ours.consul/ns/default/dc/dc1/svc/web" {
		t.Errorf("Mesh() = %+v, Identity(web) = %s", v.Mesh(), v.Identity(name("web")))
	}
	var services, proxies []string
	for s := range v.Services() {
		services = append(services, called(s))
	}
	for p := range v.Proxies() {
		proxies = append(proxies, string(p.ID))
		if v.Proxy(p.ID).Proxy != p {
			t.Errorf("Proxy(%s) is another than Proxies has", p.ID)
		}
	}
	if want := []string{"api", "api?dc=dc2", "db", "web"}; !slices.Equal(services, want) {
		t.Errorf("Services() = %v, want %v", services, want)
	}
	if want := []string{"api-1-sidecar-proxy", "db-1-sidecar-proxy", "web-1-sidecar-proxy"}; !slices.Equal(proxies, want) {
		t.Errorf("Proxies() = %v, want %v", proxies, want)
	}
	for w := range v.Of(name("web")) {
		if w != v.Proxy("web-1-sidecar-proxy") || w.Policy != v.Policy(name("web")) || w.Upstreams[0].Service != v.Service(name("api")) {
			t.Errorf("Of(web) has %+v", w)
		}
	}
	for range v.Of(name("x")) {
		t.Error("x has a proxy")
	}
	if r := v.Registration("batch-1"); r == nil || r.Service != name("batch") || !slices.Equal(slices.Collect(v.Instances(name("batch"))), []*catalog.Registration{r}) {
		t.Errorf("Registration(batch-1) = %+v", r)
	}
	if v.Policy(name("batch")) == nil {
		t.Error("a service that is registered has no policy")
	}
	for range v.Instances(name("x")) {
		t.Error("x is registered")
	}
	if v.Registration("x") != nil || v.Service(name("x")) != nil || v.Proxy("x") != nil || v.Policy(name("x")) != nil {
		t.Error("something is known of what nobody named")
	}
}

// TestZeroView asks a View of nothing for everything.
func TestZeroView(t *testing.T) {
	v := &catalog.View{}
	if v.Mesh() != nil || v.Service(name("web")) != nil || v.Proxy("web") != nil || v.Policy(name("web")) != nil || v.Registration("web") != nil {
		t.Error("the zero View knows something")
	}
	for range v.Services() {
		t.Error("the zero View has services")
	}
	for range v.Proxies() {
		t.Error("the zero View has proxies")
	}
	if d := v.Policy(name("web")).Decide(identity.Service{}); d.Allowed() {
		t.Error("the zero View allows")
	}
}

// TestDatacenters dials one name in several datacenters. The mesh's own may be spelled out, and is the same then.
func TestDatacenters(t *testing.T) {
	endpoints := func(datacenter string, port uint16) catalog.Endpoints {
		return catalog.Endpoints{Name: name("api"), Datacenter: datacenter, List: []catalog.Endpoint{{Address: "127.0.0.1", Port: port, Weight: 1, Healthy: true}}}
	}
	c := contents()
	c.Services = []catalog.Service{{Name: name("api")}, {Name: name("api"), Datacenter: "dc2", Protocol: catalog.HTTP}}
	c.Endpoints = []catalog.Endpoints{endpoints("", 1), endpoints("dc2", 2)}
	c.Proxies[0].Upstreams = nil
	for _, datacenter := range []string{"", "dc1", "dc2"} {
		c.Proxies[0].Upstreams = append(c.Proxies[0].Upstreams, catalog.Upstream{Destination: name("api"), Datacenter: datacenter})
	}
	v := first(c)
	dialled := v.Proxy(c.Proxies[0].ID).Upstreams
	for i, want := range []uint16{1, 1, 2} {
		s, e := dialled[i].Service, dialled[i].Endpoints.List
		if len(e) != 1 || e[0].Port != want || s.Protocol.L7() != (want == 2) {
			t.Errorf("upstream %d is %+v, at %+v, want the one with port %d", i, s, e, want)
		}
	}
	if s := v.Service(name("api")); s.Datacenter != "" || s != dialled[0].Service || dialled[0] != dialled[1] {
		t.Errorf("Service(api) = %+v", s)
	}
	// Dialled in a datacenter of which nothing is known: a service of its own without endpoints, of which nobody here decides who may reach it.
	c = contents()
	c.Proxies[0].Upstreams = []catalog.Upstream{{Destination: name("cache"), Datacenter: "dc2"}}
	w := v.Next(c.Contents())
	if x := w.Proxy(c.Proxies[0].ID).Upstreams[0]; called(x.Service) != "cache?dc=dc2" || len(x.Endpoints.List) > 0 {
		t.Errorf("cache in dc2 is %+v, at %+v", x.Service, x.Endpoints)
	}
	if w.Service(name("cache")) != nil || w.Policy(name("cache")) != nil {
		t.Error("cache is known in the mesh's own datacenter too")
	}
}

// TestPlaceholders demands that what somebody dials is there, published or not, and that every service that
// somebody protects has a policy.
func TestPlaceholders(t *testing.T) {
	c := contents()
	c.Services, c.Endpoints, c.Registrations = nil, nil, nil
	v := first(c)
	web := v.Proxy("web-1-sidecar-proxy")
	for i, want := range []string{"api", "db", "api?dc=dc2"} {
		if x := web.Upstreams[i]; called(x.Service) != want || x.Service.Protocol != catalog.TCP || len(x.Endpoints.List) > 0 {
			t.Errorf("upstream %d is %+v, at %+v, want %s without endpoints", i, x.Service, x.Endpoints, want)
		}
	}
	for _, s := range []string{"web", "api", "db"} {
		if v.Policy(name(s)) == nil {
			t.Errorf("Policy(%s) is nil", s)
		}
	}
	c.Proxies = c.Proxies[:2]
	next := v.Next(c.Contents())
	if next.Proxy(web.Proxy.ID) != web {
		t.Error("what a proxy dials is another in the next View, and nothing of it is published yet")
	}
	// Half of it is published.
	c.Endpoints = contents().Endpoints[2:3]
	half := next.Next(c.Contents()).Proxy(web.Proxy.ID)
	if x := half.Upstreams[1]; half == web || called(x.Service) != "db" || len(x.Endpoints.List) != 3 {
		t.Errorf("db is %+v, at %+v, want it with endpoints", x.Service, x.Endpoints)
	}
	// The last proxy goes: so does the service, but not what is said about it.
	c.Proxies = nil
	next = next.Next(c.Contents())
	if next.Policy(name("db")) == nil || next.Policy(name("web")) != nil {
		t.Errorf("Policy(db) = %v, Policy(web) = %v", next.Policy(name("db")), next.Policy(name("web")))
	}
	if next.Policy(name("*")) != nil {
		t.Error("the wildcard has a policy")
	}
}

// flip is one field of the contents, and a way to change it.
type flip struct {
	path   string
	change func(*catalogtest.Mesh)
}

// flips finds every field of v, however deep, and each slice's length.
func flips(path string, typ reflect.Type, get func(*catalogtest.Mesh) reflect.Value) []flip {
	if typ == reflect.TypeFor[spiffeid.TrustDomain]() {
		return []flip{{path, func(c *catalogtest.Mesh) {
			get(c).Set(reflect.ValueOf(spiffeid.RequireTrustDomainFromString("theirs.consul")))
		}}}
	}
	var out []flip
	switch typ {
	case reflect.TypeFor[*intention.Permissions]():
		some, _ := intention.NewPermissions([]intention.Permission{{Methods: []string{"GET"}}})
		return []flip{{path, func(c *catalogtest.Mesh) { get(c).Set(reflect.ValueOf(some)) }}}
	case reflect.TypeFor[*intention.Tokens]():
		return []flip{{path, func(c *catalogtest.Mesh) {
			get(c).Set(reflect.ValueOf(intention.NewTokens([]intention.TokenRequirement{{Provider: "x"}})))
		}}}
	}
	switch typ.Kind() {
	case reflect.Struct:
		for i := range typ.NumField() {
			out = append(out, flips(path+"."+typ.Field(i).Name, typ.Field(i).Type, func(c *catalogtest.Mesh) reflect.Value { return get(c).Field(i) })...)
		}
	case reflect.Slice:
		c := contents()
		for i := range get(&c).Len() {
			out = append(out, flips(fmt.Sprintf("%s[%d]", path, i), typ.Elem(), func(c *catalogtest.Mesh) reflect.Value { return get(c).Index(i) })...)
		}
		if get(&c).Len() > 0 {
			out = append(out, flip{path + " shorter", func(c *catalogtest.Mesh) { s := get(c); s.Set(s.Slice(0, s.Len()-1)) }})
		}
	case reflect.Map:
		out = append(out, flip{path + " without", func(c *catalogtest.Mesh) { m := get(c); m.Set(reflect.Zero(m.Type())) }},
			flip{path + " another", func(c *catalogtest.Mesh) {
				m := get(c)
				k := m.MapKeys()[0]
				m.SetMapIndex(k, reflect.ValueOf(m.MapIndex(k).String()+"x"))
			}})
	case reflect.String:
		out = append(out, flip{path, func(c *catalogtest.Mesh) { s := get(c); s.SetString(s.String() + "x") }})
	case reflect.Bool:
		out = append(out, flip{path, func(c *catalogtest.Mesh) { s := get(c); s.SetBool(!s.Bool()) }})
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		out = append(out, flip{path, func(c *catalogtest.Mesh) { s := get(c); s.SetUint(s.Uint() + 1) }})
	case reflect.Int, reflect.Int64:
		out = append(out, flip{path, func(c *catalogtest.Mesh) { s := get(c); s.SetInt(s.Int() + 1) }})
	default:
		panic("a field of a kind that this test does not know: " + path + " " + typ.String())
	}
	return out
}

// TestEveryFieldCounts changes one field at a time, each that there is. What has the field must be another thing in the next
// View, and everything else must be the very same.
func TestEveryFieldCounts(t *testing.T) {
	index := func(field string, i int) func(*catalogtest.Mesh) reflect.Value {
		return func(c *catalogtest.Mesh) reflect.Value { return reflect.ValueOf(c).Elem().FieldByName(field).Index(i) }
	}
	base := contents()
	for i := range base.Services {
		of := called(&base.Services[i])
		for _, f := range flips("Services."+of, reflect.TypeFor[catalog.Service](), index("Services", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "service "+of) })
		}
		for _, f := range flips("Endpoints."+of, reflect.TypeFor[catalog.Endpoints](), index("Endpoints", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "endpoints "+of) })
		}
	}
	for i, p := range base.Proxies {
		for _, f := range flips("Proxies."+string(p.ID), reflect.TypeFor[catalog.Proxy](), index("Proxies", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "proxy "+string(p.ID)) })
		}
	}
	for i, r := range base.Registrations {
		for _, f := range flips("Registrations."+r.ID, reflect.TypeFor[catalog.Registration](), index("Registrations", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "registration "+r.ID) })
		}
	}
	for i, s := range base.Sidecars {
		for _, f := range flips("Sidecars."+s.ID, reflect.TypeFor[catalog.Sidecar](), index("Sidecars", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "sidecar "+s.ID) })
		}
	}
	for i, e := range base.Entries {
		for _, f := range flips("Entries."+e.Name, reflect.TypeFor[catalog.Entry](), index("Entries", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, "entry "+e.Kind+"/"+e.Name) })
		}
	}
	policies := map[int][]string{0: {"policy api"}, 1: {"policy db"}, 2: {"policy api", "policy db", "policy web"}}
	for i := range base.Intentions {
		for _, f := range flips(fmt.Sprintf("Intentions[%d]", i), reflect.TypeFor[intention.Intention](), index("Intentions", i)) {
			t.Run(f.path, func(t *testing.T) { changesOnly(t, f, policies[i]...) })
		}
	}
	scope := []string{"Mesh.TrustDomain", "Mesh.Datacenters[0]", "Mesh.Datacenters[1]", "Mesh.Datacenters shorter", "Mesh.Default"}
	for _, f := range flips("Mesh", reflect.TypeFor[catalog.Mesh](), func(c *catalogtest.Mesh) reflect.Value { return reflect.ValueOf(&c.Mesh).Elem() }) {
		t.Run(f.path, func(t *testing.T) {
			if slices.Contains(scope, f.path) { // what decisions depend on
				changesOnly(t, f, "mesh", "policy api", "policy db", "policy web")
				return
			}
			changes(t, f, "mesh")
		})
	}
}

// called is what an upstream to s is called.
func called(s *catalog.Service) string {
	return catalog.Upstream{Destination: s.Name, Datacenter: s.Datacenter}.Name()
}

// parts are the things in a View that others may hold on to.
func parts(v *catalog.View) map[string]any {
	out := map[string]any{"mesh": v.Mesh()}
	for s := range v.Services() {
		out["service "+called(s)] = s
	}
	for p := range v.Proxies() {
		out["proxy "+string(p.ID)] = p
		for _, x := range v.Proxy(p.ID).Upstreams {
			out["endpoints "+called(x.Service)] = x.Endpoints
		}
	}
	for r := range v.Registrations() {
		out["registration "+r.ID] = r
	}
	for s := range v.Sidecars() {
		out["sidecar "+s.ID] = s
	}
	for e := range v.Entries() {
		out["entry "+e.Kind+"/"+e.Name] = e
	}
	for _, s := range []string{"api", "db", "web"} {
		out["policy "+s] = v.Policy(name(s))
	}
	return out
}

func changes(t *testing.T, f flip, want ...string) (before, after map[string]any) {
	t.Helper()
	v := first(contents())
	c := contents()
	f.change(&c)
	next := v.Next(c.Contents())
	if next == v {
		t.Fatalf("%s changed, and the View did not", f.path)
	}
	before, after = parts(v), parts(next)
	sameViews(t, v, next)
	for _, w := range want {
		if before[w] == after[w] {
			t.Errorf("%s changed, and %s is the same as before", f.path, w)
		}
	}
	// The other way round, and nothing is left of the change.
	if again := next.Next(contents().Contents()).Next(contents().Contents()); written(again) != written(v) {
		t.Errorf("%s changed and changed back, and the View is not equal to what it was", f.path)
	}
	return before, after
}

func changesOnly(t *testing.T, f flip, want ...string) {
	t.Helper()
	before, after := changes(t, f, want...)
	for k, b := range before {
		if a, ok := after[k]; ok && a != b && !slices.Contains(want, k) {
			t.Errorf("%s changed, and %s is another for it", f.path, k)
		}
	}
}

// TestOtherNamespace demands that the wildcard of a namespace holds for that namespace and for no other.
func TestOtherNamespace(t *testing.T) {
	team := func(s string) identity.Name {
		return identity.Name{Partition: identity.Default, Namespace: "team", Service: s}
	}
	c := contents()
	c.Proxies = append(c.Proxies, catalog.Proxy{ID: "t", Service: team("api")})
	v := first(c)
	c.Intentions = append(slices.Clone(c.Intentions), intention.Intention{Source: intention.Source{Name: team("*")}, Destination: team("*")})
	next := v.Next(c.Contents())
	src := identity.Service{TrustDomain: c.Mesh.TrustDomain, Datacenter: "dc1", Name: team("web")}
	if d := next.Policy(team("api")).Decide(src); d.Allowed() || d.Intention == nil {
		t.Errorf("Decide(%s → team's api) = %+v, want denied by the wildcard of its namespace", src, d)
	}
	if next.Policy(name("api")) != v.Policy(name("api")) {
		t.Error("the wildcard of a namespace changed the policy of another")
	}
}

// BenchmarkNext is one changed endpoint of a service that ten proxies dial.
func BenchmarkNext(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			c := contents()
			for i := range n {
				s := name(fmt.Sprint("s", i))
				var endpoints []catalog.Endpoint
				for e := range 5 {
					endpoints = append(endpoints, catalog.Endpoint{Address: fmt.Sprint("10.0.0.", e), Port: 21000, Weight: 1, Healthy: true})
				}
				c.Services = append(c.Services, catalog.Service{Name: s})
				c.Endpoints = append(c.Endpoints, catalog.Endpoints{Name: s, List: endpoints})
				c.Proxies = append(c.Proxies, catalog.Proxy{ID: identity.ProxyID(s.Service + "-proxy"), Service: s, Instance: s.Service, Upstreams: []catalog.Upstream{{Destination: name(fmt.Sprint("s", i/10))}}})
				c.Intentions = append(c.Intentions, intention.Intention{Source: intention.Source{Name: s}, Destination: name(fmt.Sprint("s", (i+1)%n)), Action: intention.Allow})
				if i < 10 { // each is part of every policy
					c.Intentions = append(c.Intentions, intention.Intention{Source: intention.Source{Name: s}, Destination: name("*")})
				}
			}
			contents := c.Contents()
			v := (&catalog.View{}).Next(contents)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				contents.Endpoints = slices.Clone(contents.Endpoints)
				changed := *contents.Endpoints[n/2]
				changed.List = []catalog.Endpoint{{Address: "10.0.0.1", Port: uint16(i)}}
				contents.Endpoints[n/2] = &changed
				next := v.Next(contents)
				if next == v {
					b.Fatal("nothing changed")
				}
				v = next
			}
		})
	}
}
