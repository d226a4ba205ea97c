package snapshot_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/snapshot"
)

// same compares what two builds made, byte by byte.
func same(t *testing.T, what string, in snapshot.Input, got *snapshot.Resources, gotErr error) {
	t.Helper()
	want, wantErr := snapshot.Build(in)
	if (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
		t.Fatalf("%s: error %v, want %v", what, gotErr, wantErr)
	}
	if wantErr != nil {
		return
	}
	if diff := cmp.Diff(versions(want), versions(got)); diff != "" {
		t.Fatalf("%s: a Cache builds something else (-Build +Cache):\n%s", what, diff)
	}
	if diff := cmp.Diff(want.Warnings, got.Warnings); diff != "" {
		t.Fatalf("%s: a Cache warns of something else (-Build +Cache):\n%s", what, diff)
	}
	for i, s := range want.Secrets {
		if o := got.Secrets[i]; o.Name != s.Name || o.Leaf != s.Leaf || !slices.EqualFunc(o.Peers, s.Peers, bytes.Equal) {
			t.Fatalf("%s: the secret %s is %v, want %v", what, s.Name, o, s)
		}
	}
}

// TestCacheBuildsTheGoldens: after any other case, and after the same one.
func TestCacheBuildsTheGoldens(t *testing.T) {
	var c snapshot.Cache
	var last *snapshot.Resources
	for range 2 {
		for _, k := range cases(t) {
			for range 2 {
				r, err := c.Build(k.in, last)
				same(t, k.golden, k.in, r, err)
				if !bytes.Equal(text(t, r), text(t, k.resources)) {
					t.Fatalf("%s: a Cache builds something else", k.golden)
				}
				last = r
			}
		}
	}
}

// vary returns an input that differs from in by one thing that can change while a proxy runs.
func vary(r *rand.Rand, in snapshot.Input) (snapshot.Input, string) {
	clone := func(p *catalog.Proxy) *catalog.Proxy {
		q := *p
		q.Upstreams = slices.Clone(p.Upstreams)
		return &q
	}
	endpoint := func() catalog.Endpoint {
		address := []string{"10.0.0.1", "10.0.0.2", "::1", "db.internal"}[r.IntN(4)]
		return catalog.Endpoint{Address: address, Port: uint16(20000 + r.IntN(3)), Weight: 1, Healthy: r.IntN(2) == 0}
	}
	in = own(in)
	alike := func(s, o *catalog.Service) bool { return s.Name == o.Name && s.Datacenter == o.Datacenter }
	// dialled is what another upstream has of u's target, or one of which only the name is known.
	dialled := func(u catalog.Upstream) catalog.Target {
		x := target(u.Destination.Service, catalog.TCP)
		if u.Datacenter != in.Mesh.Datacenter {
			x.Service.Datacenter, x.Endpoints.Datacenter = u.Datacenter, u.Datacenter
		}
		for _, o := range in.Upstreams { // one target is one pointer, as in a View
			if alike(o.Service, x.Service) {
				return o
			}
		}
		return x
	}
	switch what := r.IntN(16); what {
	case 13:
		return varyChain(r, in), "chain"
	case 14, 15:
		return varyLevel(r, in, endpoint()), "endpoints of a chain's target"
	case 12:
		in.Policy = in.Policy.Revoking(randomRevoked(r))
		return in, "what is revoked"
	case 0:
		p := clone(in.Proxy)
		p.Inbound.Protocol = []catalog.Protocol{catalog.TCP, catalog.HTTP, catalog.GRPC}[r.IntN(3)]
		p.Inbound.Enforcement = []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both}[r.IntN(3)]
		in.Proxy = p
		return in, "inbound"
	case 1:
		in.Generation, in.Ended = uint64(r.IntN(3)), uint64(r.IntN(2))
		return in, "generation"
	case 2:
		in.Envoy = []snapshot.Features{{}, {ConnectMode: true, RegexSize: 4096}, {ConnectMode: true, DrainClose: true, RegexSize: 100, ExclusivePorts: true}}[r.IntN(3)]
		return in, "envoy"
	case 3:
		m := *in.Mesh
		m.Outgoing.Allow12, m.Incoming.Allow12 = r.IntN(2) == 0, r.IntN(2) == 0
		m.DropForwardedClientCert = r.IntN(2) == 0
		in.Mesh = &m
		return in, "mesh"
	case 4, 5:
		if r.IntN(2) == 0 { // what is not recorded on disk yet waits
			in.Policy = in.Policy.Within(intention.Set{Base: &intention.Base{
				TrustDomain: []string{trustDomain, trustDomain, "other.consul"}[r.IntN(3)],
				Datacenters: [][]string{{"dc1"}, {"dc1", "dc2"}, {"dc9"}}[r.IntN(3)],
				Rest:        r.IntN(2) == 0, Except: []string{"api"},
			}})
			return in, "what is recorded"
		}
		var all []intention.Intention
		own := r.IntN(2) == 0 // else all is said of all destinations, which policies share
		for i := range r.IntN(4) {
			n := from([]string{"*", "api", "db", "cache"}[i], intention.Action(r.IntN(2)))
			if !own {
				n.Destination = identity.NewName("*")
			}
			all = append(all, n)
		}
		in.Policy = compile("web", intention.Action(r.IntN(2)), all...).Revoking(randomRevoked(r))
		return in, "policy"
	case 6:
		p := clone(in.Proxy)
		if n := len(p.Upstreams); n > 0 {
			p.Upstreams[r.IntN(n)].ConnectTimeout++
			p.Upstreams[r.IntN(n)].Protocol = catalog.OptionalProtocol{Set: r.IntN(2) > 0, Protocol: catalog.Protocol(r.IntN(4))}
		}
		in.Proxy = p
		return in, "settings of an upstream"
	case 7:
		p := clone(in.Proxy)
		name := identity.NewName(fmt.Sprintf("service-%d", r.IntN(4)))
		p.Upstreams = append(p.Upstreams, catalog.Upstream{Destination: name, BindPort: uint16(9000 + r.IntN(20))}) // now and then one that is taken
		in.Proxy = p
		in.Upstreams = append(in.Upstreams, dialled(p.Upstreams[len(p.Upstreams)-1]))
		return in, "another upstream"
	case 8:
		p := clone(in.Proxy)
		if n := len(p.Upstreams); n > 0 {
			i := r.IntN(n)
			p.Upstreams[i].Datacenter = []string{"", "dc1", "dc2"}[r.IntN(3)]
			in.Upstreams[i] = dialled(p.Upstreams[i])
		}
		in.Proxy = p
		return in, "datacenter of an upstream"
	default:
		if len(in.Upstreams) == 0 {
			return in, "nothing"
		}
		old := in.Upstreams[r.IntN(len(in.Upstreams))]
		x := old
		if r.IntN(4) == 0 {
			s := *old.Service
			s.Protocol = []catalog.Protocol{catalog.TCP, catalog.HTTP, catalog.HTTP2}[r.IntN(3)]
			x.Service = &s
		}
		if r.IntN(4) > 0 {
			e := *old.Endpoints
			e.List = append(slices.Clone(e.List[:min(len(e.List), 2)]), endpoint())
			x.Endpoints = &e
		}
		for i, o := range in.Upstreams {
			if alike(o.Service, old.Service) {
				in.Upstreams[i] = x
			}
		}
		return in, "target"
	}
}

// TestCacheIsBuild: whatever was built before, a Cache makes what Build makes of the same input.
func TestCacheIsBuild(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		var c snapshot.Cache
		var last *snapshot.Resources
		in := input(compile("web", intention.Deny), catalog.Inbound{},
			target("service-0", catalog.TCP), target("service-1", catalog.HTTP))
		for n := range 60 {
			next, what := vary(r, in)
			got, err := c.Build(next, last)
			same(t, fmt.Sprintf("seed %d, change %d: %s", seed, n, what), next, got, err)
			if err == nil { // as a publisher does: what failed is not kept
				in, last = next, got
			}
		}
	}
}

// TestCacheShares: what did not change is not made again, and proxies share what is the same for
// all of them.
func TestCacheShares(t *testing.T) {
	api, db := target("api", catalog.TCP, at("10.0.0.1")), target("db", catalog.TCP)
	in := input(compile("web", intention.Deny), catalog.Inbound{}, api, db)
	var c snapshot.Cache
	first, err := c.Build(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	moved := api
	moved.Endpoints = target("api", catalog.TCP, at("10.0.0.2")).Endpoints
	in = own(in)
	in.Upstreams = []catalog.Target{moved, db}
	second, err := c.Build(in, first)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for url, of := range second.ByType {
		for _, r := range of {
			if first.ByType[url].Get(r.GetName()) != r {
				made++
			}
		}
	}
	if made != 1 {
		t.Errorf("%d resources were made for one that changed", made)
	}
	other := input(compile("shop", intention.Deny), catalog.Inbound{}, moved)
	third, err := c.Build(other, nil)
	if err != nil {
		t.Fatal(err)
	}
	const sni = "api.default.dc1.internal." + trustDomain
	if third.ByType[endpoints].Get(sni) == nil || third.ByType[endpoints].Get(sni) != second.ByType[endpoints].Get(sni) {
		t.Error("two proxies that dial a service have endpoints of their own")
	}
	instance, err := c.Build(own(in), nil)
	if err != nil {
		t.Fatal(err)
	}
	for url, of := range second.ByType {
		if !slices.Equal(instance.ByType[url], of) {
			t.Errorf("two instances of a service have %s of their own", url)
		}
	}
	runtime.KeepAlive(first)
}

// TestCacheConcurrently is for the race detector.
func TestCacheConcurrently(t *testing.T) {
	var c snapshot.Cache
	api := target("api", catalog.HTTP)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			in := input(compile(fmt.Sprintf("web-%d", i), intention.Deny, from("*", intention.Allow)), catalog.Inbound{Protocol: catalog.Protocol(i % 4)}, api)
			var last *snapshot.Resources
			for range 5 {
				in.Generation++
				r, err := c.Build(in, last)
				if err != nil {
					t.Error(err)
				}
				last = r
			}
		})
	}
	all.Wait()
}
