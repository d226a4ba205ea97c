package definition

import (
	"math"
	"strconv"
)

// Shape is how Consul's API spells the fields of a block, and of what type they are, so that what is written in any of the spellings
// that files take can be told as the API tells it.
type Shape []ShapeField

// ShapeField is one field of a Shape.
type ShapeField struct {
	Name string
	Type ShapeType
	Of   Shape // of ShapedBlock and ShapedBlocks
	// Fill is there whatever is written.
	Fill any
	// Zero tells a zero that is written, too: Consul tells it from "not set".
	Zero bool
}

// ShapeType is the type of a field.
type ShapeType uint8

// The types of fields.
const (
	shapedText ShapeType = iota // the type of a field that says none
	ShapedInteger
	ShapedBoolean
	ShapedTime     // a number of nanoseconds, however it is written
	ShapedBlock    // of a shape
	ShapedBlocks   // a list of blocks
	ShapedOpaque   // as it is written
	ShapedNumber   // whole or not
	ShapedDuration // a text like "1m0s", however it is written
	ShapedTexts    // a list of texts
	ShapedIntegers // a list of whole numbers
	ShapedPairs    // a mapping of names to texts
	ShapedNamed    // a mapping of names to blocks
)

// Written is what is written in d of the fields of s, as encoding/json takes it. It is to be called before anything is dropped. Of what
// is not of its type, which is reported elsewhere, nothing is told.
func (d *Decoder) Written(s Shape) map[string]any {
	return s.of(d.fields)
}

func (s Shape) of(fields []*Field) map[string]any {
	out := map[string]any{}
	for _, f := range s {
		if f.Fill != nil {
			out[f.Name] = f.Fill
		}
		var given []*Node
		for _, g := range fields {
			if sameKey(g.Key, f.Name) && g.Value.Kind != Null {
				given = append(given, g.Value)
			}
		}
		if v, ok := f.value(given); ok {
			out[f.Name] = v
		}
	}
	return out
}

// value is what was given of the field; ok is false if that says nothing.
func (f ShapeField) value(given []*Node) (v any, ok bool) {
	if len(given) == 0 {
		return nil, false
	}
	n := given[0]
	switch f.Type {
	case shapedText:
		return n.Text, n.Kind == Text && n.Text != ""
	case ShapedInteger:
		i := n.Integer
		if n.Kind == Text {
			var err error
			if i, err = strconv.ParseInt(n.Text, 10, 64); err != nil {
				return nil, false
			}
		}
		return i, (n.Kind == Integer || n.Kind == Text) && (i != 0 || f.Zero)
	case ShapedBoolean:
		is := n.Kind == Boolean && n.Boolean || n.Kind == Text && n.Text == "true"
		return is, is || f.Zero
	case ShapedTime:
		t, ok := n.duration()
		return t.Nanoseconds(), ok && (t != 0 || f.Zero && n.Kind != Text)
	case ShapedNumber:
		return f.number(n)
	case ShapedDuration:
		t, ok := n.signedDuration()
		return t.String(), ok && t != 0
	case ShapedTexts, ShapedIntegers:
		of := ShapeField{Type: shapedText}
		if f.Type == ShapedIntegers {
			of = ShapeField{Type: ShapedInteger, Zero: true}
		}
		list := []any{}
		for _, e := range elements(given) {
			if v, ok := of.value([]*Node{e}); ok {
				list = append(list, v)
			}
		}
		return list, len(list) > 0
	case ShapedPairs, ShapedNamed:
		return f.named(elements(given))
	case ShapedOpaque:
		m, isMap := n.value().(map[string]any)
		return m, isMap && len(m) > 0
	case ShapedBlock:
		if block, isBlock := n.block(); isBlock {
			return f.Of.of(block), true
		}
	case ShapedBlocks:
		list := []any{}
		for _, e := range elements(given) {
			if block, isBlock := e.block(); isBlock {
				list = append(list, f.Of.of(block))
			}
		}
		return list, len(list) > 0
	}
	return nil, false
}

// elements are those of lists, and what is no list itself.
func elements(given []*Node) (all []*Node) {
	for _, n := range given {
		if n.Kind == List {
			all = append(all, n.List...)
		} else {
			all = append(all, n)
		}
	}
	return all
}

func (f ShapeField) number(n *Node) (v any, ok bool) {
	x := n.Float
	switch n.Kind {
	case Integer:
		x = float64(n.Integer)
	case Text:
		var err error
		if x, err = strconv.ParseFloat(n.Text, 64); err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, false
		}
	case float:
	case Null, Boolean, List, Mapping:
		return nil, false
	}
	return x, x != 0 || f.Zero
}

// named are the fields of mappings: texts, or blocks.
func (f ShapeField) named(mappings []*Node) (v any, ok bool) {
	m := map[string]any{}
	for _, n := range mappings {
		block, _ := n.block()
		for _, g := range block {
			if inner, isBlock := g.Value.block(); isBlock && f.Type == ShapedNamed {
				m[g.Key] = f.Of.of(inner)
			} else if g.Value.Kind == Text && f.Type == ShapedPairs {
				m[g.Key] = g.Value.Text
			} else if g.Value.Kind == Null && f.Type == ShapedNamed {
				m[g.Key] = map[string]any{}
			}
		}
	}
	return m, len(m) > 0
}

// block are the fields of n, which is a block or a list of one, as HCL has it.
func (n *Node) block() (fields []*Field, ok bool) {
	if n.Kind == List && len(n.List) == 1 {
		n = n.List[0]
	}
	if n.Kind != Mapping {
		return nil, false
	}
	for i := range n.Fields {
		fields = append(fields, &n.Fields[i])
	}
	return fields, true
}

// value is n as encoding/json has values. Of a key that is given twice the last one counts, and a list of one block is the block.
func (n *Node) value() any {
	switch n.Kind {
	case Text:
		return n.Text
	case Integer:
		return n.Integer
	case Boolean:
		return n.Boolean
	case List:
		if len(n.List) == 1 && n.List[0].Kind == Mapping {
			return n.List[0].value()
		}
		list := make([]any, len(n.List))
		for i, e := range n.List {
			list[i] = e.value()
		}
		return list
	case Mapping:
		m := make(map[string]any, len(n.Fields))
		for _, f := range n.Fields {
			m[f.Key] = f.Value.value()
		}
		return m
	case float:
		return n.Float
	case Null:
	}
	return nil
}
