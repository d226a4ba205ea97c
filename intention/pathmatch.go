package intention

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
)

// Paths are compared as they came, as what normalises them stands in the listener, which a first rule that looks at paths would have to
// change: that ends connections, and those of before would bring their paths unnormalised to the new rules. So where a rule looks at
// paths, the first one refuses every path that some server reads as another one: an empty segment but the last, segments "." and "..",
// "\", ";", "#", what is not visible ASCII; encoded, what needs no encoding (RFC 3986, 2.3), "/", "\", ";", control characters, bytes that
// are in no UTF-8, and "%" that encodes nothing. The query is free.
const (
	// plain is a character of a segment but ".".
	plain = `[!"$&-\-0-:<->@-\[\]-~]`
	// encoded is one that is encoded, and may be.
	encoded = `%(?:2[0-9A-Ca-c]|3[AC-Fac-f]|40|5[BDEbde]|60|7[B-Db-d]|[89ABab][0-9A-Fa-f]|[Cc][2-9A-Fa-f]|[Dd][0-9A-Fa-f]|[Ee][1-9A-Fa-f]|[Ee]0%[ABab][0-9A-Fa-f]|[Ff][1-4]|[Ff]0%[9ABab][0-9A-Fa-f])`
	other   = `(?:` + plain + `|` + encoded + `)`
	segment = `(?:[.]{0,2}` + other + `|[.]{3})(?:[.]|` + other + `)*`

	canonicalPath = `(?:/` + segment + `)*/(?:` + segment + `)?`
	query         = `(?:[?]\C*)?`
)

// guard is the first step where a permission looks at paths.
var guard = Step{Action: Deny, Clauses: [][]Test{{not(expression(pathText, canonicalPath+query))}}}

var pathOnly = compiled(canonicalPath)

func not(t Test) Test {
	t.Not = !t.Not
	return t
}

// pathChars are those of canonical paths, as pairs of first and last.
var pathChars = []rune{'!', '"', '$', ':', '<', '>', '@', '[', ']', '~'}

// maxExpression is how long a regular expression may be, in bytes, and maxProgram how many instructions it may come to: some ten
// times what RE2 takes a warning for.
const (
	maxExpression = 1024
	maxProgram    = 2000
)

// pathTests are the clauses of a permission's path.
func (p *Permission) pathTests() ([][]Test, error) {
	switch {
	case strings.ContainsAny(p.PathExact+p.PathPrefix, "?#;\\"): // else it could be met by what is in the query
		return [][]Test{{}}, nil
	case p.PathExact != "":
		if re, more, err := p.spellings(p.PathExact, false); err != nil {
			return nil, fmt.Errorf("PathExact %.100q %w", p.PathExact, err)
		} else if more {
			return [][]Test{{expression(pathText, re+query)}}, nil
		}
		return [][]Test{{{Of: pathText, Kind: Path, Value: p.PathExact}}}, nil
	case p.PathPrefix != "":
		if re, more, err := p.spellings(p.PathPrefix, true); err != nil {
			return nil, fmt.Errorf("PathPrefix %.100q %w", p.PathPrefix, err)
		} else if more {
			return [][]Test{{expression(pathText, re+anyValue)}}, nil
		}
		return [][]Test{{{Of: pathText, Kind: Prefix, Value: p.PathPrefix}}}, nil
	case p.PathRegex != "":
		var changes []func(*syntax.Regexp) *syntax.Regexp
		if p.Action == Deny {
			changes = append(changes, spelled)
		}
		re, err := reduced(p.PathRegex, pathChars, changes...)
		if err != nil {
			return nil, fmt.Errorf("PathRegex %.100q %w", p.PathRegex, err)
		}
		return [][]Test{{expression(pathText, "(?:"+re+")"+query)}}, nil
	}
	return nil, nil
}

// Met reports whether there is a path that the permission's own condition on paths can hold of. None is that is not canonical.
func (p *Permission) Met() bool {
	switch {
	case p.PathExact != "":
		return pathOnly.MatchString(p.PathExact)
	case p.PathPrefix != "":
		for _, rest := range []string{"", "x", "20", "0", "a0", "0%a0"} { // it may end within what is encoded
			if pathOnly.MatchString(p.PathPrefix + rest) {
				return true
			}
		}
		return false
	}
	return true
}

// reduced is an expression in which everything that takes characters takes those of chars alone, and without anchors at its ends, as it
// has to match a whole text anyway, and changed besides. It means the same to Go and to RE2.
func reduced(text string, chars []rune, changes ...func(*syntax.Regexp) *syntax.Regexp) (string, error) {
	if len(text) > maxExpression {
		return "", fmt.Errorf("has %d bytes, and %d are the most", len(text), maxExpression)
	}
	r, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return "", fmt.Errorf("is no regular expression: %w", err)
	}
	if r, err = cut(trim(r), chars); err != nil {
		return "", err
	}
	for _, change := range changes {
		r = change(r)
	}
	out := r.String()
	again, err := syntax.Parse(out, syntax.Perl)
	if err != nil {
		return "", fmt.Errorf("is no regular expression: %w", err)
	}
	program, err := syntax.Compile(again.Simplify())
	switch {
	case err != nil:
		return "", fmt.Errorf("is no regular expression: %w", err)
	case len(program.Inst) > maxProgram:
		return "", fmt.Errorf("is too large: it comes to %d instructions, and %d are the most: repeat less, or write several permissions", len(program.Inst), maxProgram)
	}
	return out, nil
}

// trim takes away anchors at the ends.
func trim(r *syntax.Regexp) *syntax.Regexp {
	switch r.Op { //nolint:exhaustive // nothing else has ends
	case syntax.OpBeginText, syntax.OpEndText:
		return &syntax.Regexp{Op: syntax.OpEmptyMatch}
	case syntax.OpConcat:
		for len(r.Sub) > 0 && r.Sub[0].Op == syntax.OpBeginText {
			r.Sub = r.Sub[1:]
		}
		for len(r.Sub) > 0 && r.Sub[len(r.Sub)-1].Op == syntax.OpEndText {
			r.Sub = r.Sub[:len(r.Sub)-1]
		}
		if len(r.Sub) == 0 {
			return &syntax.Regexp{Op: syntax.OpEmptyMatch}
		}
	case syntax.OpCapture:
		r.Sub[0] = trim(r.Sub[0])
	case syntax.OpAlternate:
		for i := range r.Sub {
			r.Sub[i] = trim(r.Sub[i])
		}
	}
	return r
}

var errAnchor = errors.New("has an anchor or \\b inside: it has to match the whole text, so leave them away")

// cut changes r.
func cut(r *syntax.Regexp, chars []rune) (*syntax.Regexp, error) {
	switch r.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return &syntax.Regexp{Op: syntax.OpCharClass, Rune: chars}, nil
	case syntax.OpCharClass:
		var of []rune
		for i := 0; i < len(r.Rune); i += 2 {
			for j := 0; j < len(chars); j += 2 {
				if first, last := max(r.Rune[i], chars[j]), min(r.Rune[i+1], chars[j+1]); first <= last {
					of = append(of, first, last)
				}
			}
		}
		if of == nil {
			return &syntax.Regexp{Op: syntax.OpNoMatch}, nil
		}
		return &syntax.Regexp{Op: syntax.OpCharClass, Rune: of}, nil
	case syntax.OpLiteral:
		for _, c := range r.Rune {
			if !within(c, chars) {
				return &syntax.Regexp{Op: syntax.OpNoMatch}, nil
			}
		}
	case syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return nil, errAnchor
	case syntax.OpCapture: // nobody asks what it took, and RE2 is faster without
		return cut(r.Sub[0], chars)
	case syntax.OpNoMatch, syntax.OpEmptyMatch, syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat, syntax.OpConcat, syntax.OpAlternate:
	default:
		return nil, fmt.Errorf("has what is not known: %s", r.Op)
	}
	for i := range r.Sub {
		s, err := cut(r.Sub[i], chars)
		if err != nil {
			return nil, err
		}
		r.Sub[i] = s
	}
	return r, nil
}

func within(c rune, chars []rune) bool {
	for i := 0; i < len(chars); i += 2 {
		if chars[i] <= c && c <= chars[i+1] {
			return true
		}
	}
	return false
}
