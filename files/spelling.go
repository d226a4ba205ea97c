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

// warnOfDefaults reports service-defaults whose name is that of a service but for letter case. They
// hold for no service of it; Consul takes the protocol from them, and nothing else.
func (a *assembly) warnOfDefaults() {
	var services map[identity.Name]*name // by what their names fold to
	for _, n := range a.sorted {
		if n.defaults == nil || len(n.instances) > 0 {
			continue
		}
		if services == nil {
			services = map[identity.Name]*name{}
			for _, o := range a.sorted {
				if len(o.instances) > 0 {
					services[identity.NewName(o.name).Fold()] = o
				}
			}
		}
		if o := services[identity.NewName(n.name).Fold()]; o != nil {
			a.warning(n.defaults.at, "service-defaults of %q do not hold for the service %q (%s), as letter case counts here: spell them alike",
				n.name, o.name, o.instances[0].at)
		}
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
