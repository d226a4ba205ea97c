package intention_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"pgregory.net/rapid"
)

// TestSpellings demands that letter case does not count in a destination, and that of entries whose
// names differ by it alone a policy allows what each of them, alone, would allow.
func TestSpellings(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawIntention), 0, 10).Draw(t, "intentions")
		var spellings []string
		for i := range all {
			if d := &all[i].Destination; d.Service == "x" {
				d.Service = rapid.SampledFrom([]string{"x", "X"}).Draw(t, "spelling")
				if d.Namespace == identity.Default && d.Partition == identity.Default && !slices.Contains(spellings, d.Service) {
					spellings = append(spellings, d.Service)
				}
			}
		}
		scope := drawScope(t)
		for _, destination := range []string{"x", "X"} {
			p := intention.Compile(identity.NewName(destination), all, scope)
			if p.Destination().Service != destination {
				t.Fatalf("Destination() = %s, want %s", p.Destination(), destination)
			}
			set, exact := p.Allowed(), maps.Collect(p.Exact())
			for _, src := range sources {
				want := reference(identity.NewName("nothing-of-its-own"), all, scope, src)
				for n, s := range spellings {
					if alone := reference(identity.NewName(s), all, scope, src); n == 0 || alone == intention.Deny {
						want = alone
					}
				}
				d := p.Decide(src)
				if d.Action != want {
					t.Fatalf("Decide(%s → %s) = %s by %v, want %s", src, destination, d.Action, d.Intention, want)
				}
				if d.Reason == intention.ByIntention && d.Intention.Action != intention.Allow != (d.Action == intention.Deny) && d.Intention.Unsupported == "" {
					t.Fatalf("Decide(%s → %s) = %s by %v", src, destination, d.Action, d.Intention)
				}
				if in := member(set, place{src.TrustDomain.Name(), src.Datacenter, src.Service}); src.Namespace == identity.Default && src.Partition == identity.Default && in != d.Allowed() {
					t.Fatalf("%s is in Allowed(): %t, Decide allows: %t", src, in, d.Allowed())
				}
				action, ok := exact[src.Name]
				if !ok {
					action = p.Rest()
				}
				if d.Reason == intention.ByIntention && action != d.Action {
					t.Fatalf("%s by Exact and Rest: %s, Decide: %s", src, action, d.Action)
				}
			}
		}
	})
}
