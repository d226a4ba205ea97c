package intention_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/intention"
)

// member says by the definition of Set whether a service is in it.
func member(s intention.Set, p place) bool {
	if s.Base == nil || s.TrustDomain == "" || s.TrustDomain != p.trustDomain || !slices.Contains(s.Datacenters, p.dc) {
		return false
	}
	foreign := strings.HasPrefix(p.name, "spiffe://")
	return slices.Contains(s.In, p.name) || !foreign && !slices.Contains(s.Out, p.name) && slices.Contains(s.Except, p.name) != s.Rest
}

// foreignID is a workload of another trust domain, which is in the sets that name it alone.
const foreignID = "spiffe://td-b.example/ns/prod/sa/x"

// place is where a service may be, and its name.
type place struct{ trustDomain, dc, name string }

// world is all there is to be in a Set. Nobody says "unheard-of": it stands for all the names that
// nobody says.
func world(yield func(place) bool) {
	for _, td := range []string{"one", "two", "three"} {
		for _, dc := range []string{"dc1", "dc2", "dc3"} {
			for _, name := range []string{"a", "b", "c", "unheard-of", foreignID} {
				if !yield(place{td, dc, name}) {
					return
				}
			}
		}
	}
}

// sets are all Sets that can be made of that world with one base, or with names of their own on top
// of it.
func sets() []intention.Set {
	out := []intention.Set{{}}
	for _, td := range []string{"one", "two", ""} {
		for _, dcs := range subsets("dc1", "dc2") {
			for _, rest := range []bool{false, true} {
				for _, except := range subsets("a", "b", "c") {
					base := &intention.Base{TrustDomain: td, Datacenters: dcs, Rest: rest, Except: except}
					out = append(out, intention.Set{Base: base})
					if len(except) < 2 && td != "two" { // enough of all the combinations
						out = append(out,
							intention.Set{Base: base, In: []string{"a"}}, intention.Set{Base: base, Out: []string{"a", "b"}},
							intention.Set{Base: base, In: []string{"c"}, Out: []string{"a"}},
							intention.Set{Base: base, In: []string{"c", foreignID}}, intention.Set{Base: base, In: []string{foreignID}, Out: []string{"c"}})
					}
				}
			}
		}
	}
	return out
}

func subsets(of ...string) [][]string {
	out := [][]string{nil}
	for _, s := range of {
		for _, o := range out {
			out = append(out, append(slices.Clone(o), s))
		}
	}
	return out
}

func TestEmpty(t *testing.T) {
	for _, s := range sets() {
		empty := true
		for p := range world {
			empty = empty && !member(s, p)
		}
		if s.Empty() != empty {
			t.Errorf("%+v is empty: %t, Empty() = %t", s, empty, s.Empty())
		}
	}
}

func TestWithin(t *testing.T) {
	for _, s := range sets() {
		for _, o := range sets() {
			within := true
			for p := range world {
				within = within && (!member(s, p) || member(o, p))
			}
			if s.Within(o) != within {
				t.Fatalf("%+v is within %+v: %t, Within = %t", s, o, within, s.Within(o))
			}
		}
	}
}

func TestUnion(t *testing.T) {
	for _, s := range sets() {
		for _, o := range sets() {
			union(t, s, o)
		}
	}
}

func union(t *testing.T, s, o intention.Set) {
	t.Helper()
	u := s.Union(o)
	if u.Base != nil && (!slices.IsSorted(u.Except) || !slices.IsSorted(u.Datacenters) || !slices.IsSorted(u.In) || !slices.IsSorted(u.Out)) {
		t.Fatalf("the union %+v is not sorted", u)
	}
	both := !s.Empty() && !o.Empty()
	for p := range world {
		want := member(s, p) || member(o, p)
		switch {
		case both && s.TrustDomain != o.TrustDomain:
			want = member(o, p)
		case both:
			// The smallest Set with all of both: each name that either has, in each datacenter that
			// either has.
			named := member(s, place{p.trustDomain, s.Datacenters[0], p.name}) || member(o, place{p.trustDomain, o.Datacenters[0], p.name})
			want = named && (slices.Contains(s.Datacenters, p.dc) || slices.Contains(o.Datacenters, p.dc))
		}
		if got := member(u, p); got != want {
			t.Fatalf("%+v in %+v ∪ %+v = %+v: %t, want %t", p, s, o, u, got, want)
		}
	}
	if (!both || s.TrustDomain == o.TrustDomain) && !s.Within(u) || !o.Within(u) {
		t.Fatalf("%+v or %+v is not within their union %+v", s, o, u)
	}
}

func TestIntersection(t *testing.T) {
	for _, s := range sets() {
		for _, o := range sets() {
			if !s.Empty() && !o.Empty() && (s.TrustDomain != o.TrustDomain || !slices.Equal(s.Datacenters, o.Datacenters)) {
				continue
			}
			both := s.Intersection(o)
			for p := range world {
				if want := member(s, p) && member(o, p); member(both, p) != want {
					t.Fatalf("%+v in %+v ∩ %+v = %+v: %t, want %t", p, s, o, both, !want, want)
				}
			}
		}
	}
}

// TestUnionSharesBases demands that sets that share a base still share one when the same was added
// to all of them.
func TestUnionSharesBases(t *testing.T) {
	one := &intention.Base{TrustDomain: "one", Datacenters: []string{"dc1"}, Except: []string{"a"}}
	two := &intention.Base{TrustDomain: "one", Datacenters: []string{"dc1"}, Except: []string{"b"}}
	x := intention.Set{Base: one, In: []string{"x"}}.Union(intention.Set{Base: two})
	y := intention.Set{Base: one}.Union(intention.Set{Base: two, In: []string{"y"}})
	if x.Base != y.Base {
		t.Error("two unions of the same bases do not share theirs")
	}
	if z := x.Union(intention.Set{Base: two}); z.Base != x.Base {
		t.Error("a union that adds nothing has another base")
	}
}
