package intention

import (
	"regexp"
	"strings"
)

// Request is what permissions look at, as the proxy of the destination has it.
type Request struct {
	Method string
	// Path is that of the request line, with the query.
	Path string
	// Header is the value of a header, whose name is in lower case, and whether there is one; the values of a header that is there
	// several times are joined by ",". Nil: there are no headers. "host" is asked for as ":authority".
	Header func(name string) (value string, ok bool)
	// Tokens are what the good tokens of a request say, their claims as encoding/json has objects, by the provider that has issued them. Good
	// is what the proxy has verified: the signature, the times, the audience and that the issuer is the provider's. Nil: it has brought none.
	Tokens map[string]map[string]any
	// Done is closed when nobody waits for the decision any more, which is then to deny. Nil: it is waited for.
	Done <-chan struct{}
}

// ended reports whether nobody waits any more.
func (r *Request) ended() bool {
	select {
	case <-r.Done:
		return true
	default:
		return false
	}
}

// Names of the texts of a request that are no headers.
const (
	methodText    = ":method"
	pathText      = ":path"
	authorityText = ":authority"
)

func (r *Request) text(of string) (value string, ok bool) {
	switch of {
	case methodText:
		return r.Method, true
	case pathText:
		return r.Path, true
	}
	if r.Header == nil {
		return "", false
	}
	return r.Header(of)
}

// Step is a condition on requests and what holds of those that meet it: all of its clauses hold, of each of which one test does.
type Step struct {
	Action  Action
	Clauses [][]Test
	// Tokens are those of which the request has to have brought one, too; empty: none.
	Tokens []TokenRequirement
	// Permission is which of the intention's it is, counted from 1; 0: the guard, which denies what is no canonical path, or what allows all
	// who have brought the intention's own token.
	Permission int
	// Tokenless: it denies who meets all of a permission but its tokens, in the place of the default.
	Tokenless bool
}

func (s *Step) meets(r *Request) bool {
	if len(s.Tokens) > 0 && !meetsToken(s.Tokens, r) {
		return false
	}
	for _, clause := range s.Clauses {
		if !meetsOne(clause, r) {
			return false
		}
	}
	return true
}

func meetsOne(clause []Test, r *Request) bool {
	for i := range clause {
		if clause[i].meets(r) {
			return true
		}
	}
	return false
}

// Kind is how a Test compares.
type Kind uint8

// The kinds.
const (
	// Exact compares the whole text.
	Exact Kind = iota
	Prefix
	Suffix
	Contains
	// Expression is a regular expression in the syntax of RE2, in which \C is any byte; it has to match the whole text.
	Expression
	// Path is Exact for what a path is before its query, if it has one.
	Path
)

// Test compares one text of a request: ":method", ":path", which has the query, or the value of a header. Of a header that is missing
// none holds but one with Not.
type Test struct {
	Of         string
	Kind       Kind
	Value      string
	IgnoreCase bool // of ASCII letters; not of an Expression
	Not        bool
	expression *regexp.Regexp
	search     *search // instead of expression; nil: there is none
}

// RE2 is the regular expression of an Expression or a Path.
func (t *Test) RE2() string {
	if t.Kind == Path {
		return regexp.QuoteMeta(t.Value) + query
	}
	return t.Value
}

func (t *Test) meets(r *Request) bool {
	text, ok := r.text(t.Of)
	return (ok && t.holds(text)) != t.Not
}

func (t *Test) holds(text string) bool {
	if t.search != nil {
		return t.search.holds(text)
	}
	if t.Kind == Expression {
		return t.expression.MatchString(text)
	}
	if len(text) < len(t.Value) {
		return false
	}
	same := func(a, b string) bool { return a == b || t.IgnoreCase && equalFold(a, b) }
	switch t.Kind {
	case Prefix:
		return same(text[:len(t.Value)], t.Value)
	case Suffix:
		return same(text[len(text)-len(t.Value):], t.Value)
	case Contains:
		if t.IgnoreCase {
			return strings.Contains(lower(text), lower(t.Value))
		}
		return strings.Contains(text, t.Value)
	case Path:
		return text[:len(t.Value)] == t.Value && (len(text) == len(t.Value) || text[len(t.Value)] == '?')
	case Exact, Expression:
	}
	return len(text) == len(t.Value) && same(text, t.Value)
}

// lower is s with its ASCII letters in lower case; other bytes stay, and so does its length.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// equalFold compares without regard to the case of ASCII letters.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// expression makes a test of an expression of which everything is known to be one.
func expression(of, text string) Test {
	return Test{Of: of, Kind: Expression, Value: text, expression: compiled(text)}
}

// compiled is what Go makes of an expression in RE2's syntax, for whole texts. In Go there is no \C; (?s:.) takes each byte of what is
// no UTF-8 as RE2's does, and runs of them are the same.
func compiled(text string) *regexp.Regexp {
	return regexp.MustCompile(`\A(?:` + withoutBytes(text) + `)\z`)
}

// escape is a backslash and what it is about.
var escape = regexp.MustCompile(`(?s)\\.`)

// withoutBytes has (?s:.) in the place of each \C. A backslash before a C that is one itself is none of that.
func withoutBytes(text string) string {
	return escape.ReplaceAllStringFunc(text, func(e string) string {
		if e == `\C` {
			return `(?s:.)`
		}
		return e
	})
}
