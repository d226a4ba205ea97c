package definition

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Setting is a value that may not be set, and where it was. Consul tells "not set" from zero.
type Setting[T any] struct {
	Set   bool
	Value T
	At    Position
}

// Or is s if it is set, else t.
func (s Setting[T]) Or(t Setting[T]) Setting[T] {
	if s.Set {
		return s
	}
	return t
}

// Else is the value if it is set, else v.
func (s Setting[T]) Else(v T) T {
	if s.Set {
		return s.Value
	}
	return v
}

// Mistake is something that was written and is not understood.
type Mistake struct {
	At Position
	// Field is the key that it is about; nil: it is about a block as a whole.
	Field *Field
	// Text says what is wrong, and how to mend it or, of a lenient Reader, what comes of it.
	Text string
}

// Reader is one reading: its mode, and who is told of mistakes.
type Reader struct {
	// Lenient is for what others have taken already: a key that nobody asks for is somebody else's,
	// numbers and booleans may be text, and a Mistake has the path of its key instead of a
	// Position.
	Lenient bool
	// Report is called for each mistake; never nil.
	Report func(Mistake)
	// Volatile says that something that was read depends on more than what was written.
	Volatile bool
}

// Decoder reads the keys of one mapping. It remembers which it was asked for, so that Done can tell
// the unknown ones.
type Decoder struct {
	*Reader
	What string // for messages: "upstream"
	At   Position
	// Within is where in its entry it is, as Consul's messages have it: "Sources[0]". Empty: nobody says.
	Within string
	// Hint is said of an unknown key that resembles none.
	Hint string
	// Broken says that there was no mapping to read.
	Broken bool
	// Weak takes numbers and booleans that are written as strings too, and times that are written
	// as numbers, as Consul does in config entries and in the opaque maps called config.
	Weak bool

	fields  []*Field
	known   []string // keys that were asked for, as documentation spells them
	missing []lack   // keys that Done is to report as missing
	faults  []string // keys about which a mistake was reported
	path    string   // of a lenient Reader: "config.limits."
	instead string   // of a lenient Reader: what comes of a mistake
}

// canonical is what the spellings of one key have in common: Consul takes destination_name,
// DestinationName and destinationname.
func canonical(key string) string {
	return strings.ToLower(strings.ReplaceAll(key, "_", ""))
}

// sameKey reports whether a and b are spellings of one key. It makes no strings of most, for every
// key that is read is compared with all that are written beside it.
func sameKey(a, b string) bool {
	for {
		a, b = strings.TrimLeft(a, "_"), strings.TrimLeft(b, "_")
		if a == "" || b == "" {
			return a == b
		}
		x, y := a[0], b[0]
		if x >= utf8.RuneSelf || y >= utf8.RuneSelf {
			return canonical(a) == canonical(b)
		}
		if lower(x) != lower(y) {
			return false
		}
		a, b = a[1:], b[1:]
	}
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Decoder returns the decoder of n, which what says what it is. HCL has no way to tell a block from
// a list of one block, so either is taken. If n is something else that is a mistake and the decoder
// is empty; it is also if n is nil or null.
func (r *Reader) Decoder(n *Node, what string) *Decoder {
	d := &Decoder{Reader: r, What: what, Weak: r.Lenient, instead: "it is not taken"}
	if what != "" {
		d.path = what + "."
	}
	d.read(n)
	return d
}

func (d *Decoder) read(n *Node) {
	if n == nil {
		return
	}
	d.At = n.At
	if n.Kind == Null {
		return
	}
	if n.Kind == List && len(n.List) == 1 {
		n = n.List[0]
	}
	if n.Kind != Mapping {
		d.Broken = true
		what := d.What
		if d.Lenient {
			what = strings.TrimSuffix(d.path, ".")
		}
		d.say(n.At, nil, "%s must be a block, not %s", what, n.Kind)
		return
	}
	d.fields = make([]*Field, len(n.Fields))
	for i := range n.Fields {
		d.fields[i] = &n.Fields[i]
	}
}

// Mistake reports what no key alone is to blame for.
func (d *Decoder) Mistake(at Position, format string, args ...any) {
	d.say(at, nil, format, args...)
}

func (d *Decoder) say(at Position, f *Field, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if d.Lenient {
		text += ": " + d.instead
	}
	if f != nil {
		d.Blame(f.Key)
	}
	d.Report(Mistake{At: at, Field: f, Text: text})
}

// wrong reports the value of a key; the text goes on after the key.
func (d *Decoder) wrong(f *Field, format string, args ...any) {
	d.say(f.Value.At, f, "%s "+format, append([]any{d.key(f)}, args...)...)
}

// key is a key as it was written, of a lenient Reader with its path.
func (d *Decoder) key(f *Field) string {
	if d.Lenient {
		return d.path + f.Key
	}
	return f.Key
}

// where is a key and what it stands in.
func (d *Decoder) where(f *Field) string {
	if d.Lenient {
		return d.key(f)
	}
	return f.Key + " in " + d.What
}

// field is a key that is given at most once; nil if it is not given or null.
func (d *Decoder) field(key string) *Field {
	d.Know(key)
	var first *Field
	for _, f := range d.fields {
		switch {
		case !sameKey(f.Key, key):
			continue
		case first == nil:
			first = f
			continue
		}
		if d.Lenient {
			d.say(f.At, f, "%s is given twice (first as %s)", d.key(f), first.Key)
		} else {
			d.say(f.At, f, "%s is given twice in %s (first at line %d)", f.Key, d.What, first.At.Line)
		}
	}
	if first == nil || first.Value.Kind == Null {
		return nil
	}
	return first
}

// Field is the value of a key that is given at most once; nil if it is not given or null.
func (d *Decoder) Field(key string) *Node {
	if f := d.field(key); f != nil {
		return f.Value
	}
	return nil
}

// Fields are all that is written.
func (d *Decoder) Fields() []*Field { return d.fields }

// Given is all that is written of a key, however often.
func (d *Decoder) Given(key string) (given []*Field) {
	for _, f := range d.fields {
		if sameKey(f.Key, key) {
			given = append(given, f)
		}
	}
	return given
}

// Know marks keys as known, so that Done offers them for those that are misspelt.
func (d *Decoder) Know(keys ...string) {
	if d.known == nil {
		d.known = make([]string, 0, 16) // as many as most are asked for
	}
	for _, k := range keys {
		if !slices.Contains(d.known, k) {
			d.known = append(d.known, k)
		}
	}
}

// readValue is the value of a key as parse reads it. The text of parse's error goes on after the
// key: "must be a string, not a number".
func readValue[T any](
	d *Decoder, key string, parse func(*Node) (value T, set bool, err error),
) (s Setting[T]) {
	f := d.field(key)
	if f == nil {
		return s
	}
	v, set, err := parse(f.Value)
	if err != nil {
		d.wrong(f, "%s", err)
		return s
	}
	return Setting[T]{set, v, f.Value.At}
}

// readText is readValue for what is written as a string. The empty one counts as not set, as
// everywhere in Consul.
func readText[T any](d *Decoder, key string, parse func(string) (T, error)) Setting[T] {
	return readValue(d, key, func(n *Node) (value T, set bool, err error) {
		switch {
		case n.Kind != Text:
			return value, false, Mismatch("a string", n)
		case n.Text != "":
			value, err = parse(n.Text)
		}
		return value, n.Text != "", err
	})
}

// Mismatch is the error of a value of the wrong type.
func Mismatch(want string, n *Node) error { return fmt.Errorf("must be %s, not %s", want, n.Kind) }

// Text is a string.
func (d *Decoder) Text(key string) Setting[string] {
	return readText(d, key, func(s string) (string, error) { return s, nil })
}

// Integer is a whole number of the range.
func (d *Decoder) Integer(key string, least, most int64) Setting[int64] {
	return readValue(d, key, func(n *Node) (i int64, set bool, err error) {
		switch {
		case n.Kind == Integer:
			i = n.Integer
		case n.Kind != Text || !d.Weak:
			return 0, false, Mismatch("a whole number", n)
		case n.Text == "":
			return 0, false, nil
		default:
			if i, err = strconv.ParseInt(n.Text, 10, 64); err != nil {
				return 0, false, fmt.Errorf("is %.40q, which is not a whole number", n.Text)
			}
		}
		if i < least || i > most {
			return 0, false, fmt.Errorf("is %d: it must be %d to %d", i, least, most)
		}
		return i, true, nil
	})
}

// Port is a port number.
func (d *Decoder) Port(key string) Setting[uint16] {
	s := d.Integer(key, 1, 65535)
	return Setting[uint16]{s.Set, uint16(s.Value), s.At} //nolint:gosec // within the range
}

// Boolean is true or false.
func (d *Decoder) Boolean(key string) Setting[bool] {
	return readValue(d, key, func(n *Node) (value, set bool, err error) {
		switch {
		case n.Kind == Boolean:
			return n.Boolean, true, nil
		case n.Kind == Text && d.Weak && (n.Text == "true" || n.Text == "false" || n.Text == ""):
			return n.Text == "true", n.Text != "", nil
		}
		return false, false, Mismatch("true or false", n)
	})
}

// milliseconds is a time as a number.
func (d *Decoder) milliseconds(key string) Setting[time.Duration] {
	s := d.Integer(key, 0, longestTime.Milliseconds())
	return Setting[time.Duration]{s.Set, time.Duration(s.Value) * time.Millisecond, s.At}
}

// Duration is a time with its unit: "10s". Zero counts as not set. Consul prints times as
// nanoseconds, so where Weak is set a number is taken too, unless it can only be meant as another
// unit.
func (d *Decoder) Duration(key string) Setting[time.Duration] {
	return d.duration(key, (*Node).duration)
}

// signedDuration is Duration for what may be negative, too.
func (d *Decoder) signedDuration(key string) Setting[time.Duration] {
	return d.duration(key, (*Node).signedDuration)
}

func (d *Decoder) duration(key string, of func(*Node) (time.Duration, bool)) Setting[time.Duration] {
	return readValue(d, key, func(n *Node) (time.Duration, bool, error) {
		v, ok := of(n)
		switch {
		case n.Kind == Integer && v != 0 && !d.Weak, !ok && n.Kind != Text && n.Kind != Integer:
			return 0, false, Mismatch(`a string with a unit, like "10s"`, n)
		case n.Kind == Integer && !d.Lenient && (!ok || v > 0 && v < time.Millisecond):
			return 0, false, fmt.Errorf(`is %d, and a number counts nanoseconds: write a time like "500ms" or "10s"`, n.Integer)
		case !ok:
			return 0, false, fmt.Errorf(`is %.40q: it must be a time like "500ms" or "10s"`, cmp.Or(n.Text, strconv.FormatInt(n.Integer, 10)))
		}
		return v, v != 0, nil
	})
}

// Child is the block of a key; ok is false if there is none that can be read.
func (d *Decoder) Child(key, what string) (c *Decoder, ok bool) {
	n := d.Field(key)
	c = d.child(n, key, what)
	return c, n != nil && !c.Broken
}

// Children are the blocks of a key: a list of them, one alone, or the key again and again as HCL
// has it.
func (d *Decoder) Children(key, what string) []*Decoder {
	var out []*Decoder
	for _, n := range d.Elements(key) {
		out = append(out, d.child(n, key, what))
	}
	return out
}

func (d *Decoder) child(n *Node, key, what string) *Decoder {
	c := &Decoder{Reader: d.Reader, What: what, Weak: d.Weak, instead: d.instead}
	if d.Lenient {
		c.path = d.path + key + "."
	}
	c.read(n)
	return c
}

// Elements are the values of a key that is a list, or one alone, or given again and again.
func (d *Decoder) Elements(key string) []*Node {
	d.Know(key)
	fields := d.Given(key)
	var out []*Node
	for _, f := range fields {
		switch {
		case len(fields) > 1 && f.Value.Kind != Mapping:
			d.say(f.At, f, "%s is given more than once in %s: write one list", f.Key, d.What)
		case f.Value.Kind == Null:
		case f.Value.Kind == List:
			for _, n := range f.Value.List {
				if n.Kind != Null || !d.Lenient {
					out = append(out, n)
				}
			}
		default:
			out = append(out, f.Value)
		}
	}
	return out
}

// Unsupported reports keys that Consul knows and that are not supported yet. Empty values, of which
// the output of `consul config read` is full, say nothing and are taken.
func (d *Decoder) Unsupported(keys ...string) {
	for _, key := range keys {
		for _, f := range d.Given(key) {
			if !f.Value.Empty() {
				d.say(f.At, f, "%s is not supported yet", d.where(f))
			}
		}
	}
	d.Drop(keys...)
}

// Take drops keys and returns those of them that say something, as they were written.
func (d *Decoder) Take(keys ...string) (given []string) {
	for _, key := range keys {
		for _, f := range d.Given(key) {
			if !f.Value.Empty() {
				given = append(given, f.Key)
			}
		}
	}
	d.Drop(keys...)
	return given
}

// Drop takes keys without offering them in messages.
func (d *Decoder) Drop(keys ...string) {
	for _, k := range keys {
		d.fields = slices.DeleteFunc(d.fields, func(f *Field) bool { return sameKey(f.Key, k) })
	}
}

// unsupportedPrefix is Unsupported of all keys that begin so and that were not asked for yet,
// sorted.
func (d *Decoder) unsupportedPrefix(prefix string) {
	var keys []string
	for _, f := range d.fields {
		if strings.HasPrefix(strings.ToLower(f.Key), prefix) && !d.knows(f.Key) {
			keys = append(keys, f.Key)
		}
	}
	slices.Sort(keys)
	d.Unsupported(keys...)
}

// Only reports a value of the key that is not one of those allowed, as not supported yet.
func (d *Decoder) Only(key string, allowed ...string) {
	if s := d.Text(key); s.Set && !slices.Contains(allowed, s.Value) {
		f := d.field(key)
		d.say(s.At, f, "%s %.60q in %s is not supported yet", f.Key, s.Value, d.What)
	}
}

func (d *Decoder) knows(key string) bool {
	return slices.ContainsFunc(d.known, func(k string) bool { return sameKey(k, key) })
}
