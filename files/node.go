package files

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// maxDepth bounds how deep values may be nested. The deepest that is meant is below 12.
const maxDepth = 64

// kind is what a node holds.
type kind uint8

const (
	null    kind = iota
	text         // a string
	integer      // a whole number, also where it is written 80.0
	float        // any other number
	boolean
	list
	mapping
)

// String is the kind in words for error messages.
func (k kind) String() string {
	switch k {
	case text:
		return "a string"
	case integer:
		return "a number"
	case float:
		return "a fraction"
	case boolean:
		return "a boolean"
	case list:
		return "a list"
	case mapping:
		return "a block"
	case null:
	}
	return "null"
}

// node is a value as it stands in a file, whatever the file's format.
type node struct {
	kind    kind
	text    string // of text
	integer int64
	boolean bool
	list    []*node
	fields  []field // of a mapping, in the order of the file. Keys may come twice
	at      position
}

// field is one key of a mapping and its value.
type field struct {
	key   string
	value *node
	at    position // of the key
}

// number sets n to a number.
func (n *node) number(f float64) {
	if i := int64(f); float64(i) == f && i > -1<<53 && i < 1<<53 {
		n.kind, n.integer = integer, i
		return
	}
	n.kind = float
}

// empty reports whether n says no more than a key that is left out: Consul's own output is full of such.
func (n *node) empty() bool {
	switch n.kind {
	case text:
		return n.text == ""
	case integer:
		return n.integer == 0
	case boolean:
		return !n.boolean
	case list:
		return len(n.list) == 0
	case mapping:
		for _, f := range n.fields {
			if !f.value.empty() {
				return false
			}
		}
		return true
	case float:
		return false
	case null:
	}
	return true
}

// syntaxError is a file that cannot be read as what its name says it is.
type syntaxError struct {
	line int
	text string
}

func syntax(line int, format string, args ...any) *syntaxError {
	return &syntaxError{line: max(line, 1), text: fmt.Sprintf(format, args...)}
}

// parse reads the documents of a file. The format follows from the file's name, but a file .hcl may hold JSON, as with
// Consul's agent.
func parse(file string, src []byte) ([]*node, *syntaxError) {
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	for line, rest := 1, src; ; line++ {
		head, after, more := bytes.Cut(rest, []byte("\n"))
		if !utf8.Valid(head) {
			return nil, syntax(line, "is not valid UTF-8")
		}
		if bytes.IndexByte(head, 0) >= 0 {
			return nil, syntax(line, "holds a zero byte")
		}
		if !more {
			break
		}
		rest = after
	}
	trimmed := bytes.TrimSpace(src)
	if len(trimmed) == 0 {
		// What an interrupted write leaves behind must not pass for a mesh without services.
		return nil, syntax(1, "the file is empty: remove it, or leave a comment in it if that is meant")
	}
	switch format(file) {
	case "json":
		return parseJSON(file, src)
	case "yaml":
		return parseYAML(file, src)
	default:
		if trimmed[0] == '{' {
			return parseJSON(file, src)
		}
		return parseHCL(file, src)
	}
}
