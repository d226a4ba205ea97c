package snapshot_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/rbactest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
)

// TestRulesTable holds the generated rules, and the names of the handshake before them, to the
// table of decisions.
func TestRulesTable(t *testing.T) {
	cases, err := decisiontable.Load("../intention/testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
				in := input(c.Policy(), catalog.Inbound{Protocol: protocol})
				r := build(t, in)
				m := rules(t, in, r)
				secret := "peers/" + in.Proxy.Service.String()
				if protocol.L7() {
					secret = "identities"
				}
				for _, p := range c.Peers {
					if !p.Proved() {
						continue
					}
					got, by, err := rbactest.Decided(m, p.URIs, requested(protocol, p.Request))
					if err != nil {
						t.Fatal(err)
					}
					if want := p.Wants(protocol.L7()); got != (want == intention.Allow) {
						t.Errorf("%s: rules allow %s = %v by %s, want %s", protocol, p, got, by, want)
					}
					handshake, err := rbactest.HandshakeAllows(names(t, r, secret), p.URIs)
					if err != nil {
						t.Fatal(err)
					}
					if got && !handshake {
						t.Errorf("%s: the handshake denies %s, whom the rules allow", protocol, p)
					}
				}
			}
		})
	}
}

// requested is a request as rules have it; nil where there are none.
func requested(protocol catalog.Protocol, r *decisiontable.Request) *rbactest.Request {
	switch {
	case !protocol.L7():
		return nil
	case r == nil:
		return &rbactest.Request{Method: "GET", Path: "/"}
	}
	return &rbactest.Request{Method: r.Method, Path: r.Path, Headers: r.Headers}
}

// FuzzDecideEqualsInterpreter makes random policies and peers: the rules have to say what Decide
// says, and the handshake may say less only where it cannot know better.
func FuzzDecideEqualsInterpreter(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, seed%3 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, l7 bool) {
		r := rand.New(rand.NewPCG(seed, 1))
		policy := randomPolicy(r)
		in := input(policy, catalog.Inbound{})
		if l7 {
			in.Proxy.Inbound.Protocol = catalog.HTTP
		}
		in.Envoy.RegexSize = []int{0, 100, 200, 1000, 10000}[r.IntN(5)]
		built := build(t, in)
		m := rules(t, in, built)
		for range 60 {
			uris := randomPeer(r)
			want := false
			if len(uris) == 1 {
				id, err := identity.ParseURI(uris[0])
				want = err == nil && policy.Decide(id).Allowed()
			}
			got, err := rbactest.Allowed(m, uris)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Fatalf("seed %d: rules allow %q = %v, Decide says %v; scope %+v", seed, uris, got, want, policy.Scope())
			}
			if l7 {
				continue
			}
			peers := names(t, built, "peers/web")
			handshake, err := rbactest.HandshakeAllows(peers, uris)
			if err != nil {
				t.Fatal(err)
			}
			exact := len(built.Warnings) == 0 && peers[0].GetMatcher().GetPrefix() == ""
			switch {
			case want && !handshake:
				t.Fatalf("seed %d: the handshake denies %q, whom Decide allows", seed, uris)
			case len(uris) == 1 && exact && handshake != want:
				t.Fatalf("seed %d: the handshake allows %q = %v, Decide says %v", seed, uris, handshake, want)
			}
		}
	})
}

// FuzzPermissions makes random permissions and requests: the rules have to say what Decide says.
func FuzzPermissions(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		c := decisiontable.Random(seed, identity.NewName("web"), spiffeid.RequireTrustDomainFromString(trustDomain), 60)
		in := input(c.Policy(), catalog.Inbound{Protocol: catalog.HTTP})
		m := rules(t, in, build(t, in))
		for _, p := range c.Peers {
			got, by, err := rbactest.Decided(m, p.URIs, requested(catalog.HTTP, p.Request))
			if err != nil {
				t.Fatal(err)
			}
			if got != (p.Want == intention.Allow) {
				t.Fatalf("seed %d: rules allow %s = %v by %s, Decide says %s", seed, p, got, by, p.Want)
			}
		}
	})
}

// TestPermissionsAreLinear: 200 permissions, allowing and denying in turns, take no more than 64 KB.
func TestPermissionsAreLinear(t *testing.T) {
	size := func(n int, of func(*intention.Permission, string)) int {
		list := make([]intention.Permission, n)
		for i := range list {
			list[i].Action = intention.Action(i % 2)
			of(&list[i], fmt.Sprintf("/some/path/of/number/%d", i))
		}
		p, err := intention.NewPermissions(list)
		if err != nil {
			t.Fatal(err)
		}
		i := from("web", intention.Deny)
		i.Permissions = p
		in := input(compile("api", intention.Deny, i), catalog.Inbound{Protocol: catalog.HTTP})
		m := rules(t, in, build(t, in))
		for id, on := range m.GetMatcherTree().GetExactMatchMap().GetMap() { // of one of the datacenters
			return proto.Size(on) + len(id)
		}
		t.Fatal("no source")
		return 0
	}
	for name, of := range map[string]func(*intention.Permission, string){
		"exact":   func(p *intention.Permission, path string) { p.PathExact = path },
		"prefix":  func(p *intention.Permission, path string) { p.PathPrefix = path },
		"regex":   func(p *intention.Permission, path string) { p.PathRegex = path + "/[^/]*" },
		"methods": func(p *intention.Permission, _ string) { p.Methods = []string{"GET"} },
		"header": func(p *intention.Permission, path string) {
			p.Headers = []intention.HeaderMatch{{Name: "x-path", Exact: path}}
		},
	} {
		few, many := size(20, of), size(200, of)
		t.Logf("%s: 20 have %d bytes, 200 have %d", name, few, many)
		if many > 64<<10 || many > 11*few {
			t.Errorf("%s: 20 permissions have %d bytes, and 200 have %d", name, few, many)
		}
	}
}

// The names are few and alike, so that peers are often those of an intention, or nearly.
var fuzzNames = []string{"web", "we", "webb", "w.b", "b", "bad", "BAD", "a-b_c.d", ".", "..", "...", "*", "a b", "", "x"}

func randomPolicy(r *rand.Rand) *intention.Policy {
	scope := intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Default: intention.Action(r.IntN(2))}
	for _, dc := range []string{"dc1", "dc2", "d.1", "not a datacenter"} {
		if r.IntN(2) == 0 {
			scope.Datacenters = append(scope.Datacenters, dc)
		}
	}
	if r.IntN(20) == 0 {
		scope.TrustDomain = spiffeid.TrustDomain{}
	}
	var all []intention.Intention
	for range r.IntN(8) {
		i := intention.Intention{
			Source:      intention.Source{Name: identity.NewName(fuzzNames[r.IntN(len(fuzzNames))])},
			Destination: identity.NewName([]string{"web", "*", "other"}[r.IntN(3)]),
			Action:      intention.Action(r.IntN(2)),
		}
		switch r.IntN(12) {
		case 0:
			i.Source.Peer = "cloud"
		case 1:
			i.Source.Namespace = "team"
		case 2:
			i.Unsupported = "permissions"
		}
		all = append(all, i)
	}
	if r.IntN(10) == 0 {
		for n := range 250 {
			all = append(all, intention.Intention{
				Source:      intention.Source{Name: identity.NewName(fmt.Sprintf("team%02d-service-%02d", n%7, n))},
				Destination: identity.NewName("web"), Action: intention.Deny,
			})
		}
	}
	policy := catalogtest.Policy(identity.NewName("web"), all, scope)
	if r.IntN(2) == 0 {
		policy = policy.Revoking(randomRevoked(r))
	}
	return policy
}

// randomRevoked revokes some identities, and certificates of some, or of nobody knows whom.
func randomRevoked(r *rand.Rand) *intention.Revoked {
	var all []intention.Revocation
	for range r.IntN(5) {
		v := intention.Revocation{ID: identity.Service{
			TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: []string{"dc1", "dc2", "d.1"}[r.IntN(3)], Name: identity.NewName(fuzzNames[r.IntN(len(fuzzNames))]),
		}.String()}
		if r.IntN(3) == 0 {
			v.SHA256 = strings.Repeat([]string{"a", "b", "c"}[r.IntN(3)], 64)
			if r.IntN(3) == 0 {
				v.ID = ""
			}
		}
		if v.ID != "" || v.SHA256 != "" {
			all = append(all, v)
		}
	}
	return intention.Revoke(all)
}

func randomPeer(r *rand.Rand) []string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	one := func() string {
		td := pick(trustDomain, trustDomain, trustDomain, trustDomain, "example.org", "11111111-2222-3333-4444-555555555555xconsul")
		dc := pick("dc1", "dc1", "dc2", "d.1", "dx1", "dc3")
		name := pick(append(slices.Clone(fuzzNames), "team03-service-10", "team03-service-1", "web,spiffe://"+trustDomain+"/ns/default/dc/dc1/svc/b", "a/b", "web/", "é")...)
		switch r.IntN(12) {
		case 0:
			return "spiffe://" + td + "/agent/client/dc/" + dc + "/id/" + name
		case 1:
			return "spiffe://" + td + "/ns/team/dc/" + dc + "/svc/" + name
		case 2:
			return "spiffe://" + td + "/ap/default/ns/default/dc/" + dc + "/svc/" + name
		case 3:
			return pick("", "web", "https://example.org/", "SPIFFE://"+td+"/ns/default/dc/dc1/svc/web")
		}
		return "spiffe://" + td + "/ns/default/dc/" + dc + "/svc/" + name
	}
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		return []string{one(), one()}
	}
	return []string{one()}
}

// TestNobodyIsNeverEverybody: whatever denies everybody says so, in both places and in both
// protocols; what is left out would allow.
func TestNobodyIsNeverEverybody(t *testing.T) {
	noTrustDomain := catalogtest.Policy(identity.NewName("web"), []intention.Intention{{
		Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("web"), Action: intention.Allow,
	}}, intention.Scope{Datacenters: []string{"dc1"}, Default: intention.Allow})
	policies := map[string]*intention.Policy{
		"default deny":    compile("web", intention.Deny),
		"deny all":        compile("web", intention.Allow, from("*", intention.Deny)),
		"deny by name":    compile("web", intention.Deny, from("api", intention.Deny)),
		"no policy":       nil,
		"impossible":      compile("web", intention.Deny, from("a b", intention.Allow)),
		"no datacenter":   catalogtest.Policy(identity.NewName("web"), nil, intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Default: intention.Allow}),
		"no trustdomain":  noTrustDomain,
		"nobody recorded": compile("web", intention.Allow, from("api", intention.Allow)).Within(intention.Set{}),
		"recorded for another datacenter": compile("web", intention.Allow, from("api", intention.Allow)).Within(intention.Set{
			Base: &intention.Base{TrustDomain: trustDomain, Datacenters: []string{"dc2"}, Rest: true},
		}),
		"recorded for another trust domain": compile("web", intention.Allow, from("api", intention.Allow)).Within(intention.Set{
			Base: &intention.Base{TrustDomain: "other.consul", Datacenters: []string{"dc1"}, Rest: true},
		}),
	}
	uris := [][]string{nil, {""}, {"spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/api"}, {"spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/a b"}}
	for name, policy := range policies {
		for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
			in := input(compile("web", intention.Deny), catalog.Inbound{Protocol: protocol})
			in.Policy = policy
			r := build(t, in)
			for _, u := range uris {
				got, err := rbactest.Allowed(rules(t, in, r), u)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got {
					t.Errorf("%s, %s: the rules allow %q", name, protocol, u)
				}
				if protocol.L7() {
					continue
				}
				got, err = rbactest.HandshakeAllows(names(t, r, "peers/web"), u)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got {
					t.Errorf("%s: the handshake allows %q", name, u)
				}
			}
		}
	}
}
