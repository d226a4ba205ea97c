package definition

import (
	"fmt"
	"math"
	"strconv"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// largestNumber bounds numbers that may be fractions.
const largestNumber = 1_000_000

// number is a number, whole or not.
func (d *Decoder) number(key string) Setting[float64] {
	return readValue(d, key, func(n *Node) (f float64, set bool, err error) {
		switch {
		case n.Kind == Integer:
			f = float64(n.Integer)
		case n.Kind == float:
			f = n.Float
		case n.Kind != Text || !d.Weak:
			return 0, false, Mismatch("a number", n)
		case n.Text == "":
			return 0, false, nil
		default:
			if f, err = strconv.ParseFloat(n.Text, 64); err != nil {
				return 0, false, fmt.Errorf("is %.40q, which is not a number", n.Text)
			}
		}
		if math.IsNaN(f) || math.Abs(f) > largestNumber {
			return 0, false, fmt.Errorf("is %g: it must be %d to %d", f, -largestNumber, largestNumber)
		}
		return f, true, nil
	})
}

// texts is a list of strings. One string alone is taken for a list of it.
func (d *Decoder) texts(key string) (list []string) {
	for _, n := range d.Elements(key) {
		if n.Kind != Text {
			d.say(n.At, d.Given(key)[0], "%s %v", d.Given(key)[0].Key, Mismatch("a list of strings", n))
			continue
		}
		list = append(list, n.Text)
	}
	return list
}

// block is one of blocks: what a name that is written says.
type block struct {
	name string
	*Decoder
}

// blocks are the blocks of a key whose value is a mapping of names to blocks, as written. A name that is given twice is a mistake.
func (d *Decoder) blocks(key, what string) (list []block) {
	seen := map[string]Position{}
	for _, f := range d.pairs(key, "a block of named blocks") {
		if first, twice := seen[f.Key]; twice {
			d.say(f.At, f, "%.60q is given twice in %s (first at line %d)", f.Key, key, first.Line)
			continue
		}
		seen[f.Key] = f.At
		c := d.child(f.Value, key, what+" "+strconv.Quote(f.Key))
		if c.At == (Position{}) || f.Value.Kind == Null {
			c.At = f.At
		}
		list = append(list, block{f.Key, c})
	}
	return list
}

// textMap is a mapping of names to strings; nil if there is nothing in it. Names are kept as they are written; one that is given twice is a mistake.
func (d *Decoder) textMap(key string) map[string]string {
	var m map[string]string
	for _, f := range d.pairs(key, "a block of strings") {
		_, twice := m[f.Key]
		switch {
		case twice:
			d.say(f.At, f, "%.60q is given twice in %s", f.Key, key)
			continue
		case f.Value.Kind != Text:
			d.say(f.Value.At, f, "the value of %.60q in %s %v", f.Key, key, Mismatch("a string", f.Value))
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[f.Key] = f.Value.Text
	}
	return m
}

// pairs are the keys of a mapping that is the value of key. HCL has it also as a block, and as that again and again.
func (d *Decoder) pairs(key, want string) (list []*Field) {
	d.Know(key)
	for _, f := range d.Given(key) {
		n := f.Value
		blocks := []*Node{n}
		if n.Kind == List {
			blocks = n.List
		}
		for _, b := range blocks {
			switch b.Kind {
			case Null:
			case Mapping:
				for i := range b.Fields {
					list = append(list, &b.Fields[i])
				}
			case Text, Integer, float, Boolean, List:
				d.wrong(f, "%v", Mismatch(want, b))
			}
		}
	}
	return list
}

// enterprise reports keys that say something which Consul Enterprise alone knows.
func (d *Decoder) enterprise(keys ...string) {
	for _, key := range keys {
		f := d.field(key)
		if f == nil || f.Value.Empty() || f.Value.Kind == Text && f.Value.Text == identity.Default && (sameKey(key, "Namespace") || sameKey(key, "Partition")) {
			continue
		}
		d.say(f.At, f, "%s: Setting %s requires Consul Enterprise, and is not supported", d.where(f), key)
	}
}

// otherService is the name of a service that an entry names beside its own; empty: it names none.
func (d *Decoder) otherService() string {
	s := d.Text("Service")
	if s.Set && !d.Name("Service", s) {
		return ""
	}
	return s.Value
}

// headerModifiers are what is done to the headers of requests or of answers; nil if that says nothing.
func (d *Decoder) headerModifiers(key string) *chain.HeaderModifiers {
	h, ok := d.Child(key, key)
	if !ok {
		return nil
	}
	m := &chain.HeaderModifiers{Add: h.textMap("Add"), Set: h.textMap("Set"), Remove: h.texts("Remove")}
	h.Done()
	if len(m.Add)+len(m.Set)+len(m.Remove) == 0 {
		return nil
	}
	return m
}

// Place is where what the path leads to was written, or as much of it as was: keys, and positions in lists from 0.
func (d *Decoder) Place(path []string) Position {
	at, fields := d.At, d.fields
	var values []*Node // of the last key
	for _, p := range path {
		if i, err := strconv.Atoi(p); err == nil && i >= 0 && i < len(elements(values)) && find(fields, p) == nil {
			values = elements(values)[i : i+1]
			at = values[0].At
		} else {
			given := find(fields, p)
			if len(given) == 0 {
				return at
			}
			at, values = given[0].At, nil
			for _, f := range given {
				values = append(values, f.Value)
			}
		}
		fields = nil
		for _, v := range values {
			inner, _ := v.block()
			fields = append(fields, inner...)
		}
	}
	return at
}

// find are all that is written of a name, or of a key.
func find(fields []*Field, key string) (found []*Field) {
	exact := false
	for _, f := range fields {
		switch {
		case f.Key == key && !exact:
			found, exact = []*Field{f}, true
		case f.Key == key, !exact && sameKey(f.Key, key):
			found = append(found, f)
		}
	}
	return found
}
