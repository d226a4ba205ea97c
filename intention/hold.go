package intention

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
)

// Own are the intentions that make p's own rules, of several entries those of one that says the same.
// They are sorted. p must not be nil.
func (p *Policy) Own() []Intention { return p.own.list(p.destination) }

// Own is Policy.Own for the intentions about all destinations of the namespace of in.
func (s *Shared) Own(in identity.Name) []Intention { return s.list(wildcard(in)) }

// list are the rules as intentions about a destination.
func (r *rules) list(destination identity.Name) (all []Intention) {
	add := func(service string, i Intention) {
		i.Source = Source{Name: destination}
		i.Source.Service, i.Destination = service, destination
		all = append(all, i)
	}
	for service, i := range r.exact {
		add(service, *i)
	}
	if r.rest != nil {
		add(identity.Wildcard, *r.rest)
	}
	for _, i := range r.foreign {
		f := *i
		f.Destination = destination
		all = append(all, f)
	}
	slices.SortFunc(all, Compare)
	return all
}

// Hold is for a time at which not all is known that is said of a destination: it makes the
// intentions of one entry about it, above s, that allow a source only if now does and if, besides,
// every one of own names the source (or all sources) or before allows it. own are the entries about
// the destination that are known; none name nobody. What is kept from being allowed says why in its
// Held, and held reports whether anything is. A source that neither now nor before names is as all
// the others are. now and before are policies of the destination and must not be nil.
func (s *Shared) Hold(now, before *Policy, own [][]Intention, why string) (all []Intention, held bool) {
	entries := entriesOf(now.destination, own)
	h := holding{
		layers: [2]layers{{now.shared.scope.Default, []*rules{&now.own, &now.shared.rules}}, {before.shared.scope.Default, []*rules{&before.own, &before.shared.rules}}},
		named: func(service string) bool {
			for i := range entries {
				if entries[i].find(service) == nil {
					return false
				}
			}
			return len(entries) > 0
		},
		why: why,
	}
	names := slices.Concat(now.named(), before.named(), s.names, slices.Collect(maps.Keys(now.own.exact)))
	r, held := h.entry(s, &now.own, names)
	foreign, waits := h.foreign(now, before, entries)
	r.foreign = foreign
	return r.list(now.destination), held || waits
}

// HoldShared is Hold for the intentions about all destinations of the namespace of in. They are
// nobody's own: what is not allowed before is held.
func HoldShared(in identity.Name, now, before *Shared, why string) (all []Intention, held bool) {
	h := holding{
		layers: [2]layers{{now.scope.Default, []*rules{&now.rules}}, {before.scope.Default, []*rules{&before.rules}}},
		named:  func(string) bool { return false },
		why:    why,
	}
	r, held := h.entry(&Shared{scope: now.scope}, &now.rules, slices.Concat(now.names, before.names))
	return r.list(wildcard(in)), held
}

// layers are rules, of which the first decide that name a source, and the default below.
type layers struct {
	def   Action
	rules []*rules
}

// find is the intention that decides about a source; nil: the default does.
func (l *layers) find(service string) (i *Intention, of breadth) {
	for _, r := range l.rules {
		if i := r.find(service); i != nil {
			return i, i.breadth()
		}
	}
	if l.def == Allow {
		return nil, everything
	}
	return nil, nothing
}

// holdsFor reports whether i lets in all that j does.
func (i *Intention) holdsFor(j *Intention) bool {
	return i.breadth() == everything || j.breadth() == nothing || i.breadth() == requests && j.breadth() == requests && i.Permissions == j.Permissions
}

// adds reports whether a lets in all requests that b does, which has permissions, and where it can be seen others.
func (h *holding) adds(a *Intention, of breadth, b *Intention, other breadth) bool {
	if other != requests || of < requests {
		return false
	}
	return of == everything || a.Permissions != b.Permissions && h.layers[0].def == h.layers[1].def &&
		broader(a.Permissions.outline(h.layers[0].def), b.Permissions.outline(h.layers[0].def))
}

// holding is what Hold is about: now, and before.
type holding struct {
	layers [2]layers
	named  func(service string) bool
	why    string
}

// decide makes the intention about a source.
func (h *holding) decide(service string) (i Intention, held bool) {
	now, effect := h.layers[0].find(service)
	before, was := h.layers[1].find(service)
	switch found := cmp.Or(now, before); {
	case effect == nothing && now != nil:
		return *now, false
	case effect == nothing:
		return Intention{Action: Deny}, false
	case h.adds(now, effect, before, was) && !h.named(service):
		return *before, true // what it lets in goes on
	case h.adds(before, was, now, effect):
		return *now, false
	case effect == requests: // of now, as the default is none
		if i = *now; was < everything && (before == nil || !before.holdsFor(now)) && !h.named(service) {
			i.Held = h.why
		}
		return i, i.Held != ""
	case found != nil:
		i = *found
	}
	i.Action, i.Permissions, i.JWT, i.Unsupported, i.Held = Allow, nil, nil, "", ""
	if was < everything && !h.named(service) {
		i.Held = h.why
		return i, true
	}
	return i, false
}

// entry makes the rules of a destination that say about all sources of the mesh, names among them, what
// h decides. Those that below says anyway are left out, unless own says them.
func (h *holding) entry(below *Shared, own *rules, names []string) (r rules, held bool) {
	rest, waits := h.decide("")
	held = waits
	if own.rest != nil || !below.saysAs(below.rest, &rest) {
		r.rest = &rest
	}
	slices.Sort(names)
	for _, service := range slices.Compact(names) {
		i, waits := h.decide(service)
		held = held || waits
		if own.exact[service] != nil || !below.saysAs(cmp.Or(r.rest, below.find(service)), &i) {
			if r.exact == nil {
				r.exact = map[string]*Intention{}
			}
			r.exact[service] = &i
		}
	}
	return r, held
}
