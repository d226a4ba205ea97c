package rbactest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
)

// Request is one as Envoy's filters have it.
type Request struct {
	Method, Path string
	// Headers are names, in lower case, and values, in the order in which they came.
	Headers [][2]string
}

// header is a header's value as Envoy's input has it: that of all of its name, joined by ",".
func (r *Request) header(name string) (string, bool) {
	switch name {
	case ":method":
		return r.Method, true
	case ":path":
		return r.Path, true
	case "host":
		name = ":authority"
	}
	var values []string
	for _, h := range r.Headers {
		if h[0] == name {
			values = append(values, h[1])
		}
	}
	return strings.Join(values, ","), values != nil
}

// matches is a single predicate's result: without the header it is false.
func (r *Request) matches(name string, m *matcherv3.StringMatcher) (bool, error) {
	if r == nil {
		return false, errors.New("a rule about requests, where there are connections")
	}
	text, ok := r.header(name)
	fold := func(s string) string {
		if m.GetIgnoreCase() {
			return strings.Map(func(c rune) rune {
				if 'A' <= c && c <= 'Z' {
					c += 'a' - 'A'
				}
				return c
			}, s)
		}
		return s
	}
	var is bool
	var err error
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		is = fold(text) == fold(p.Exact)
	case *matcherv3.StringMatcher_Prefix:
		is = strings.HasPrefix(fold(text), fold(p.Prefix))
	case *matcherv3.StringMatcher_Suffix:
		is = strings.HasSuffix(fold(text), fold(p.Suffix))
	case *matcherv3.StringMatcher_Contains:
		is = strings.Contains(fold(text), fold(p.Contains))
	case *matcherv3.StringMatcher_SafeRegex:
		if p.SafeRegex.GetGoogleRe2() == nil || m.GetIgnoreCase() {
			return false, fmt.Errorf("an expression without its engine, or with ignore_case: %v", m)
		}
		expression := bytesOf(p.SafeRegex.GetRegex())
		if !strings.ContainsFunc(expression, func(r rune) bool { return r > 0x7f }) {
			text = latin1(text)
		}
		is, err = whole(expression, text)
	default:
		err = fmt.Errorf("a text matcher of type %T", p)
	}
	return ok && is, err
}

// bytesOf makes of RE2's \C, any byte, what Go has for it in a text whose bytes are runes.
func bytesOf(expression string) string { return strings.ReplaceAll(expression, `\C`, `(?s:.)`) }

// latin1 has a rune for each byte of s: Go knows no bytes that are no UTF-8.
func latin1(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

func several(list *matcherv3.Matcher_MatcherList_Predicate_PredicateList, in input, until bool) (bool, error) {
	if len(list.GetPredicate()) < 2 {
		return false, fmt.Errorf("a list of %d predicates, which Envoy refuses", len(list.GetPredicate()))
	}
	for _, p := range slices.All(list.GetPredicate()) {
		if ok, err := predicate(p, in); ok == until || err != nil {
			return ok, err
		}
	}
	return !until, nil
}
