package files

import (
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// entry is what a file says of a destination, as far as that is known.
type entry struct {
	destination
	// kept says that its file says something else by now, which is not known.
	kept bool
}

// force makes the intentions that are in force of what files say (docs/adr/0010-files-one-by-one.md).
type force struct {
	scope  intention.Scope
	groups map[identity.Name]*group // by their names without regard to letter case
	list   []*catalog.Destination
	held   bool // something of what files allow is not in the list
}

// group is all that is said of one destination: now, and in what was in force.
type group struct {
	now    []entry
	before []*catalog.Destination
}

// allOf is what is in force while all files are taken: what they say, and of two entries about one
// destination what both allow.
func (c *Config) allOf(entries []entry) []*catalog.Destination {
	f := c.newForce(entries, nil)
	shared := f.shared(nowOf)
	for _, g := range f.groups {
		spellings := map[identity.Name]bool{}
		for _, e := range g.now {
			spellings[e.Name] = true
		}
		name := g.name()
		switch {
		case len(spellings) == len(g.now): // the catalog sees to different spellings
			for _, e := range g.now {
				f.list = append(f.list, e.Destination)
			}
		case name.IsWildcard():
			f.add(name, shared.Own(name), g, false)
		default:
			f.add(name, shared.PolicyEntries(name, nowOf(g)...).Own(), g, false)
		}
	}
	return f.sorted()
}

// someOf is what is in force while not all files are taken: what entries allow, if what was in
// force just before allows it, too, or the destination's own entries name the source. What is
// missing of what they allow waits, and says why; held reports whether anything does.
func (c *Config) someOf(entries []entry, before []*catalog.Destination, why string) (list []*catalog.Destination, held bool) {
	f := c.newForce(entries, before)
	all := identity.NewName(identity.Wildcard)
	now, was := f.shared(nowOf), f.shared(beforeOf)
	below := now
	if g := f.groups[all]; g != nil && !g.same() {
		general, held := intention.HoldShared(all, now, was, why)
		below = intention.Share(all, general, f.scope)
		f.add(all, general, g, held)
	}
	for _, g := range f.groups {
		name := g.name()
		switch {
		case g.same(): // whom it does not name the others say about, and that is held there
			f.list = append(f.list, g.before...)
		case !name.IsWildcard():
			own, held := below.Hold(now.PolicyEntries(name, nowOf(g)...), was.PolicyEntries(name, beforeOf(g)...), g.own(), why)
			f.add(name, own, g, held)
		}
	}
	return f.sorted(), f.held
}

func (c *Config) newForce(entries []entry, before []*catalog.Destination) *force {
	f := &force{
		scope:  intention.Scope{TrustDomain: c.TrustDomain, Datacenters: []string{c.Datacenter}, Default: c.Default},
		groups: make(map[identity.Name]*group, len(entries)),
	}
	of := func(name identity.Name) *group {
		key := name.Fold()
		g := f.groups[key]
		if g == nil {
			g = &group{}
			f.groups[key] = g
		}
		return g
	}
	for _, e := range entries {
		g := of(e.Name)
		g.now = append(g.now, e)
	}
	for _, d := range before {
		g := of(d.Name)
		g.before = append(g.before, d)
	}
	return f
}

// shared is what is said of all destinations.
func (f *force) shared(of func(*group) [][]intention.Intention) *intention.Shared {
	all := identity.NewName(identity.Wildcard)
	var entries [][]intention.Intention
	if g := f.groups[all]; g != nil {
		entries = of(g)
	}
	return intention.ShareEntries(all, f.scope, entries...)
}

func nowOf(g *group) (entries [][]intention.Intention) {
	for _, e := range g.now {
		entries = append(entries, e.Intentions)
	}
	return entries
}

func beforeOf(g *group) (entries [][]intention.Intention) {
	for _, d := range g.before {
		entries = append(entries, d.Intentions)
	}
	return entries
}

// own are the entries of files that are taken; none, if there is one of another file, too.
func (g *group) own() [][]intention.Intention {
	if slices.ContainsFunc(g.now, func(e entry) bool { return e.kept }) {
		return nil
	}
	return nowOf(g)
}

// same reports whether nothing else is said than before, and in as many words.
func (g *group) same() bool {
	return len(g.now) == len(g.before) && !slices.ContainsFunc(g.now, func(e entry) bool { return !slices.Contains(g.before, e.Destination) })
}

// name is the destination's; of several spellings the first one.
func (g *group) name() (name identity.Name) {
	for _, e := range g.now {
		if name.Service == "" || e.Name.Service < name.Service {
			name = e.Name
		}
	}
	for _, d := range g.before {
		if name.Service == "" || d.Name.Service < name.Service {
			name = d.Name
		}
	}
	return name
}

// add puts an entry into the list.
func (f *force) add(name identity.Name, own []intention.Intention, g *group, held bool) {
	f.held = f.held || held
	if len(own)+len(g.now) > 0 {
		f.list = append(f.list, &catalog.Destination{Name: name, Intentions: own})
	}
}

func (f *force) sorted() []*catalog.Destination {
	c := catalog.Contents{Intentions: f.list}
	c.Sort()
	return c.Intentions
}

// within reports whether list allows nobody whom bound does not.
func (c *Config) within(list, bound []*catalog.Destination) bool {
	if slices.Equal(list, bound) {
		return true
	}
	list, bound, _ = differingIn(list, bound)
	_, held := c.someOf(asKept(list), bound, "held")
	return !held
}

// both is what list and bound both allow. The rest of list waits, and says why.
func (c *Config) both(list, bound []*catalog.Destination, why string) []*catalog.Destination {
	list, bound, same := differingIn(list, bound)
	list, _ = c.someOf(asKept(list), bound, why)
	return (&force{list: append(list, same...)}).sorted()
}

// differingIn are those parts of two sorted lists that are not the same, with what is said of all destinations, and what
// is left out of both.
func differingIn(a, b []*catalog.Destination) (inA, inB, same []*catalog.Destination) {
	others := map[identity.Name]bool{}
	for i, k := 0, 0; i < len(a) || k < len(b); {
		switch {
		case i < len(a) && k < len(b) && a[i] == b[k]:
			i, k = i+1, k+1
		case k == len(b) || i < len(a) && a[i].Name.Service <= b[k].Name.Service:
			others[a[i].Name.Fold()] = true
			i++
		default:
			others[b[k].Name.Fold()] = true
			k++
		}
	}
	all := identity.NewName(identity.Wildcard)
	if others[all] {
		return a, b, nil
	}
	in := func(d *catalog.Destination) bool { return others[d.Name.Fold()] || d.Name.IsWildcard() }
	for _, d := range a {
		if in(d) {
			inA = append(inA, d)
		} else {
			same = append(same, d)
		}
	}
	for _, d := range b {
		if in(d) {
			inB = append(inB, d)
		}
	}
	return inA, inB, same
}

func asKept(list []*catalog.Destination) []entry {
	entries := make([]entry, len(list))
	for i, d := range list {
		entries[i] = entry{destination: destination{Destination: d}, kept: true}
	}
	return entries
}
