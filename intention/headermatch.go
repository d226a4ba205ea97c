package intention

import (
	"fmt"
	"regexp"
)

// headerChars are those that an expression for a header's value takes. What else is in a value is met by no expression of an allowing
// permission, and by each of a denying one.
var headerChars = []rune{'\t', '\t', ' ', '~'}

const (
	anyValue = `\C*`
	ascii    = `[\t -~]*`
	// A header that is there several times arrives with its values joined by ",". What an allowing permission says is compared with the
	// whole, and what a denying one says with each part, too: else a second header would lead past it.
	partFirst = `(?:\C*,)?[ \t]*`
	partLast  = `[ \t]*(?:,\C*)?`
	// The crumbs of cookies, which HTTP/2 may send apart, are joined by "; ".
	crumbFirst = `(?:\C*[,;])?[ \t]*`
	crumbLast  = `[ \t]*(?:[,;]\C*)?`
	// An authority may have a port.
	hostLast = `(?::[0-9]*)?` + partLast
)

// parts are what may be before and after a part of a header's value.
func parts(of string) (first, last string) {
	switch of {
	case "cookie":
		return crumbFirst, crumbLast
	case authorityText:
		return partFirst, hostLast
	}
	return partFirst, partLast
}

// steps are what a permission comes to; number is the permission's.
func (p *Permission) steps(number int) (Step, error) {
	s := Step{Action: p.Action, Permission: number}
	path, err := p.pathTests()
	if err != nil {
		return s, err
	}
	s.Clauses = path
	if len(p.Methods) > 0 {
		var any []Test
		for _, m := range p.Methods {
			// HTTP/2 takes any letter case, and some applications that of another method.
			any = append(any, Test{Of: methodText, Value: m, IgnoreCase: p.Action == Deny})
		}
		s.Clauses = append(s.Clauses, any)
	}
	for i := range p.Headers {
		clauses, err := p.Headers[i].tests(p.Action)
		if err != nil {
			return s, fmt.Errorf("Header[%d]: %w", i, err)
		}
		s.Clauses = append(s.Clauses, clauses...)
	}
	if len(p.JWT) > 0 && p.Action == Allow {
		s.Tokens = p.JWT
	}
	return s, nil
}

func (p Permission) looksAtPath() bool { return p.PathExact+p.PathPrefix+p.PathRegex != "" }

// tests are the clauses of a header. An allowing permission's are met where the condition surely holds, a denying one's where it may.
func (h *HeaderMatch) tests(action Action) ([][]Test, error) {
	of := lower(h.Name)
	switch {
	case of == "host":
		of = authorityText // under this name proxies have it
	case of != authorityText && len(of) > 0 && of[0] == ':':
		return nil, fmt.Errorf("Name %q %w", h.Name, errNoSuchHeader)
	}
	present := Test{Of: of, Kind: Expression, Value: anyValue, search: &search{kind: anyText}}
	if h.Present {
		present.Not = h.Invert
		return [][]Test{{present}}, nil
	}
	test, isASCII, err := h.test(of, (action == Allow) == h.Invert)
	if err != nil {
		return nil, err
	}
	var clauses [][]Test
	if h.Invert {
		clauses, test.Not = append(clauses, []Test{present}), true
	}
	switch {
	case isASCII == nil:
		return append(clauses, []Test{test}), nil
	case action == Allow:
		return append(clauses, []Test{*isASCII}, []Test{test}), nil
	case !h.Invert:
		clauses = append(clauses, []Test{present})
	}
	return append(clauses, []Test{not(*isASCII), test}), nil
}

// test is the condition itself, as one of any part of the value or of the whole. Of an expression isASCII is what it takes.
func (h *HeaderMatch) test(of string, ofAnyPart bool) (t Test, isASCII *Test, err error) {
	kind, value, how := Exact, h.Exact, partIs
	first, last := parts(of)
	ignoreCase := h.IgnoreCase || of == authorityText && ofAnyPart // names of hosts have none
	switch {
	case h.Regex != "":
		re, err := reduced(h.Regex, headerChars)
		if err != nil {
			return t, nil, fmt.Errorf("Regex %.100q %w", h.Regex, err)
		}
		a := Test{Of: of, Kind: Expression, Value: ascii, search: &search{kind: asciiText}}
		if ofAnyPart {
			if ignoreCase {
				re = "(?i:" + re + ")"
			}
			return expression(of, first+"(?:"+re+")"+last), &a, nil
		}
		return expression(of, re), &a, nil
	case h.Prefix != "":
		kind, value, how, last = Prefix, h.Prefix, partBegins, anyValue
	case h.Suffix != "":
		kind, value, how, first = Suffix, h.Suffix, partEnds, anyValue
	case h.Contains != "":
		kind, value, ofAnyPart = Contains, h.Contains, false // as good as of any part
	}
	if !ofAnyPart {
		return Test{Of: of, Kind: kind, Value: value, IgnoreCase: ignoreCase}, nil, nil
	}
	quoted := regexp.QuoteMeta(value)
	if ignoreCase {
		quoted = "(?i:" + quoted + ")"
	}
	return partTest(of, first+quoted+last, how, value, ignoreCase), nil, nil
}
