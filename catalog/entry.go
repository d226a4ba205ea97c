package catalog

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// Entry is a config entry that counts, as it was written. What a service-intentions entry says of who may do what is not
// in it: that is the Destination of its name, which may say less while files are not taken.
type Entry struct {
	Kind string // "service-defaults"
	Name string // "mesh" for the mesh entry, which has none
	Meta map[string]string
	// Fields is an object in JSON of all that Consul's API has of the entry beside Kind, Name and Meta, with Consul's names and
	// types, and no more than what was written. Of service-intentions it has JWT alone.
	Fields string
	// Sources are those of service-intentions, in the order in which they are written.
	Sources []EntrySource
	// Origin is where the entry was read: "api.hcl:1".
	Origin string
}

// EntrySource is what a service-intentions entry says of a source beside its action.
type EntrySource struct {
	Source      intention.Source
	Description string
}

// IntentionsKind is the kind of the entries that intentions come from.
const IntentionsKind = "service-intentions"

func compareEntries(a, b *Entry) int {
	if c := strings.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func (e *Entry) equal(o *Entry) bool {
	return e.Kind == o.Kind && e.Name == o.Name && e.Fields == o.Fields && e.Origin == o.Origin && maps.Equal(e.Meta, o.Meta) && slices.Equal(e.Sources, o.Sources)
}

// Entries yields all config entries, sorted by kind and name. There are none beside Consul, where the agent has them.
func (v *View) Entries() iter.Seq[*Entry] { return slices.Values(v.contents.Entries) }

// Entry is the one of that kind and name; nil: there is none. Letter case does not count in a name that no entry has as it is.
func (v *View) Entry(kind, name string) *Entry {
	if i, ok := v.findEntry(kind, name); ok {
		return v.contents.Entries[i]
	}
	if at := v.folded[foldedEntry(kind, name)]; at > 0 {
		return v.contents.Entries[at-1]
	}
	return nil
}

func (v *View) findEntry(kind, name string) (i int, ok bool) {
	return slices.BinarySearchFunc(v.contents.Entries, &Entry{Kind: kind, Name: name}, compareEntries)
}

// entryKey is what entries are found by without regard to letter case.
type entryKey struct{ kind, name string }

func foldedEntry(kind, name string) entryKey {
	return entryKey{kind, identity.NewName(name).Fold().Service}
}

// foldEntries makes n's index of entries; it is v's as long as there are the same ones.
func (n *View) foldEntries(v *View, f following) {
	if n.folded = v.folded; !f.others {
		return
	}
	n.folded = make(map[entryKey]int, len(n.contents.Entries))
	for i, e := range n.contents.Entries {
		if key := foldedEntry(e.Kind, e.Name); n.folded[key] == 0 {
			n.folded[key] = i + 1
		}
	}
}

// About yields what is said of a destination and of others whose names differ from its by letter case alone; of the wildcard what is
// said of all. Each is one entry's.
func (v *View) About(destination identity.Name) []*Destination { return v.said[destination.Fold()] }
