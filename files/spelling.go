package files

import (
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// warnOfSpellings reports services and destinations whose names differ by letter case alone. It
// warns for one release and is to be an error then, as what a release took the next one must take.
// Meanwhile the catalog has each entry hold for all spellings, and only what all entries allow.
func (a *assembly) warnOfSpellings() {
	first := map[string]*name{} // by what they fold to
	for _, n := range a.sorted {
		folded := identity.NewName(n.name).Fold().Service
		if folded == n.name || !n.given() {
			continue
		}
		other := first[folded]
		if lower := a.names[folded]; lower != nil && lower.given() {
			other = lower
		}
		if other == nil {
			first[folded] = n
			continue
		}
		a.warning(n.at(),
			"%q and %q (%s) differ by letter case alone, which does not count in a destination: what the intentions of either say holds for both, and where both have some only what both allow. Spell them alike: the next release refuses this",
			n.name, other.name, other.at())
	}
}

// given reports whether a service or a destination of intentions has the name.
func (n *name) given() bool { return len(n.instances) > 0 || n.entry.Destination != nil }

// at is where something has the name, which must be given.
func (n *name) at() definition.Position {
	if n.entry.Destination != nil {
		return n.entry.at
	}
	return n.instances[0].at
}
