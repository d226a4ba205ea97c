package definition

import (
	"cmp"
	"slices"
)

// Blame notes that a mistake was reported that is about a key. What follows from it is no further one.
func (d *Decoder) Blame(key string) { d.faults = append(d.faults, key) }

// Faulty reports whether a mistake was reported that is about one of keys, or about one that Done takes
// for a misspelling of it.
func (d *Decoder) Faulty(keys ...string) bool {
	return slices.ContainsFunc(d.faults, func(f string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return sameKey(f, k) })
	})
}

// Done reports the keys that nobody asked for, and those that are missing for Need.
func (d *Decoder) Done() {
	if d.Lenient {
		return
	}
	for _, f := range d.fields {
		if d.knows(f.Key) {
			continue
		}
		near := cmp.Or(whole(f.Key, d.lacking()), Nearest(f.Key, d.known), whole(f.Key, d.known))
		if near != "" {
			d.say(f.At, f, "unknown key %.60q in %s: did you mean %s?", f.Key, d.What, spell(near, f.Key))
			d.Blame(near)
		} else {
			d.say(f.At, f, "unknown key %.60q in %s%s", f.Key, d.What, d.Hint)
		}
	}
	for _, l := range d.missing {
		d.lacks(l)
	}
	d.missing = nil
}

// lack is a key that is missing, in what.
type lack struct{ key, what string }

// lacking are the keys that are missing so far.
func (d *Decoder) lacking() (keys []string) {
	for _, l := range d.missing {
		keys = append(keys, l.key)
	}
	return keys
}

// Require reports that a key is missing, unless the block could not be read at all, or it was meant by
// one of which Done has said that.
func (d *Decoder) Require(key string, s Setting[string]) bool {
	if d.without(key, s) {
		d.lacks(lack{key, d.What})
	}
	return s.Set
}

// Need is Require for keys that are read before Done, which has to be called and reports them.
func (d *Decoder) Need(key string, s Setting[string]) bool {
	if d.without(key, s) {
		d.need(lack{key, d.What})
	}
	return s.Set
}

func (d *Decoder) need(l lack) {
	if d.Lenient {
		d.lacks(l)
	} else {
		d.missing = append(d.missing, l)
	}
}

// without reports whether a key is not there, where it could be.
func (d *Decoder) without(key string, s Setting[string]) bool {
	n := d.Field(key)
	return !s.Set && !d.Broken && (n == nil || n.Kind == Text)
}

func (d *Decoder) lacks(l lack) {
	if !d.Faulty(l.key) {
		d.say(d.At, &Field{Key: l.key, Value: &Node{}}, "%s has no %s", l.what, l.key)
	}
}
