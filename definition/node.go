package definition

import (
	"hash/maphash"
	"strconv"
	"strings"
	"time"
)

// Kind is what a Node holds.
type Kind uint8

// The kinds of nodes.
const (
	Null    Kind = iota
	Text         // a string
	Integer      // a whole number, also where it is written 80.0
	float        // any other number
	Boolean
	List
	Mapping
)

// String is the kind in words for error messages.
func (k Kind) String() string {
	switch k {
	case Text:
		return "a string"
	case Integer:
		return "a number"
	case float:
		return "a fraction"
	case Boolean:
		return "a boolean"
	case List:
		return "a list"
	case Mapping:
		return "a block"
	case Null:
	}
	return "null"
}

// Position is a place in a file. The zero Position is nowhere, which is where all that comes from
// Consul's API is.
type Position struct {
	File string
	Line int // 0: the file as a whole
}

// String is "file:line".
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// ParsePosition is the position whose String is s; of a text that is none it is a file of that name.
func ParsePosition(s string) Position {
	at := strings.LastIndexByte(s, ':')
	line, err := strconv.Atoi(s[at+1:])
	if at < 0 || err != nil || line < 1 {
		return Position{File: s}
	}
	return Position{File: s[:at], Line: line}
}

// Node is a value as it was written, whatever the format. The zero Node is null. Nobody changes a
// Node that is read.
type Node struct {
	Kind    Kind
	Text    string // of Text
	Integer int64
	Float   float64 // of a number that is no whole one
	Boolean bool
	List    []*Node
	Fields  []Field // of a Mapping, in their order. Keys may come twice
	At      Position
}

// Field is one key of a mapping and its value.
type Field struct {
	Key   string
	Value *Node
	At    Position // of the key
}

// Hash adds all of n to h: what is written, and the lines.
func (n *Node) Hash(h *maphash.Hash) {
	maphash.WriteComparable(h, [...]int64{int64(n.Kind), n.Integer, int64(n.At.Line), int64(len(n.List)), int64(len(n.Fields))})
	maphash.WriteComparable(h, n.Text)
	maphash.WriteComparable(h, n.Float)
	if n.Boolean {
		_ = h.WriteByte(1) // which never fails
	}
	for _, e := range n.List {
		e.Hash(h)
	}
	for _, f := range n.Fields {
		maphash.WriteComparable(h, f.Key)
		maphash.WriteComparable(h, f.At.Line)
		f.Value.Hash(h)
	}
}

// Number sets n to a number.
func (n *Node) Number(f float64) {
	if i := int64(f); float64(i) == f && i > -1<<53 && i < 1<<53 {
		n.Kind, n.Integer = Integer, i
		return
	}
	n.Kind, n.Float = float, f
}

// Empty reports whether n says no more than a key that is left out: Consul's own output is full of
// such.
func (n *Node) Empty() bool {
	switch n.Kind {
	case Text:
		return n.Text == ""
	case Integer:
		return n.Integer == 0
	case Boolean:
		return !n.Boolean
	case List:
		return len(n.List) == 0
	case Mapping:
		for _, f := range n.Fields {
			if !f.Value.Empty() {
				return false
			}
		}
		return true
	case float:
		return false
	case Null:
	}
	return true
}

// longestTime bounds times to a year, so that no sum of them overflows.
const longestTime = 365 * 24 * time.Hour

// duration reads "10s" and a number of nanoseconds: Consul writes both. What is empty is 0; ok is
// false for what is no time between 0 and a year.
func (n *Node) duration() (d time.Duration, ok bool) {
	d, ok = n.signedDuration()
	return d, ok && d >= 0
}

// signedDuration is duration for what may be negative, too.
func (n *Node) signedDuration() (d time.Duration, ok bool) {
	switch {
	case n.Kind == Integer:
		d = time.Duration(n.Integer)
	case n.Kind == Text && n.Text != "":
		var err error
		if d, err = time.ParseDuration(n.Text); err != nil {
			return 0, false
		}
	}
	return d, n.Kind <= Integer && d >= -longestTime && d <= longestTime
}
