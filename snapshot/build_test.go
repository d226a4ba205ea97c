package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
)

// versions are the versions of all resources of r.
func versions(r *snapshot.Resources) map[string]string {
	out := map[string]string{}
	for url, byName := range r.ByType {
		for _, res := range byName {
			out[url[strings.LastIndex(url, ".")+1:]+" "+res.GetName()] = res.Version
		}
	}
	for _, s := range r.Secrets {
		out["Secret "+s.Name] = s.Version
	}
	return out
}

// resourceNames are those of the resources in s, sorted.
func resourceNames(s snapshot.Set) (out []string) {
	for _, r := range s {
		out = append(out, r.GetName())
	}
	return out
}

// changed are the names of the resources that differ between a and b.
func changed(a, b *snapshot.Resources) []string {
	va, vb := versions(a), versions(b)
	var out []string
	for name := range maps.Keys(va) {
		if va[name] != vb[name] {
			out = append(out, name)
		}
	}
	for name := range vb {
		if _, ok := va[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func TestBuildIsPure(t *testing.T) {
	for _, c := range cases(t) {
		before := fmt.Sprintf("%+v %+v", *c.in.Proxy, c.in.Upstreams)
		first := all(c.resources)
		rounds := 3
		if strings.HasPrefix(c.golden, "upstream-settings/") || strings.HasPrefix(c.golden, "all-but/") {
			rounds = 100
		}
		for range rounds {
			again := all(build(t, c.in))
			if len(again) != len(first) {
				t.Fatalf("%s: %d resources, then %d", c.golden, len(first), len(again))
			}
			for i, r := range again {
				if r.Version != first[i].Version || !bytes.Equal(r.Resource.Value, first[i].Resource.Value) {
					t.Fatalf("%s: %s differs between two builds of one input", c.golden, r.Name)
				}
			}
		}
		if after := fmt.Sprintf("%+v %+v", *c.in.Proxy, c.in.Upstreams); after != before {
			t.Errorf("%s: Build changed its input", c.golden)
		}
	}
}

func TestBuildDoesNotDependOnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range cases(t) {
		name, _, _ := strings.Cut(c.golden, "/")
		dir := "testdata/" + name
		contents := load(t, dir)
		for range 5 {
			for _, p := range contents.Proxies {
				r.Shuffle(len(p.Upstreams), func(i, j int) { p.Upstreams[i], p.Upstreams[j] = p.Upstreams[j], p.Upstreams[i] })
			}
			in := project(t, contents, c.in.Proxy.ID)
			in.Generation, in.Envoy = c.in.Generation, c.in.Envoy
			if d := changed(c.resources, build(t, in)); len(d) > 0 {
				t.Fatalf("%s: another order changed %v", c.golden, d)
			}
		}
	}
}

// TestIntentionsDoNotTouchListeners: a change of intentions drains nothing and reaches exactly what
// it has to.
func TestIntentionsDoNotTouchListeners(t *testing.T) {
	policies := []*intention.Policy{
		compile("web", intention.Deny),
		compile("web", intention.Deny, from("api", intention.Allow)),
		compile("web", intention.Deny, from("*", intention.Allow)),
		compile("web", intention.Deny, from("bad", intention.Deny), from("*", intention.Allow)),
		nil,
	}
	for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
		for _, enforcement := range []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both} {
			want := []string{"Secret peers/web", "TypedExtensionConfig intentions/web"}
			if protocol.L7() {
				want = []string{"RouteConfiguration inbound/web"}
			}
			if enforcement == catalog.ExtAuthz {
				want = nil
			}
			in := input(policies[0], catalog.Inbound{Protocol: protocol, Enforcement: enforcement}, target("api", catalog.TCP))
			last := build(t, in)
			for i, p := range policies[1:] {
				in = own(in)
				in.Policy = p
				now := build(t, in)
				if d := cmp.Diff(want, changed(last, now)); d != "" {
					t.Errorf("%s, %s: policy %d changed (-want +got):\n%s", protocol, enforcement, i+1, d)
				}
				last = now
			}
		}
	}
}

// TestGeneration: a generation renames the chain, and nothing else, and only where connections are
// to end.
func TestGeneration(t *testing.T) {
	for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
		for _, revocation := range []catalog.Revocation{catalog.Drain, catalog.NewConnections, catalog.NextRequest} {
			in := input(compile("web", intention.Deny), catalog.Inbound{Protocol: protocol, Revocation: revocation})
			zero := build(t, in)
			in.Generation = 1
			one := build(t, in)
			if revocation != catalog.Drain {
				if d := changed(zero, one); len(d) > 0 {
					t.Errorf("%s, %s: a generation changed %v", protocol, revocation, d)
				}
				in.Ended = 2
				if ended := build(t, in); public(t, ended).FilterChains[0].Name != "web/2" || len(changed(one, ended)) != 1 {
					t.Errorf("%s, %s: all connections are to end: changed are %v", protocol, revocation, changed(one, ended))
				}
				continue
			}
			if d := cmp.Diff([]string{"Listener public_listener:127.0.0.1:21000"}, changed(zero, one)); d != "" {
				t.Errorf("%s: a generation changed (-want +got):\n%s", protocol, d)
			}
			a, b := public(t, zero), public(t, one)
			if a.FilterChains[0].Name != "web/0" || b.FilterChains[0].Name != "web/1" {
				t.Errorf("%s: the chain is named %q, then %q", protocol, a.FilterChains[0].Name, b.FilterChains[0].Name)
			}
			a.FilterChains[0].Name = b.FilterChains[0].Name
			if !proto.Equal(a, b) {
				t.Errorf("%s: a generation changed more than the chain's name", protocol)
			}
		}
	}
}

// TestHandshakeForms: what the handshake is told, for each kind of policy and size of expression.
func TestHandshakeForms(t *testing.T) {
	many := []intention.Intention{from("*", intention.Allow)}
	for n := range 201 {
		many = append(many, from(fmt.Sprintf("s%03d", n), intention.Deny))
	}
	allBut := compile("web", intention.Deny, from("bad", intention.Deny), from("*", intention.Allow))
	for _, test := range []struct {
		name     string
		policy   *intention.Policy
		size     int
		kind     string
		n        int
		warnings int
	}{
		{"nobody", compile("web", intention.Deny), 10000, "exact", 1, 0},
		{"two in two datacenters", compile("web", intention.Deny, from("a", intention.Allow), from("b", intention.Allow)), 10000, "exact", 4, 0},
		{"everybody", compile("web", intention.Allow), 10000, "regex", 1, 0},
		{"everybody, Envoy's own bound", compile("web", intention.Allow), 0, "prefix", 2, 0},
		{"all but one", allBut, 10000, "regex", 1, 0},
		{"all but one, Envoy's own bound", allBut, 100, "prefix", 2, 1},
		{"all but too many", compile("web", intention.Deny, many...), 1 << 20, "regex", 1, 1},
		{"all but what cannot be", compile("web", intention.Allow, from("a b", intention.Deny)), 10000, "regex", 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := input(test.policy, catalog.Inbound{})
			in.Envoy.RegexSize = test.size
			r := build(t, in)
			got := names(t, r, "peers/web")
			if len(got) != test.n {
				t.Errorf("%d names, want %d: %v", len(got), test.n, got)
			}
			for _, n := range got {
				kind := map[bool]string{true: "exact"}[n.GetMatcher().GetExact() != ""] + map[bool]string{true: "prefix"}[n.GetMatcher().GetPrefix() != ""] +
					map[bool]string{true: "regex"}[n.GetMatcher().GetSafeRegex() != nil]
				if kind != test.kind {
					t.Errorf("a name is %q, want %q: %v", kind, test.kind, n)
				}
				if p := n.GetMatcher().GetPrefix(); p != "" && !strings.HasSuffix(p, "/svc/") {
					t.Errorf("prefix %q would match more than services' names", p)
				}
			}
			if len(r.Warnings) != test.warnings {
				t.Errorf("warnings %q, want %d", r.Warnings, test.warnings)
			}
		})
	}
}

// TestUpstreamClusters: which upstreams share a cluster, and what it is called.
func TestUpstreamClusters(t *testing.T) {
	api := target("api", catalog.HTTP, at("10.0.0.1"))
	const sni = "api.default.dc1.internal." + trustDomain
	slow := catalog.Upstream{ConnectTimeout: 9 * time.Second}
	build := func(upstreams ...catalog.Upstream) *snapshot.Resources {
		in := input(compile("web", intention.Deny), catalog.Inbound{})
		for i, u := range upstreams {
			u.Destination, u.BindPort = api.Service.Name, 9100+uint16(i)
			in.Proxy.Upstreams = append(in.Proxy.Upstreams, u)
			in.Upstreams = append(in.Upstreams, api)
		}
		return build(t, in)
	}
	clustersOf := func(r *snapshot.Resources) []string {
		return slices.DeleteFunc(resourceNames(r.ByType[clusters]), func(n string) bool { return n == "local_app" })
	}
	if got := clustersOf(build(catalog.Upstream{}, catalog.Upstream{ConnectTimeout: 5 * time.Second})); !slices.Equal(got, []string{sni}) {
		t.Errorf("two upstreams with equal settings, one spelled out: clusters %q, want %q", got, sni)
	}
	if got := clustersOf(build(slow)); !slices.Equal(got, []string{sni}) {
		t.Errorf("one upstream with settings: clusters %q, want %q", got, sni)
	}
	// One that is spoken to otherwise than its service says has a cluster, and routes, that fit.
	tcp := build(catalog.Upstream{}, catalog.Upstream{Protocol: catalog.OptionalProtocol{Set: true, Protocol: catalog.TCP}})
	if got := clustersOf(tcp); len(got) != 2 {
		t.Errorf("upstreams with two protocols: clusters %q, want two", got)
	}
	if got := resourceNames(tcp.ByType[routes]); !slices.Equal(got, []string{"upstream/api:127.0.0.1:9100"}) {
		t.Errorf("upstreams of http and tcp: routes %q", got)
	}
	two := build(catalog.Upstream{}, slow, slow)
	got := clustersOf(two)
	if len(got) != 2 || !slices.Contains(got, sni) || !strings.HasSuffix(got[0], "~"+sni) || len(got[0]) != 8+1+len(sni) {
		t.Fatalf("upstreams with two kinds of settings: clusters %q, want %q and one with a hash before it", got, sni)
	}
	if e := resourceNames(two.ByType[endpoints]); !slices.Equal(e, got) {
		t.Errorf("endpoints %q, want one for each cluster", e)
	}
	if c := resource(t, two, clusters, got[0], &clusterv3.Cluster{}); c.ConnectTimeout.AsDuration() != slow.ConnectTimeout {
		t.Errorf("the cluster with a hash has a timeout of %v", c.ConnectTimeout)
	}
	// A change of the only upstream's settings changes its cluster, not the listener, whose
	// connections would end.
	if d := cmp.Diff([]string{"Cluster " + sni}, changed(build(catalog.Upstream{}), build(slow))); d != "" {
		t.Errorf("settings changed (-want +got):\n%s", d)
	}
}

func TestBuildRefuses(t *testing.T) {
	good := func() snapshot.Input {
		return input(compile("web", intention.Deny), catalog.Inbound{}, target("api", catalog.TCP), target("db", catalog.TCP))
	}
	if _, err := snapshot.Build(good()); err != nil {
		t.Fatalf("a good input: %v", err)
	}
	for want, spoil := range map[string]func(in *snapshot.Input){
		"not enough is known":              func(in *snapshot.Input) { in.Mesh = nil },
		"no trust domain":                  func(in *snapshot.Input) { in.Mesh = &catalog.Mesh{Datacenter: "dc1"} },
		`"web.local" is not an IP address`: func(in *snapshot.Input) { in.Proxy.Inbound.Address = "web.local" },
		"inbound port is not known":        func(in *snapshot.Input) { in.Proxy.Inbound.Port = 0 },
		"neither the port nor the socket":  func(in *snapshot.Input) { in.Proxy.Inbound.LocalPort = 0 },
		"both listen on 127.0.0.1:9100":    func(in *snapshot.Input) { in.Proxy.Upstreams[1].BindPort = 9100 },
		`"localhost" is not an IP address`: func(in *snapshot.Input) { in.Proxy.Upstreams[1].BindAddress = "localhost" },
		"neither a port nor a socket":      func(in *snapshot.Input) { in.Proxy.Upstreams[1].BindPort = 0 },
		"upstream a b (web.hcl:9) cannot be": func(in *snapshot.Input) {
			in.Proxy.Upstreams[1] = catalog.Upstream{Destination: identity.NewName("a b"), BindPort: 1, Origin: "web.hcl:9"}
		},
		`upstream api (web.hcl:9) cannot be an identity of ` + trustDomain + ` in "d c"`: func(in *snapshot.Input) {
			in.Proxy.Upstreams[1] = catalog.Upstream{Destination: identity.NewName("api"), Datacenter: "d c", BindPort: 1, Origin: "web.hcl:9"}
		},
		"service w b cannot be an identity":     func(in *snapshot.Input) { in.Proxy.Service = identity.NewName("w b") },
		"proxy web-sidecar-proxy (web.hcl:1): ": func(in *snapshot.Input) { in.Proxy.Inbound.ConnectTimeout = -1 },
		"MaxEjectionPercent": func(in *snapshot.Input) {
			in.Proxy.Upstreams[0].Passive = catalog.PassiveHealthCheck{Set: true, MaxEjectionPercent: catalog.Limit{Set: true, N: 101}}
		},
		"invalid UTF-8": func(in *snapshot.Input) { in.Proxy.Upstreams[0].BindSocket = "/run/\xff" },
	} {
		in := good()
		spoil(&in)
		r, err := snapshot.Build(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Build = %v, %v, want an error with %q", r, err, want)
		}
		if r != nil {
			t.Errorf("%s: there are resources beside the error", want)
		}
	}
	in := good()
	in.Proxy = nil
	if _, err := snapshot.Build(in); !errors.Is(err, snapshot.ErrIncomplete) {
		t.Errorf("Build without a proxy = %v, want ErrIncomplete", err)
	}
}

// BenchmarkCacheBuild is what a publisher does: the first time for a proxy, and after a change of
// one thing.
func BenchmarkCacheBuild(b *testing.B) {
	var upstreams []catalog.Target
	for i := range 10 {
		upstreams = append(upstreams, target(fmt.Sprintf("api-%d", i), catalog.TCP, at("10.0.0.1")))
	}
	in := input(compile("web", intention.Deny, from("shop", intention.Allow)), catalog.Inbound{}, upstreams...)
	endpoint := own(in)
	endpoint.Upstreams[3] = catalog.Target{Service: upstreams[3].Service, Endpoints: target("api-3", catalog.TCP, at("10.0.0.2")).Endpoints}
	policy := own(in)
	policy.Policy = compile("web", intention.Deny, from("shop", intention.Allow), from("*", intention.Allow))
	for _, c := range []struct {
		name  string
		in    snapshot.Input
		again bool // there are resources of in already
	}{{"first", in, false}, {"endpoint", endpoint, true}, {"intention", policy, true}} {
		b.Run("change="+c.name, func(b *testing.B) {
			var cache snapshot.Cache
			last, err := cache.Build(in, nil)
			if err != nil {
				b.Fatal(err)
			}
			if !c.again {
				last = nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cache.Build(c.in, last); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	var list []catalog.Endpoint
	for i := range 10 {
		list = append(list, at(fmt.Sprintf("10.0.0.%d", i)))
	}
	var upstreams []catalog.Target
	for i := range 10 {
		upstreams = append(upstreams, target(fmt.Sprintf("api-%d", i), catalog.HTTP, list...))
	}
	for _, size := range []int{1, 10, 100, 1000} {
		for _, kind := range []string{"named", "all-but"} {
			all := []intention.Intention{}
			action := intention.Allow
			if kind == "all-but" {
				all = append(all, from("*", intention.Allow))
				action = intention.Deny
			}
			for i := range size {
				all = append(all, from(fmt.Sprintf("service-%d", i), action))
			}
			in := input(compile("web", intention.Deny, all...), catalog.Inbound{}, upstreams...)
			b.Run(fmt.Sprintf("%s/size=%d", kind, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := snapshot.Build(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
