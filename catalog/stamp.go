package catalog

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// Stamp says when a thing came to be what it is, by the numbers of changes. The zero Stamp is that of what is not there.
type Stamp struct{ Created, Modified uint64 }

// Revision is the number of the last change of each part of a View. It is comparable: where a number is the same in two
// Views of one Store, so is that part.
type Revision struct{ Mesh, Registered, Intentions, Entries uint64 }

// Revision is that of v.
func (v *View) Revision() Revision { return v.revision }

// stamps are those of a View's lists, in their order.
type stamps struct {
	registrations, sidecars, destinations, entries []Stamp
}

// restamp is the stamps of list, of which what is the same pointer as in old keeps its own. Both are sorted. It costs no more than a look
// at each, and nothing if nothing changed.
func restamp[T any](old []*T, was []Stamp, list []*T, compare func(a, b *T) int, f following, number uint64) []Stamp {
	if f.same() {
		return was
	}
	now := make([]Stamp, len(list))
	for i, x := range list {
		for len(old) > 0 && old[0] != x && compare(old[0], x) < 0 {
			old, was = old[1:], was[1:]
		}
		now[i] = Stamp{number, number}
		if len(old) > 0 && compare(old[0], x) == 0 {
			now[i].Created = was[0].Created
			if old[0] == x {
				now[i].Modified = was[0].Modified
			}
			old, was = old[1:], was[1:]
		}
	}
	return now
}

// stamp makes n's stamps and its revision.
func (n *View) stamp(v *View, mesh bool, f followings) {
	number := n.Change().Number
	old, c := &v.contents, &n.contents
	n.stamps = stamps{
		registrations: restamp(old.Registrations, v.stamps.registrations, c.Registrations, compareRegistrations, f.registrations, number),
		sidecars:      restamp(old.Sidecars, v.stamps.sidecars, c.Sidecars, compareSidecars, f.sidecars, number),
		destinations:  restamp(old.Intentions, v.stamps.destinations, c.Intentions, compareDestinations, f.destinations, number),
		entries:       restamp(old.Entries, v.stamps.entries, c.Entries, compareEntries, f.entries, number),
	}
	n.revision = v.revision
	for _, part := range []struct {
		revision *uint64
		changed  bool
	}{
		{&n.revision.Mesh, mesh},
		{&n.revision.Registered, !f.registrations.same() || !f.sidecars.same()},
		{&n.revision.Intentions, !f.destinations.same()},
		{&n.revision.Entries, !f.entries.same()},
	} {
		if part.changed {
			*part.revision = number
		}
	}
}

// StampOf is that of a registration of v, also of a sidecar's.
func (v *View) StampOf(id string) Stamp {
	if i, ok := slices.BinarySearchFunc(v.contents.Registrations, id, func(r *Registration, id string) int { return strings.Compare(r.ID, id) }); ok {
		return v.stamps.registrations[i]
	}
	if i, ok := slices.BinarySearchFunc(v.contents.Sidecars, id, func(s *Sidecar, id string) int { return strings.Compare(s.ID, id) }); ok {
		return v.stamps.sidecars[i]
	}
	return Stamp{}
}

// StampOfEntry is that of an entry of v. That of service-intentions counts what is in force of them, too.
func (v *View) StampOfEntry(kind, name string) Stamp {
	var s Stamp
	if i, ok := v.findEntry(kind, name); ok {
		s = v.stamps.entries[i]
	}
	if kind != IntentionsKind {
		return s
	}
	d := &Destination{Name: identity.NewName(name)}
	if i, ok := slices.BinarySearchFunc(v.contents.Intentions, d, compareDestinations); ok {
		of := v.stamps.destinations[i]
		if s.Modified = max(s.Modified, of.Modified); s.Created == 0 {
			s.Created = of.Created
		}
	}
	return s
}
