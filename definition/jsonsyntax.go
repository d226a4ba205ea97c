package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

const jsonBlanks = " \t\r\n"

// jsonSyntax says in plain words why src is not JSON; nil if it is. The standard library names the
// character that it did not expect, which is seldom the one to mend.
func jsonSyntax(src []byte) *SyntaxError {
	var value json.RawMessage
	s, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(src, &value))
	if !ok || s.Offset < 1 {
		return nil
	}
	at := int(s.Offset) - 1
	wrong, before := src[at], bytes.TrimRight(src[:at], jsonBlanks)
	if at == len(src)-1 && strings.HasPrefix(s.Error(), "unexpected end") {
		return Syntax(lineAt(src, len(src)), "the JSON value is not complete")
	}
	last := byte(0)
	if len(before) > 0 {
		last = before[len(before)-1]
	}
	switch closing := wrong == '}' || wrong == ']'; {
	case last == ',' && closing:
		return Syntax(lineAt(src, len(before)), "a comma before %c: JSON has none after the last one: remove it", wrong)
	case wrong == ',' && strings.IndexByte(",{[", last) >= 0:
		return Syntax(lineAt(src, at), "a comma with nothing before it: remove it")
	case wrong == '/' || wrong == '#':
		return Syntax(lineAt(src, at), "JSON has no comments: remove it, or write the file as HCL or YAML")
	case wrong == '\'':
		return Syntax(lineAt(src, at), `' where JSON has "`)
	case wrong == '\n' || wrong == '\r':
		return Syntax(lineAt(src, at), "a string is not closed at the end of the line")
	case wrong == '\t':
		return Syntax(lineAt(src, at), `a tab inside of a string: write it as \t`)
	case strings.Contains(s.Error(), "after object key:value pair"), strings.Contains(s.Error(), "after array element"):
		if wrong == '}' || wrong == ']' || wrong == ':' {
			break
		}
		return Syntax(lineAt(src, len(before)), "a comma is missing before %s", excerpt(src[at:]))
	case strings.HasSuffix(s.Error(), "after object key") && wrong == '=':
		return Syntax(lineAt(src, at), "= where JSON has a colon")
	case strings.HasSuffix(s.Error(), "after object key"):
		return Syntax(lineAt(src, len(before)), "a colon is missing before %s", excerpt(src[at:]))
	case strings.Contains(s.Error(), "beginning of object key"):
		return Syntax(lineAt(src, at), "%s: a key has to be in double quotes", excerpt(src[at:]))
	}
	return Syntax(lineAt(src, at), "%s", s.Error())
}

// lineAt is the line of what follows offset bytes.
func lineAt(src []byte, offset int) int { return 1 + bytes.Count(src[:offset], []byte("\n")) }

// excerpt is how b begins, as far as its line goes and messages stay short.
func excerpt(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	words := strings.ToValidUTF8(strings.TrimRight(string(line), jsonBlanks+",{["), "")
	if len(words) > 40 {
		words = strings.ToValidUTF8(words[:40], "") + "…"
	}
	if words == "" {
		return string(b[:1])
	}
	return words
}
