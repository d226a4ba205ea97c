package files

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting is a value that may not be set, and where it was. Consul tells "not set" from zero.
type setting[T any] struct {
	set   bool
	value T
	at    position
}

// or is s if it is set, else t.
func (s setting[T]) or(t setting[T]) setting[T] {
	if s.set {
		return s
	}
	return t
}

// object reads the keys of one mapping. It remembers which it was asked for, so that done can tell the unknown ones.
type object struct {
	*reader
	what   string // for messages: "upstream"
	at     position
	fields map[string][]field // by canonical key
	known  []string           // keys that were asked for, as documentation spells them
	hint   string             // said of an unknown key that resembles none
	broken bool               // there was no mapping to read
	// weak takes numbers and booleans that are written as strings too, as Consul does in config entries and in the
	// opaque maps called config.
	weak bool
}

// canonical is what the spellings of one key have in common: Consul takes destination_name, DestinationName and destinationname.
func canonical(key string) string {
	return strings.ToLower(strings.ReplaceAll(key, "_", ""))
}

// object returns the reader of n, which what says what it is. HCL has no way to tell a block from a list of one block, so
// either is taken. If n is something else that is a problem and the object is empty.
func (r *reader) object(n *node, what string) *object {
	o := &object{reader: r, what: what, fields: map[string][]field{}}
	if n == nil {
		return o
	}
	o.at = n.at
	if n.kind == null {
		return o
	}
	if n.kind == list && len(n.list) == 1 {
		n = n.list[0]
	}
	if n.kind != mapping {
		r.problem(n.at, "%s must be a block, not %s", what, n.kind)
		o.broken = true
		return o
	}
	for _, f := range n.fields {
		key := canonical(f.key)
		o.fields[key] = append(o.fields[key], f)
	}
	return o
}

// field is the value of a key that is given at most once; nil if it is not given or null.
func (o *object) field(key string) *node {
	o.know(key)
	fields := o.fields[canonical(key)]
	if len(fields) == 0 {
		return nil
	}
	for _, f := range fields[1:] {
		o.problem(f.at, "%s is given twice in %s (first at line %d)", f.key, o.what, fields[0].at.line)
	}
	if fields[0].value.kind == null {
		return nil
	}
	return fields[0].value
}

func (o *object) know(keys ...string) {
	for _, k := range keys {
		if !slices.Contains(o.known, k) {
			o.known = append(o.known, k)
		}
	}
}

// mismatch reports a value of the wrong type.
func (o *object) mismatch(key, want string, n *node) {
	o.problem(n.at, "%s must be %s, not %s", key, want, n.kind)
}

// text is a string. The empty one counts as not set, as everywhere in Consul.
func (o *object) text(key string) (s setting[string]) {
	n := o.field(key)
	switch {
	case n == nil:
		return s
	case n.kind != text:
		o.mismatch(key, "a string", n)
		return s
	}
	return setting[string]{set: n.text != "", value: n.text, at: n.at}
}

// integer is a whole number of the range.
func (o *object) integer(key string, least, most int64) (s setting[int64]) {
	n := o.field(key)
	if n == nil {
		return s
	}
	i := n.integer
	if n.kind == text && o.weak {
		v, err := strconv.ParseInt(n.text, 10, 64)
		if err != nil {
			o.problem(n.at, "%s is %.40q, which is not a whole number", key, n.text)
			return s
		}
		i = v
	} else if n.kind != integer {
		o.mismatch(key, "a whole number", n)
		return s
	}
	if i < least || i > most {
		o.problem(n.at, "%s is %d: it must be %d to %d", key, i, least, most)
		return s
	}
	return setting[int64]{set: true, value: i, at: n.at}
}

// port is a port number.
func (o *object) port(key string) setting[uint16] {
	s := o.integer(key, 1, 65535)
	return setting[uint16]{set: s.set, value: uint16(s.value), at: s.at} //nolint:gosec // within the range
}

// count is a number of things.
func (o *object) count(key string) setting[uint32] {
	s := o.integer(key, 0, 1<<31)
	return setting[uint32]{set: s.set, value: uint32(s.value), at: s.at} //nolint:gosec // within the range
}

func (o *object) boolean(key string) (s setting[bool]) {
	n := o.field(key)
	switch {
	case n == nil:
		return s
	case n.kind == text && o.weak && (n.text == "true" || n.text == "false"):
		return setting[bool]{set: true, value: n.text == "true", at: n.at}
	case n.kind != boolean:
		o.mismatch(key, "true or false", n)
		return s
	}
	return setting[bool]{set: true, value: n.boolean, at: n.at}
}

// mostMilliseconds bounds times to a year, so that no sum of them overflows.
const mostMilliseconds = 365 * 24 * 60 * 60 * 1000

func (o *object) milliseconds(key string) setting[time.Duration] {
	s := o.integer(key, 0, mostMilliseconds)
	return setting[time.Duration]{set: s.set, value: time.Duration(s.value) * time.Millisecond, at: s.at}
}

// duration is a time with its unit: "10s".
func (o *object) duration(key string) (s setting[time.Duration]) {
	n := o.field(key)
	if n == nil {
		return s
	}
	if n.kind == integer && n.integer == 0 {
		return s
	}
	if n.kind != text {
		o.mismatch(key, `a string with a unit, like "10s"`, n)
		return s
	}
	d, err := time.ParseDuration(n.text)
	if err != nil || d < 0 || d > mostMilliseconds*time.Millisecond {
		o.problem(n.at, `%s is %.40q: it must be a time like "500ms" or "10s"`, key, n.text)
		return s
	}
	return setting[time.Duration]{set: d != 0, value: d, at: n.at}
}

// child is the block of a key; ok is false if there is none.
func (o *object) child(key, what string) (c *object, ok bool) {
	n := o.field(key)
	c = o.object(n, what)
	c.weak = o.weak
	return c, n != nil
}

// children are the blocks of a key: a list of them, one alone, or the key again and again as HCL has it.
func (o *object) children(key, what string) []*object {
	var out []*object
	for _, n := range o.elements(key) {
		c := o.object(n, what)
		c.weak = o.weak
		out = append(out, c)
	}
	return out
}

func (o *object) elements(key string) []*node {
	o.know(key)
	fields := o.fields[canonical(key)]
	var out []*node
	for _, f := range fields {
		switch {
		case len(fields) > 1 && f.value.kind != mapping:
			o.problem(f.at, "%s is given more than once in %s: write one list", f.key, o.what)
		case f.value.kind == null:
		case f.value.kind == list:
			out = append(out, f.value.list...)
		default:
			out = append(out, f.value)
		}
	}
	return out
}

// texts checks that a key is a list of strings, and is for keys that mean nothing to a mesh.
func (o *object) texts(key string) {
	for _, f := range o.fields[canonical(key)] {
		if f.value.kind != list && f.value.kind != null {
			o.know(key)
			o.mismatch(key, "a list of strings", f.value)
			return
		}
	}
	for _, n := range o.elements(key) {
		if n.kind != text {
			o.mismatch(key, "a list of strings", n)
		}
	}
}

// ignore takes keys that mean nothing here and do no harm.
func (o *object) ignore(keys ...string) {
	o.know(keys...)
}

// unsupported reports keys that Consul knows and that are not supported yet. Empty values, of which the output of
// `consul config read` is full, say nothing and are taken.
func (o *object) unsupported(keys ...string) {
	for _, key := range keys {
		for _, f := range o.fields[canonical(key)] {
			if !f.value.empty() {
				o.problem(f.at, "%s in %s is not supported yet", f.key, o.what)
			}
		}
	}
	o.ignoreSilently(keys...)
}

// ignoreSilently marks keys as asked for without offering them in messages.
func (o *object) ignoreSilently(keys ...string) {
	for _, k := range keys {
		delete(o.fields, canonical(k))
	}
}

// unsupportedPrefix is unsupported of all keys that begin so and that were not asked for yet.
func (o *object) unsupportedPrefix(prefix string) {
	for _, fields := range o.fields {
		for _, f := range fields {
			if strings.HasPrefix(strings.ToLower(f.key), prefix) && !o.knows(f.key) {
				o.unsupported(f.key)
			}
		}
	}
}

// only reports a value of the key that is not one of those allowed, as not supported yet.
func (o *object) only(key string, allowed ...string) {
	if s := o.text(key); s.set && !slices.Contains(allowed, s.value) {
		o.problem(s.at, "%s %.60q in %s is not supported yet", key, s.value, o.what)
	}
}

func (o *object) knows(key string) bool {
	return slices.ContainsFunc(o.known, func(k string) bool { return canonical(k) == canonical(key) })
}

// done reports the keys that nobody asked for.
func (o *object) done() {
	for key, fields := range o.fields {
		if o.knows(key) {
			continue
		}
		for _, f := range fields {
			if near := nearest(f.key, o.known); near != "" {
				o.problem(f.at, "unknown key %.60q in %s: did you mean %s?", f.key, o.what, near)
			} else {
				o.problem(f.at, "unknown key %.60q in %s%s", f.key, o.what, o.hint)
			}
		}
	}
}

// nearest is the candidate that key is most likely a misspelling of; empty if none is near.
func nearest(key string, candidates []string) string {
	k := canonical(key)
	if len(k) > 64 {
		return ""
	}
	best, least := "", 1+min(2, len(k)/3)
	for _, c := range candidates {
		if d := distance(k, canonical(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is how many letters must be changed, added, removed or swapped with their neighbour to make b out of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
