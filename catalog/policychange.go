package catalog

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// PolicyChange is a destination of which other intentions hold than before.
type PolicyChange struct {
	// Destination is the wildcard for all destinations of which nothing of their own is said.
	Destination identity.Name
	// Old and New are its policies. Where there is none, as the destination is not known, it is what
	// would hold of it. Neither is nil.
	Old, New *intention.Policy
	// Before and After are the intentions about the destination, or about all of them.
	Before, After []intention.Intention
}

// PolicyChanges yields the destinations of which other intentions hold in v than in old, sorted by
// name. Of the zero View nothing is other than in v. That a service comes or goes of which nothing
// is said is no change of intentions, nor that what is said of one is read that has no proxy and no registration.
func (v *View) PolicyChanges(old *View) iter.Seq[PolicyChange] {
	return func(yield func(PolicyChange) bool) {
		if old.mesh == nil || v.compiled == old.compiled {
			return
		}
		names := slices.Concat(
			slices.Collect(maps.Keys(v.shared)), slices.Collect(maps.Keys(old.shared)),
			slices.Collect(maps.Keys(v.policies)), slices.Collect(maps.Keys(old.policies)))
		slices.SortFunc(names, compareNames)
		for _, name := range slices.Compact(names) {
			c := PolicyChange{
				Destination: name, Old: old.policies[name], New: v.policies[name],
				Before: intentions(old.said[name.Fold()]), After: intentions(v.said[name.Fold()]),
			}
			switch said := len(c.Before)+len(c.After) > 0; {
			case name.IsWildcard():
				if v.shared[name] == old.shared[name] {
					continue
				}
			case c.Old == c.New || !said: // who has no intentions of its own has those of all
				continue
			case c.Old != nil && c.New != nil:
			case !v.contents.Whole && !v.registered(name) && !old.registered(name):
				continue
			case slices.Equal(old.said[name.Fold()], v.said[name.Fold()]):
				continue
			}
			if c.Old == nil {
				c.Old = old.bare(name)
			}
			if c.New == nil {
				c.New = v.bare(name)
			}
			if !yield(c) {
				return
			}
		}
	}
}

// bare is the policy of a destination in name's namespace of which nothing of its own is said.
func (v *View) bare(name identity.Name) *intention.Policy {
	all := name
	all.Service = identity.Wildcard
	s := v.shared[all]
	if s == nil {
		s = intention.Share(all, intentions(v.said[all]), v.mesh.scope())
	}
	if name.IsWildcard() {
		name.Service = "any"
	}
	return s.Policy(name, nil).Revoking(v.contents.Revoked)
}

// registered reports whether a service has a proxy or a registration.
func (v *View) registered(name identity.Name) bool {
	return len(v.instances[name]) > 0 || v.index != nil && len(v.index.own[name]) > 0
}
