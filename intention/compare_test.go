package intention

import "testing"

// Ten thousand destinations have one base, and are each compared with the few that there were
// lately: each pair is compared once.
func TestComparedInTurns(t *testing.T) {
	var bases []*Base
	for range 4 {
		bases = append(bases, &Base{TrustDomain: "a", Datacenters: []string{"dc1"}, Except: []string{"x"}})
	}
	b := &Base{TrustDomain: "a", Datacenters: []string{"dc1"}, Except: []string{"x", "y"}}
	first := map[*Base]*comparison{}
	for range 3 {
		for _, o := range bases {
			c := b.compare(o)
			if first[o] == nil {
				first[o] = c
			}
			if c != first[o] {
				t.Fatal("two bases are compared again")
			}
			b.compare(b)
		}
	}
}
