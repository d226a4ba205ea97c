package rbactest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	metadatamatcherv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Request is one as Envoy's filters have it.
type Request struct {
	Method, Path string
	// Headers are names, in lower case, and values, in the order in which they came.
	Headers [][2]string
	// Tokens are what the verified ones say, by the provider, as encoding/json has it.
	Tokens map[string]map[string]any
}

// says is the result of a predicate about what a verified token says: without that it is false.
func (r *Request) says(input *anypb.Any, custom *anypb.Any) (bool, error) {
	var at networkinputv3.DynamicMetadataInput
	var m metadatamatcherv3.Metadata
	if err := errors.Join(input.UnmarshalTo(&at), custom.UnmarshalTo(&m)); err != nil {
		return false, err
	}
	if r == nil || at.GetFilter() != "envoy.filters.http.jwt_authn" || m.GetInvert() || len(at.GetPath()) < 2 {
		return false, fmt.Errorf("a rule about metadata that no token is in: %v", &at)
	}
	provider, ok := strings.CutPrefix(at.GetPath()[0].GetKey(), "jwt_payload_")
	var value any = r.Tokens[provider]
	for _, p := range at.GetPath()[1:] {
		in, _ := value.(map[string]any)
		value = in[p.GetKey()]
	}
	if !ok || value == nil {
		return false, nil
	}
	return holds(m.GetValue(), value)
}

func holds(m *envoymatcherv3.ValueMatcher, value any) (is bool, err error) {
	switch p := m.GetMatchPattern().(type) {
	case *envoymatcherv3.ValueMatcher_StringMatch:
		exact, ok := p.StringMatch.GetMatchPattern().(*envoymatcherv3.StringMatcher_Exact)
		if !ok || p.StringMatch.GetIgnoreCase() {
			return false, fmt.Errorf("a claim that is compared by %v", p.StringMatch)
		}
		s, isText := value.(string)
		return isText && s == exact.Exact, nil
	case *envoymatcherv3.ValueMatcher_DoubleMatch:
		n, isNumber := value.(float64)
		return isNumber && n == p.DoubleMatch.GetExact(), nil
	case *envoymatcherv3.ValueMatcher_BoolMatch:
		b, isBool := value.(bool)
		return isBool && b == p.BoolMatch, nil
	case *envoymatcherv3.ValueMatcher_ListMatch:
		list, _ := value.([]any)
		for _, v := range list {
			if is, err = holds(p.ListMatch.GetOneOf(), v); is || err != nil {
				return is, err
			}
		}
		return false, nil
	case *envoymatcherv3.ValueMatcher_OrMatch:
		for _, o := range p.OrMatch.GetValueMatchers() {
			if is, err = holds(o, value); is || err != nil {
				return is, err
			}
		}
		return false, nil
	}
	return false, fmt.Errorf("a claim that is compared by %v", m)
}

// header is a header's value as Envoy's input has it: that of all of its name, joined by ",".
func (r *Request) header(name string) (string, bool) {
	switch name {
	case ":method":
		return r.Method, true
	case ":path":
		return r.Path, true
	case "host", ":authority":
		return "web", true
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
func bytesOf(expression string) string {
	return escape.ReplaceAllStringFunc(expression, func(e string) string {
		if e == `\C` {
			return `(?s:.)`
		}
		return e
	})
}

// escape is a backslash and what it is about.
var escape = regexp.MustCompile(`(?s)\\.`)

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
