package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// MaxDepth bounds how deep values may be nested. The deepest that is meant is below 12.
const MaxDepth = 64

// SyntaxError is a text that cannot be read as what it is said to be.
type SyntaxError struct {
	Line int
	Text string
}

// Error is the text without the line.
func (e *SyntaxError) Error() string { return e.Text }

// Syntax is a SyntaxError in a line, which counts from 1.
func Syntax(line int, format string, args ...any) *SyntaxError {
	return &SyntaxError{Line: max(line, 1), Text: fmt.Sprintf(format, args...)}
}

// jsonReader builds the tree of a JSON text out of the tokens of the standard decoder, which knows
// no duplicate keys and no lines.
type jsonReader struct {
	file    string
	src     []byte
	decoder *json.Decoder
	line    int   // of offset
	offset  int64 // how far lines were counted
}

// ParseJSON reads one JSON value. The positions of its nodes are in file; an empty one: they are
// nowhere.
func ParseJSON(file string, src []byte) (*Node, *SyntaxError) {
	r := &jsonReader{file: file, src: src, decoder: json.NewDecoder(bytes.NewReader(src)), line: 1}
	r.decoder.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, Syntax(r.here(), "more after the end of the JSON value: one file holds one value")
	}
	return n, nil
}

// UnmarshalJSON reads a part of an answer of Consul's API.
func (n *Node) UnmarshalJSON(src []byte) error {
	read, err := ParseJSON("", src)
	if err != nil {
		return err
	}
	*n = *read
	return nil
}

// here is the line where the decoder stands: that of the end of the last token.
func (r *jsonReader) here() int {
	return r.lineOf(r.decoder.InputOffset())
}

func (r *jsonReader) position() Position {
	if r.file == "" {
		return Position{}
	}
	return Position{File: r.file, Line: r.here()}
}

func (r *jsonReader) lineOf(offset int64) int {
	offset = min(max(offset, 0), int64(len(r.src)))
	if offset < r.offset {
		return 1 + bytes.Count(r.src[:offset], []byte("\n"))
	}
	r.line += bytes.Count(r.src[r.offset:offset], []byte("\n"))
	r.offset = offset
	return r.line
}

func (r *jsonReader) token() (json.Token, *SyntaxError) {
	t, err := r.decoder.Token()
	if err == nil {
		return t, nil
	}
	if s := jsonSyntax(r.src); s != nil {
		return nil, s
	}
	return nil, Syntax(r.here(), "%s", err)
}

func (r *jsonReader) value(depth int) (*Node, *SyntaxError) {
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	return r.valueOf(t, depth)
}

func (r *jsonReader) valueOf(t json.Token, depth int) (*Node, *SyntaxError) {
	n := &Node{At: r.position()}
	if depth > MaxDepth && r.file != "" { // what Consul has taken is not refused as a whole
		return nil, Syntax(n.At.Line, "nested more than %d deep", MaxDepth)
	}
	switch t := t.(type) {
	case nil:
	case bool:
		n.Kind, n.Boolean = Boolean, t
	case string:
		n.Kind, n.Text = Text, t
	case json.Number:
		f, err := strconv.ParseFloat(t.String(), 64)
		if err != nil && r.file != "" {
			return nil, Syntax(n.At.Line, "%s is too large a number", t)
		}
		n.Number(f)
	case json.Delim:
		if t == '{' {
			return n, r.object(n, depth)
		}
		return n, r.array(n, depth)
	}
	return n, nil
}

func (r *jsonReader) object(n *Node, depth int) *SyntaxError {
	n.Kind = Mapping
	for {
		t, err := r.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok { // the only other token there can be is the closing brace
			return nil
		}
		f := Field{Key: key, At: r.position()}
		if f.Value, err = r.value(depth + 1); err != nil {
			return err
		}
		if f.Value.Kind == Mapping {
			f.Value.At = f.At
		}
		n.Fields = append(n.Fields, f)
	}
}

func (r *jsonReader) array(n *Node, depth int) *SyntaxError {
	n.Kind = List
	for {
		t, err := r.token()
		if err != nil {
			return err
		}
		if t == json.Delim(']') {
			return nil
		}
		element, err := r.valueOf(t, depth+1)
		if err != nil {
			return err
		}
		n.List = append(n.List, element)
	}
}
