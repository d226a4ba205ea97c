package intention_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

var (
	ours   = spiffeid.RequireTrustDomainFromString("ours.consul")
	theirs = spiffeid.RequireTrustDomainFromString("theirs.consul")
)

func source(service string) intention.Source {
	return intention.Source{Name: identity.NewName(service)}
}

func workload(service string) identity.Service {
	return identity.Service{TrustDomain: ours, Datacenter: "dc1", Name: identity.NewName(service)}
}

// reference is Consul's definition, word for word and slow: of the intentions that match, the one
// with the highest precedence decides; of several, a denying one; if none matches, the default.
func reference(destination identity.Name, all []intention.Intention, s intention.Scope, src identity.Service) intention.Action {
	if src.TrustDomain != s.TrustDomain || !slices.Contains(s.Datacenters, src.Datacenter) {
		return intention.Deny
	}
	if src.Partition != destination.Partition || src.Namespace != destination.Namespace {
		return intention.Deny
	}
	matches := func(pattern, name identity.Name) bool {
		return pattern.Partition == name.Partition && pattern.Namespace == name.Namespace && (pattern.Service == "*" || pattern.Service == name.Service)
	}
	precedence := func(i intention.Intention) int {
		switch exactSource, exactDestination := i.Source.Service != "*", i.Destination.Service != "*"; {
		case exactSource && exactDestination:
			return 9
		case exactDestination:
			return 8
		case exactSource:
			return 6
		}
		return 5
	}
	best, action := 0, s.Default
	for _, i := range all {
		if i.Source.Peer != "" || !matches(i.Source.Name, src.Name) || !matches(i.Destination, destination) {
			continue
		}
		says := i.Action
		if i.Unsupported != "" {
			says = intention.Deny
		}
		switch p := precedence(i); {
		case p > best:
			best, action = p, says
		case p == best:
			action = min(action, says)
		}
	}
	return action
}

func drawName(t *rapid.T, label string, services ...string) identity.Name {
	n := identity.NewName(rapid.SampledFrom(services).Draw(t, label))
	switch rapid.IntRange(0, 19).Draw(t, label+" space") {
	case 0:
		n.Namespace = "team"
	case 1:
		n.Partition = "part"
	}
	return n
}

func drawIntention(t *rapid.T) intention.Intention {
	return intention.Intention{
		Source: intention.Source{
			Name: drawName(t, "source", "a", "b", "c", "a.b", "*", "*"),
			Peer: rapid.SampledFrom([]string{"", "", "", "", "peer"}).Draw(t, "peer"),
		},
		Destination: drawName(t, "destination", "x", "x", "x", "*", "*", "y"),
		Action:      rapid.SampledFrom([]intention.Action{intention.Deny, intention.Allow}).Draw(t, "action"),
		Unsupported: rapid.SampledFrom([]string{"", "", "", "", "permissions"}).Draw(t, "unsupported"),
		Origin:      rapid.SampledFrom([]string{"", "x.hcl:1", "x.hcl:2"}).Draw(t, "origin"),
	}
}

func drawScope(t *rapid.T) intention.Scope {
	return intention.Scope{
		TrustDomain: ours,
		Datacenters: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"dc1", "dc2", "dc3"}), 0, 3, rapid.ID).Draw(t, "datacenters"),
		Default:     rapid.SampledFrom([]intention.Action{intention.Deny, intention.Allow}).Draw(t, "default"),
	}
}

// everybody are the sources among whom the properties are looked for: each name, of each place.
func everybody() []identity.Service {
	var out []identity.Service
	for _, td := range []spiffeid.TrustDomain{ours, theirs} {
		for _, dc := range []string{"dc1", "dc2", "dc3", "dc4"} {
			for _, name := range []string{"a", "b", "c", "a.b", "x", "unheard-of"} {
				for _, space := range [][2]string{{"default", "default"}, {"default", "team"}, {"part", "default"}} {
					out = append(out, identity.Service{TrustDomain: td, Datacenter: dc, Name: identity.Name{Partition: space[0], Namespace: space[1], Service: name}})
				}
			}
		}
	}
	return out
}

func TestDecideIsReference(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		destination := drawName(t, "the destination", "x", "y")
		all := rapid.SliceOfN(rapid.Custom(drawIntention), 0, 8).Draw(t, "intentions")
		s := drawScope(t)
		p := intention.Compile(destination, all, s)
		for _, src := range sources {
			d := p.Decide(src)
			if want := reference(destination, all, s, src); d.Action != want {
				t.Fatalf("Decide(%s → %s) = %s by %v, want %s", src, destination, d.Action, d.Intention, want)
			}
			if (d.Intention != nil) != (d.Reason == intention.ByIntention) || d.Allowed() && d.Reason != intention.ByIntention && d.Reason != intention.ByDefault {
				t.Fatalf("Decide(%s → %s) = %+v", src, destination, d)
			}
		}
	})
}

// TestOrderDoesNotMatter compares policies of one set of intentions in two orders in all that they
// say.
func TestOrderDoesNotMatter(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawIntention), 0, 8).Draw(t, "intentions")
		other := rapid.Permutation(all).Draw(t, "another order")
		s := drawScope(t)
		o := s
		o.Datacenters = rapid.Permutation(s.Datacenters).Draw(t, "datacenters in another order")
		given := slices.Clone(other)
		p, q := intention.Compile(identity.NewName("x"), all, s), intention.Compile(identity.NewName("x"), other, o)
		if diff := cmp.Diff(given, other); diff != "" {
			t.Fatalf("Compile changed what it was given:\n%s", diff)
		}
		if diff := cmp.Diff(maps.Collect(p.Exact()), maps.Collect(q.Exact())); diff != "" || p.Rest() != q.Rest() {
			t.Fatalf("the rules depend on the order:\n%s", diff)
		}
		if diff := cmp.Diff(p.Allowed(), q.Allowed(), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(intention.Base{})); diff != "" {
			t.Fatalf("Allowed depends on the order:\n%s", diff)
		}
		for _, src := range sources {
			if diff := cmp.Diff(p.Decide(src), q.Decide(src)); diff != "" {
				t.Fatalf("Decide(%s) depends on the order:\n%s", src, diff)
			}
		}
	})
}

// TestAllowedIsDecide demands that the set of the allowed, and the two parts that RBAC is made of,
// say what Decide says.
func TestAllowedIsDecide(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		p := intention.Compile(identity.NewName("x"), rapid.SliceOfN(rapid.Custom(drawIntention), 0, 8).Draw(t, "intentions"), drawScope(t))
		set := p.Allowed()
		exact := map[identity.Name]intention.Action{}
		var order []string
		for name, action := range p.Exact() {
			exact[name] = action
			order = append(order, name.Service)
		}
		if !slices.IsSorted(order) || set.Base != nil && !slices.IsSorted(set.Except) || !slices.IsSorted(set.In) || !slices.IsSorted(set.Out) {
			t.Fatalf("not sorted: %v %v", order, set)
		}
		for _, src := range sources {
			got := p.Decide(src).Allowed()
			if src.Partition != identity.Default || src.Namespace != identity.Default {
				if got {
					t.Fatalf("Decide(%s) allows", src)
				}
				continue
			}
			if in := member(set, place{src.TrustDomain.Name(), src.Datacenter, src.Service}); in != got {
				t.Fatalf("%s is in Allowed(): %t, Decide allows: %t", src, in, got)
			}
			action, ok := exact[src.Name]
			if !ok {
				action = p.Rest()
			}
			known := src.TrustDomain == ours && slices.Contains(p.Scope().Datacenters, src.Datacenter)
			if (known && action == intention.Allow) != got {
				t.Fatalf("%s by Exact and Rest: %s, Decide allows: %t", src, action, got)
			}
		}
	})
}

// TestWithinBounds holds a policy that is bound to the set of another one to both, in all that it
// says.
func TestWithinBounds(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		scope := drawScope(t)
		policy := func(label string) *intention.Policy {
			return intention.Compile(identity.NewName("x"), rapid.SliceOfN(rapid.Custom(drawIntention), 0, 8).Draw(t, label), scope)
		}
		p, bound := policy("intentions"), policy("recorded").Allowed()
		q := p.Within(bound)
		exact := maps.Collect(q.Exact())
		for _, src := range sources {
			want := p.Decide(src).Allowed() && member(bound, place{src.TrustDomain.Name(), src.Datacenter, src.Service})
			if got := q.Decide(src); got.Allowed() != want {
				t.Fatalf("Decide(%s) = %+v, want allowed: %t", src, got, want)
			}
			if src.Partition != identity.Default || src.Namespace != identity.Default || src.TrustDomain != ours || !slices.Contains(scope.Datacenters, src.Datacenter) {
				continue
			}
			action, ok := exact[src.Name]
			if !ok {
				action = q.Rest()
			}
			if (action == intention.Allow) != want {
				t.Fatalf("%s by Exact and Rest: %s, want allowed: %t", src, action, want)
			}
		}
	})
}

// TestSharedRules demands that policies about which nothing of their own is said have the same
// rules, and others their own.
func TestSharedRules(t *testing.T) {
	shared := intention.Share(identity.NewName("x"), []intention.Intention{{Source: source("web"), Destination: identity.NewName("*"), Action: intention.Allow}},
		intention.Scope{TrustDomain: ours, Datacenters: []string{"dc1"}})
	own := []intention.Intention{{Source: source("batch"), Destination: identity.NewName("z"), Action: intention.Allow}}
	x, y, z := shared.Policy(identity.NewName("x"), own), shared.Policy(identity.NewName("y"), own), shared.Policy(identity.NewName("z"), own)
	bare := func(p *intention.Policy) bool {
		s, bare := p.Shared()
		return s == shared && bare
	}
	if !bare(x) || !bare(y) || bare(z) || bare(x.Within(intention.Set{})) {
		t.Error("Shared tells policies apart that are the same, or takes different ones for the same")
	}
	if x.Allowed().Base != y.Allowed().Base || x.Allowed().Base != z.Allowed().Base {
		t.Error("the sets of one namespace do not share their base")
	}
	if s, bare := (*intention.Policy)(nil).Shared(); s != nil || bare {
		t.Error("the nil policy shares what it says")
	}
}

func TestZeroDenies(t *testing.T) {
	var none *intention.Policy
	if d := none.Decide(workload("web")); d.Allowed() || d.Reason != intention.NoPolicy {
		t.Errorf("the nil policy: %+v", d)
	}
	if s := none.Allowed(); !s.Empty() {
		t.Errorf("the nil policy allows %+v", s)
	}
	for name := range none.Exact() {
		t.Errorf("the nil policy has a rule for %s", name)
	}
	if none.Rest() != intention.Deny || !none.Scope().TrustDomain.IsZero() {
		t.Errorf("the nil policy says %v of everybody, in %+v", none.Rest(), none.Scope())
	}
	if (intention.Decision{}).Allowed() {
		t.Error("the zero Decision allows")
	}
	open := []intention.Intention{{Source: source("*"), Destination: identity.NewName("*"), Action: intention.Allow}}
	for name, s := range map[string]intention.Scope{
		"zero scope":      {},
		"no trust domain": {Datacenters: []string{"dc1"}, Default: intention.Allow},
		"no datacenters":  {TrustDomain: ours, Default: intention.Allow},
	} {
		p := intention.Compile(identity.NewName("api"), open, s)
		for _, src := range []identity.Service{{}, workload("web"), {Datacenter: "dc1", Name: identity.NewName("web")}} {
			if d := p.Decide(src); d.Allowed() {
				t.Errorf("%s: Decide(%#v) = %+v", name, src, d)
			}
		}
		if !p.Allowed().Empty() {
			t.Errorf("%s: Allowed() = %+v", name, p.Allowed())
		}
	}
	p := intention.Compile(identity.NewName("api"), open, intention.Scope{TrustDomain: ours, Datacenters: []string{"dc1"}, Default: intention.Allow})
	if !p.Decide(workload("web")).Allowed() {
		t.Error("what all of the above is measured by denies, too")
	}
	for _, src := range []identity.Service{{}, workload(""), workload("*"), {TrustDomain: ours, Datacenter: "dc1", Name: identity.Name{Service: "web"}}} {
		if d := p.Decide(src); d.Allowed() {
			t.Errorf("Decide(%#v) = %+v", src, d)
		}
	}
}

func TestPrecedence(t *testing.T) {
	for _, test := range []struct {
		source, destination string
		want                int
	}{{"web", "api", 9}, {"*", "api", 8}, {"web", "*", 6}, {"*", "*", 5}} {
		i := intention.Intention{Source: source(test.source), Destination: identity.NewName(test.destination)}
		if got := i.Precedence(); got != test.want {
			t.Errorf("Precedence of %s = %d, want %d", i, got, test.want)
		}
	}
}

func TestText(t *testing.T) {
	i := intention.Intention{Source: source("web"), Destination: identity.NewName("api"), Action: intention.Allow, Origin: "api.hcl:1"}
	if got := i.String(); got != "web => api (allow)" {
		t.Errorf("String() = %q", got)
	}
	i.Unsupported = "permissions"
	if got := i.String(); got != "web => api (deny)" {
		t.Errorf("String() of an unsupported intention = %q", got)
	}
	i.Source.Peer = "cluster-02"
	if got := i.String(); got != "web (peer cluster-02) => api (deny)" {
		t.Errorf("String() of a peer's = %q", got)
	}
	seen := map[string]bool{}
	for r := intention.NoPolicy; r <= intention.Unrecorded; r++ {
		if seen[r.String()] || r.String() == intention.Reason(255).String() {
			t.Errorf("reason %d is called %q", r, r)
		}
		seen[r.String()] = true
	}
}

func TestDecideAllocates(t *testing.T) {
	p := intention.Compile(identity.NewName("api"), many(100), intention.Scope{TrustDomain: ours, Datacenters: []string{"dc1", "dc2"}})
	for _, src := range []string{"s7", "unheard-of"} {
		id := workload(src)
		if n := testing.AllocsPerRun(100, func() { p.Decide(id) }); n > 0 {
			t.Errorf("Decide(%s) allocates %v times", src, n)
		}
	}
}

func many(n int) []intention.Intention {
	var all []intention.Intention
	for i := range n {
		all = append(all, intention.Intention{Source: source(fmt.Sprint("s", i)), Destination: identity.NewName("api"), Action: intention.Action(i % 2)})
	}
	return all
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			p := intention.Compile(identity.NewName("api"), many(n), intention.Scope{TrustDomain: ours, Datacenters: []string{"dc1", "dc2"}})
			sources := make([]identity.Service, 64)
			for i := range sources {
				sources[i] = workload(fmt.Sprint("s", i*n/len(sources)))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.Decide(sources[i%len(sources)])
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			all, s := many(n), intention.Scope{TrustDomain: ours, Datacenters: []string{"dc1"}}
			b.ReportAllocs()
			for b.Loop() {
				intention.Compile(identity.NewName("api"), all, s)
			}
		})
	}
}
