package intention_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"pgregory.net/rapid"
)

func drawEntries(t *rapid.T, label string) (entries [][]intention.Intention) {
	for range rapid.IntRange(0, 3).Draw(t, label) {
		entry := rapid.SliceOfN(rapid.Custom(drawIntention), 1, 4).Draw(t, label)
		d := entry[0].Destination
		if d.Service == "x" && rapid.Bool().Draw(t, "capital") {
			d.Service = "X"
		}
		for i := range entry {
			entry[i].Destination = d
		}
		entries = append(entries, entry)
	}
	return entries
}

// TestEntries demands that of several entries about a destination, or about all, a policy allows what each of them
// allows where it is the only one, and that Own says the same as one entry.
func TestEntries(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		entries, scope := drawEntries(t, "entries"), drawScope(t)
		in, x := identity.NewName("x"), identity.NewName("nothing-of-its-own")
		shared := intention.ShareEntries(in, scope, entries...)
		policy := shared.PolicyEntries(in, entries...)
		again := intention.Share(in, shared.Own(in), scope)
		once := again.Policy(in, policy.Own())
		about := func(e []intention.Intention, service string) bool {
			d := e[0].Destination
			return d.Partition == in.Partition && d.Namespace == in.Namespace && d.Fold().Service == service
		}
		for _, src := range sources {
			all, own := true, true
			var general, exact int
			for _, e := range entries {
				if about(e, identity.Wildcard) {
					general++
					all = all && intention.Share(in, e, scope).Policy(x, nil).Decide(src).Allowed()
				}
				if about(e, "x") {
					exact++
					own = own && shared.Policy(in, e).Decide(src).Allowed()
				}
			}
			if general == 0 {
				all = intention.Share(in, nil, scope).Policy(x, nil).Decide(src).Allowed()
			}
			if got := shared.Policy(x, nil).Decide(src).Allowed(); got != all {
				t.Fatalf("%s may reach what has no entry: %t, want %t", src, got, all)
			}
			if exact == 0 {
				own = all
			}
			if got := policy.Decide(src).Allowed(); got != own {
				t.Fatalf("%s may reach x: %t, want %t", src, got, own)
			}
			if got := once.Decide(src).Allowed(); got != own {
				t.Fatalf("%s may reach x by one entry: %t, by several: %t", src, got, own)
			}
		}
	})
}

// TestHold demands that what is held allows whom now allows if before did, too, or every entry of the destination's own
// names the source; and that held says whether that is less than now.
func TestHold(t *testing.T) {
	sources := everybody()
	rapid.Check(t, func(t *rapid.T) {
		x := identity.NewName("x")
		nowEntries, beforeEntries, scope := drawEntries(t, "now"), drawEntries(t, "before"), drawScope(t)
		own := nowEntries
		if rapid.Bool().Draw(t, "some are not known") {
			own = own[:rapid.IntRange(0, len(own)).Draw(t, "known")]
		}
		nowShared, beforeShared := intention.ShareEntries(x, scope, nowEntries...), intention.ShareEntries(x, scope, beforeEntries...)
		now, before := nowShared.PolicyEntries(x, nowEntries...), beforeShared.PolicyEntries(x, beforeEntries...)

		general, sharedHeld := intention.HoldShared(x, nowShared, beforeShared, "held")
		below := intention.Share(x, general, scope)
		entry, held := below.Hold(now, before, own, "held")
		if !slices.IsSortedFunc(entry, intention.Compare) || !slices.IsSortedFunc(general, intention.Compare) {
			t.Fatalf("not sorted: %v, %v", entry, general)
		}
		got := below.Policy(x, entry)

		names := func(src identity.Service) bool {
			var about int
			for _, e := range own {
				if e[0].Destination.Fold() != x || e[0].Destination.Partition != x.Partition || e[0].Destination.Namespace != x.Namespace {
					continue
				}
				mine := slices.DeleteFunc(slices.Clone(e), func(i intention.Intention) bool {
					return i.Source.Peer != "" || i.Source.Partition != x.Partition || i.Source.Namespace != x.Namespace
				})
				if about++; !slices.ContainsFunc(mine, func(i intention.Intention) bool {
					return i.Source.IsWildcard() || i.Source.Name == src.Name
				}) {
					return false
				}
			}
			return about > 0
		}
		var less bool
		for _, src := range sources {
			before := before.Decide(src).Allowed()
			want := now.Decide(src).Allowed() && (before || names(src))
			less = less || now.Decide(src).Allowed() && !want
			if d := got.Decide(src); d.Allowed() != want {
				t.Fatalf("Decide(%s) = %v by %v, want allowed: %t; now %v, before %t, named %t", src, d.Action, d.Intention, want, now.Decide(src).Action, before, names(src))
			} else if want && d.Reason == intention.ByIntention && (d.Intention.Held != "" || d.Intention.Action != intention.Allow) {
				t.Fatalf("allowed by %+v", d.Intention)
			}
			if got, want := below.Policy(identity.NewName("y"), nil).Decide(src).Allowed(),
				nowShared.Policy(identity.NewName("y"), nil).Decide(src).Allowed() && beforeShared.Policy(identity.NewName("y"), nil).Decide(src).Allowed(); got != want {
				t.Fatalf("%s may reach what has no entry: %t, want %t", src, got, want)
			}
		}
		if less && !held {
			t.Fatal("more is held than that")
		}
		if !held && !sharedHeld {
			if inside := now.Allowed().Within(got.Allowed()); !inside {
				t.Fatal("nothing is held, and less allowed")
			}
		}
	})
}

// Of two lists of permissions neither is the other: who had the narrower one is not held to the wider one of all.
func TestHoldOfPermissions(t *testing.T) {
	narrow := permissions(t, intention.Permission{Action: intention.Allow, PathExact: "/a"})
	wide := permissions(t, intention.Permission{Action: intention.Allow, PathExact: "/a"}, intention.Permission{Action: intention.Allow, PathExact: "/admin"})
	api := identity.NewName("api")
	all := intention.Intention{Source: source("*"), Destination: api, Permissions: wide}
	own := intention.Intention{Source: source("web"), Destination: api, Permissions: narrow}
	below := intention.Share(api, nil, scope(intention.Deny))
	entry, _ := below.Hold(below.Policy(api, []intention.Intention{all}), below.Policy(api, []intention.Intention{all, own}), nil, "held")
	p := below.Policy(api, entry)
	for path, want := range map[string]bool{"GET /a": true, "GET /admin": false} {
		if got := p.DecideRequest(workload("web"), request(path)).Allowed(); got != want {
			t.Errorf("%s is allowed: %t, want %t (%v)", path, got, want, entry)
		}
	}
}
