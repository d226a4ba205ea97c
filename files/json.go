package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

// jsonReader builds the tree of a JSON text out of the tokens of the standard decoder, which knows no duplicate keys and no lines.
type jsonReader struct {
	file    string
	src     []byte
	decoder *json.Decoder
	line    int   // of offset
	offset  int64 // how far lines were counted
}

func parseJSON(file string, src []byte) ([]*node, *syntaxError) {
	r := &jsonReader{file: file, src: src, decoder: json.NewDecoder(bytes.NewReader(src)), line: 1}
	r.decoder.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, syntax(r.here(), "more after the end of the JSON value: one file holds one value")
	}
	return []*node{n}, nil
}

// here is the line where the decoder stands: that of the end of the last token.
func (r *jsonReader) here() int {
	return r.lineOf(r.decoder.InputOffset())
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

func (r *jsonReader) token() (json.Token, *syntaxError) {
	t, err := r.decoder.Token()
	if err == nil {
		return t, nil
	}
	var s *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, syntax(r.lineOf(int64(len(r.src))), "the JSON value is not complete")
	case errors.As(err, &s):
		// The decoder stands before the blanks that precede the offending character.
		return nil, syntax(r.lineOf(r.skipBlanks(s.Offset)), "%s", s.Error())
	}
	return nil, syntax(r.here(), "%s", err)
}

func (r *jsonReader) skipBlanks(offset int64) int64 {
	for offset < int64(len(r.src)) && bytes.IndexByte([]byte(" \t\r\n"), r.src[offset]) >= 0 {
		offset++
	}
	return offset
}

func (r *jsonReader) value(depth int) (*node, *syntaxError) {
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	return r.valueOf(t, depth)
}

func (r *jsonReader) valueOf(t json.Token, depth int) (*node, *syntaxError) {
	n := &node{at: position{file: r.file, line: r.here()}}
	if depth > maxDepth {
		return nil, syntax(n.at.line, "nested more than %d deep", maxDepth)
	}
	switch t := t.(type) {
	case nil:
	case bool:
		n.kind, n.boolean = boolean, t
	case string:
		n.kind, n.text = text, t
	case json.Number:
		f, err := strconv.ParseFloat(t.String(), 64)
		if err != nil {
			return nil, syntax(n.at.line, "%s is too large a number", t)
		}
		n.number(f)
	case json.Delim:
		if t == '{' {
			return n, r.object(n, depth)
		}
		return n, r.array(n, depth)
	}
	return n, nil
}

func (r *jsonReader) object(n *node, depth int) *syntaxError {
	n.kind = mapping
	for {
		t, err := r.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok { // the only other token there can be is the closing brace
			return nil
		}
		f := field{key: key, at: position{file: r.file, line: r.here()}}
		if f.value, err = r.value(depth + 1); err != nil {
			return err
		}
		if f.value.kind == mapping {
			f.value.at = f.at
		}
		n.fields = append(n.fields, f)
	}
}

func (r *jsonReader) array(n *node, depth int) *syntaxError {
	n.kind = list
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
		n.list = append(n.list, element)
	}
}
