package snapshot

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/chain"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// match says which requests m is for. An error is about conditions that Envoy would refuse: the match is without them, so it is for more
// requests, none of which may be served.
func (c *chainRoutes) match(m *chain.HTTPMatch) (*routev3.RouteMatch, error) {
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if m == nil {
		return match, nil
	}
	errs := []error{c.path(match, m)}
	for i, h := range m.Header {
		condition, err := c.header(h)
		if err != nil {
			errs = append(errs, fmt.Errorf("Header[%d]: %w", i, err))
			continue
		}
		match.Headers = append(match.Headers, condition)
	}
	if len(m.Methods) > 0 {
		condition, err := c.methods(m.Methods)
		if err != nil {
			errs = append(errs, fmt.Errorf("Methods: %w", err))
		} else {
			match.Headers = append(match.Headers, condition)
		}
	}
	for i, q := range m.QueryParam {
		condition, err := c.query(q)
		if err != nil {
			errs = append(errs, fmt.Errorf("QueryParam[%d]: %w", i, err))
			continue
		}
		match.QueryParameters = append(match.QueryParameters, condition)
	}
	return match, errors.Join(errs...)
}

// path sets the condition on the path without the query.
func (c *chainRoutes) path(match *routev3.RouteMatch, m *chain.HTTPMatch) error {
	set := 0
	for _, s := range []string{m.PathExact, m.PathPrefix, m.PathRegex} {
		if s != "" {
			set++
		}
	}
	if set > 1 {
		return errors.New("it has several of PathExact, PathPrefix and PathRegex")
	}
	all := match.GetPathSpecifier()
	switch {
	case m.PathExact != "":
		match.PathSpecifier = &routev3.RouteMatch_Path{Path: m.PathExact}
	case m.PathPrefix != "":
		match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.PathPrefix}
	case m.PathRegex != "":
		if err := c.expressible(m.PathRegex); err != nil {
			match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: literalPrefix(m.PathRegex)}
			return fmt.Errorf("PathRegex: %w", err)
		}
		match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regexMatcher(m.PathRegex)}
	}
	if m.CaseInsensitive && match.GetSafeRegex() == nil {
		match.CaseSensitive = wrapperspb.Bool(false)
	}
	if err := refusal(match); err != nil {
		match.PathSpecifier = all
		return err
	}
	return nil
}

func (c *chainRoutes) header(h chain.HeaderMatch) (*routev3.HeaderMatcher, error) {
	m := &routev3.HeaderMatcher{Name: h.Name, InvertMatch: h.Invert}
	if h.Present {
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return m, refusal(m)
	}
	s := &matcherv3.StringMatcher{IgnoreCase: h.IgnoreCase}
	switch {
	case h.Exact != "":
		s.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: h.Exact}
	case h.Prefix != "":
		s.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: h.Prefix}
	case h.Suffix != "":
		s.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: h.Suffix}
	case h.Contains != "":
		s.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: h.Contains}
	case h.Regex != "":
		if err := c.expressible(h.Regex); err != nil {
			return nil, err
		}
		s.MatchPattern, s.IgnoreCase = &matcherv3.StringMatcher_SafeRegex{SafeRegex: regexMatcher(h.Regex)}, false
	default:
		return nil, errors.New("it says nothing of the value")
	}
	m.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	return m, refusal(m)
}

// methods is the condition on the method. Conditions on headers are all to hold, so several methods are one expression.
func (c *chainRoutes) methods(methods []string) (*routev3.HeaderMatcher, error) {
	s := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: methods[0]}}
	if len(methods) > 1 {
		alternatives := make([]string, len(methods))
		for i, m := range methods {
			alternatives[i] = regexp.QuoteMeta(m)
		}
		expr := strings.Join(alternatives, "|")
		if err := c.expressible(expr); err != nil {
			return nil, err
		}
		s.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: regexMatcher(expr)}
	}
	m := &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s}}
	return m, refusal(m)
}

func (c *chainRoutes) query(q chain.QueryMatch) (*routev3.QueryParameterMatcher, error) {
	m := &routev3.QueryParameterMatcher{Name: q.Name}
	s := &matcherv3.StringMatcher{}
	switch {
	case q.Present:
		m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		return m, refusal(m)
	case q.Exact != "":
		s.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: q.Exact}
	case q.Regex != "":
		if err := c.expressible(q.Regex); err != nil {
			return nil, err
		}
		s.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: regexMatcher(q.Regex)}
	default:
		return nil, errors.New("it says nothing of the value")
	}
	m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: s}
	return m, refusal(m)
}

func regexMatcher(expr string) *matcherv3.RegexMatcher { return &matcherv3.RegexMatcher{Regex: expr} }

// expressible is why Envoy would refuse a regular expression; nil: it takes it. The languages of Go and of RE2 are the same, but that Envoy
// 1.40 has RE2 look at bytes.
func (c *chainRoutes) expressible(expr string) error {
	if _, err := syntax.Parse(expr, syntax.Perl); err != nil {
		return err
	}
	for _, escape := range codePoint.FindAllStringSubmatch(expr, -1) {
		if digits := strings.TrimLeft(escape[1], "0"); len(digits) > 2 {
			return fmt.Errorf("the escape sequence %s is of no byte, and Envoy compares bytes", escape[0])
		}
	}
	if size := userProgramSize(expr); size > c.regexSize {
		return fmt.Errorf("the regular expression is too large for this Envoy: a program of up to %d instructions, where its bootstrap has re2.max_program_size.error_level at %d",
			size, c.regexSize)
	}
	return nil
}

var codePoint = regexp.MustCompile(`\\x\{([0-9a-fA-F]+)\}`)

// userProgramSize is programSize for what people write. RE2 spends some instructions more than Go on loops and on what may be left out,
// which the expressions that are made here have few of, and where Go makes one dot of a dot and other characters it does not.
func userProgramSize(expr string) int {
	size := sizeOf(expr, 2)
	if strings.Contains(expr, "|") && strings.Contains(expr, ".") {
		size = max(size, sizeOf(apart(expr), 2))
	}
	return size + size/8 + 8
}

// apart is expr with a group around each dot, of which alternatives make nothing else.
func apart(expr string) string {
	var b strings.Builder
	for class, rest := false, expr; rest != ""; {
		n := 1
		switch {
		case strings.HasPrefix(rest, `\Q`) && !class:
			if n = strings.Index(rest, `\E`); n < 0 {
				n = len(rest)
			}
		case rest[0] == '\\':
			n = min(2, len(rest))
		case class && strings.HasPrefix(rest, "[:"):
			n = 2
		case class:
			class = rest[0] != ']'
		case rest[0] == '[':
			class = true
			for _, first := range []string{"^", "]"} { // neither ends the class there
				if strings.HasPrefix(rest[n:], first) {
					n++
				}
			}
		case rest[0] == '.':
			b.WriteString("(.)")
			rest = rest[1:]
			continue
		}
		b.WriteString(rest[:n])
		rest = rest[n:]
	}
	return b.String()
}

// literalPrefix begins every text that expr matches as a whole, though it may be no expression: what looks ahead or behind is the most
// frequent of those.
func literalPrefix(expr string) string {
	if e, err := regexp.Compile(expr); err == nil {
		prefix, _ := e.LiteralPrefix()
		if prefix, ok := strings.CutPrefix(prefix, "/"); ok {
			return "/" + prefix
		}
		return "/"
	}
	expr = strings.TrimPrefix(expr, "^")
	end := strings.IndexAny(expr, `\.+*?()|[]{}^$`)
	// Something after a character may say that it is not needed, and an alternative that nothing of it is.
	if end < 2 || strings.Contains(expr, "|") || expr[0] != '/' {
		return "/"
	}
	return strings.ToValidUTF8(expr[:end-1], "")
}
