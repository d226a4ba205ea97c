package intention

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
)

// Of one path the guard lets several spellings by: the digits of an escape in either case, and what is reserved (RFC 3986, 2.2, and what
// the guard takes besides) plain or encoded. Servers read them alike, most of them, so what denies one denies all of them. What allows
// one allows it alone: a server may tell them apart.

// maxSpelled is how long a path of a denying permission may be, in bytes, if it has other spellings: it becomes some ten instructions a byte.
const maxSpelled = 4096

const hexDigits = "0123456789ABCDEFabcdef"

// asciiSet is a set of ASCII characters.
type asciiSet [128]bool

func setOf(chars string) (s asciiSet) {
	for i := range len(chars) {
		s[chars[i]] = true
	}
	return s
}

// reserved are the characters that the guard takes plain and encoded.
var reserved = func() (s asciiSet) {
	for c := range s {
		s[c] = pathOnly.MatchString("/x"+string(rune(c))) && pathOnly.MatchString(fmt.Sprintf("/x%%%02X", c))
	}
	return s
}()

func (s *asciiSet) has(c byte) bool { return int(c) < len(s) && s[c] }

// runes are the characters of s, as pairs of first and last.
func (s *asciiSet) runes() (pairs []rune) {
	for c := range s {
		switch {
		case !s[c]:
		case c > 0 && s[c-1]:
			pairs[len(pairs)-1] = rune(c)
		default:
			pairs = append(pairs, rune(c), rune(c))
		}
	}
	return pairs
}

// single is the only character of s.
func (s *asciiSet) single() (c rune, ok bool) {
	r := s.runes()
	if len(r) != 2 || r[0] != r[1] {
		return 0, false
	}
	return r[0], true
}

// is reports whether s has c alone.
func (s *asciiSet) is(c rune) bool {
	only, ok := s.single()
	return ok && only == c
}

// digits are the hexadecimal digits of s, in both cases.
func (s *asciiSet) digits() (d asciiSet, any bool) {
	for i := range len(hexDigits) {
		if c := hexDigits[i]; s[c] {
			any = true
			for _, same := range lower(string(c)) + strings.ToUpper(string(c)) {
				d[same] = true
			}
		}
	}
	return d, any
}

func (s *asciiSet) includes(o asciiSet) bool {
	for c := range o {
		if o[c] && !s[c] {
			return false
		}
	}
	return true
}

func (s *asciiSet) node() *syntax.Regexp {
	if c, ok := s.single(); ok {
		return &syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune{c}}
	}
	return &syntax.Regexp{Op: syntax.OpCharClass, Rune: s.runes()}
}

// concat and alternate are syntax.Regexps of their kinds.
func concat(of ...*syntax.Regexp) *syntax.Regexp {
	switch len(of) {
	case 0:
		return &syntax.Regexp{Op: syntax.OpEmptyMatch}
	case 1:
		return of[0]
	}
	return &syntax.Regexp{Op: syntax.OpConcat, Sub: of}
}

func alternate(of ...*syntax.Regexp) *syntax.Regexp {
	if len(of) == 1 {
		return of[0]
	}
	return &syntax.Regexp{Op: syntax.OpAlternate, Sub: of}
}

// spelled takes any spelling of one character of s.
func (s *asciiSet) spelled() *syntax.Regexp {
	var last [8]asciiSet // digits of what is reserved, by the first one
	some := false
	for c := range s {
		if s[c] && reserved[c] {
			some = true
			last[c>>4][hexDigits[c&15]] = true
		}
	}
	if !some {
		return s.node()
	}
	var escapes []*syntax.Regexp
	for first := range last {
		if d, any := last[first].digits(); any {
			one := setOf(string(hexDigits[first]))
			escapes = append(escapes, concat(one.node(), d.node()))
		}
	}
	percent := setOf("%")
	return alternate(s.node(), concat(percent.node(), alternate(escapes...)))
}

// escaped takes any spelling of what is encoded with a first and a second digit; false: nothing is.
func escaped(first, second asciiSet) (*syntax.Regexp, bool) {
	d, any := first.digits()
	e, anySecond := second.digits()
	if !any || !anySecond {
		return nil, false
	}
	percent := setOf("%")
	encoded := concat(percent.node(), d.node(), e.node())
	plain, some := asciiSet{}, false
	for c := range reserved {
		if reserved[c] && d[hexDigits[c>>4]] && e[hexDigits[c&15]] {
			plain[c], some = true, true
		}
	}
	if !some {
		return encoded, true
	}
	return alternate(plain.node(), encoded), true
}

// part is one of a concatenation.
type part struct {
	set   asciiSet       // one character of it, unless there is an other
	other *syntax.Regexp // nil: there is none
}

// partsOf are those of an expression that cut has made.
func partsOf(r *syntax.Regexp) (all []part) {
	switch r.Op { //nolint:exhaustive // the rest is one part
	case syntax.OpEmptyMatch:
		return nil
	case syntax.OpConcat:
		for _, s := range r.Sub {
			all = append(all, partsOf(s)...)
		}
		return all
	case syntax.OpRepeat:
		if one := partsOf(r.Sub[0]); r.Min == 2 && r.Max == 2 && len(one) == 1 && one[0].other == nil { // as the digits of an escape are
			return append(one, one[0])
		}
	case syntax.OpLiteral:
		for _, c := range r.Rune {
			text := string(c)
			if r.Flags&syntax.FoldCase != 0 {
				text = strings.ToLower(text) + strings.ToUpper(text)
			}
			all = append(all, part{set: setOf(text)})
		}
		return all
	case syntax.OpCharClass:
		var p part
		for i := 0; i < len(r.Rune); i += 2 {
			for c := r.Rune[i]; c <= r.Rune[i+1]; c++ {
				p.set[c] = true
			}
		}
		return []part{p}
	}
	return []part{{other: r}}
}

// begun is how many parts at the end of all begin an escape.
func begun(all []part) int {
	for n := 1; n <= 2 && n <= len(all); n++ {
		if p := all[len(all)-n]; p.other == nil && p.set.is('%') {
			return n
		} else if p.other != nil {
			return 0
		}
	}
	return 0
}

func joined(all []part) *syntax.Regexp {
	var of []*syntax.Regexp
	for i := range all {
		if all[i].other != nil {
			of = append(of, all[i].other)
		} else {
			of = append(of, all[i].set.node())
		}
	}
	return concat(of...)
}

// spelled takes all spellings of the paths that r takes, which cut has made. Escapes that it does not write as such, but takes by
// classes or repetitions that take any of their characters, are those characters.
func spelled(r *syntax.Regexp) *syntax.Regexp {
	var all []part
	for _, p := range partsOf(r) {
		if n := begun(all); n > 0 && p.other != nil && p.other.Op == syntax.OpAlternate { // the parser has made %(2a|3b) of %2a|%3b
			first := joined(all[len(all)-n:])
			all = all[:len(all)-n]
			var of []*syntax.Regexp
			for _, s := range p.other.Sub {
				of = append(of, concat(first, s))
			}
			p.other = alternate(of...)
		}
		all = append(all, p)
	}
	var of []*syntax.Regexp
	for i := 0; i < len(all); i++ {
		p := &all[i]
		if p.other != nil {
			of = append(of, spelledInside(p.other))
			continue
		}
		if p.set.is('%') && i+2 < len(all) && all[i+1].other == nil && all[i+2].other == nil {
			if e, ok := escaped(all[i+1].set, all[i+2].set); ok {
				of = append(of, e)
				i += 2
				continue
			}
		}
		of = append(of, p.set.spelled())
	}
	return concat(of...)
}

// spelledInside is spelled for what is no character and no concatenation.
func spelledInside(r *syntax.Regexp) *syntax.Regexp {
	switch r.Op { //nolint:exhaustive // the rest has nothing inside
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		one := partsOf(r.Sub[0])
		if unbounded := r.Op != syntax.OpRepeat || r.Max < 0; unbounded && len(one) == 1 && one[0].other == nil && one[0].set.includes(setOf("%"+hexDigits)) {
			return r // it takes escapes as they are
		}
	}
	again := *r
	again.Sub = slices.Clone(r.Sub)
	for i := range again.Sub {
		again.Sub[i] = spelled(again.Sub[i])
	}
	return &again
}

// spellings is, for a denying permission, an expression for all spellings of a path, or of what it begins with; false: it has one alone, or
// it is no path.
func (p *Permission) spellings(path string, prefix bool) (re string, more bool, err error) {
	if p.Action != Deny {
		return "", false, nil
	}
	for i := range len(path) {
		if c := path[i]; !within(rune(c), pathChars) {
			return "", false, nil
		} else if c == '%' || reserved.has(c) {
			more = true
		}
	}
	switch {
	case !more:
		return "", false, nil
	case len(path) > maxSpelled:
		return "", false, fmt.Errorf("has %d bytes, and %d are the most of one with other spellings", len(path), maxSpelled)
	}
	all := partsOf(&syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune(path)})
	if n := begun(all); prefix && n > 0 { // any rest of the escape may follow, so it is one of several
		for ; n < 3; n++ {
			all = append(all, part{set: setOf(hexDigits)})
		}
	}
	return spelled(joined(all)).String(), true, nil
}
