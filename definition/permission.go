package definition

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/intention"
)

// maxHeaders is how many headers a permission may look at.
const maxHeaders = 100

// permissions reads what an intention says of requests; ok is false if not all of it is understood, which is a mistake. It is done with what
// is in them.
func (d *Decoder) permissions() (list []intention.Permission, ok bool) {
	reported := d.Report
	place := d.placed()
	ok = true
	d.Reader = &Reader{Lenient: d.Lenient, Report: func(m Mistake) {
		ok = false
		reported(m)
	}, Volatile: d.Volatile}
	defer func(r *Reader) { d.Reader = r }(d.Reader)
	d.noNulls("Permissions")
	blocks := d.Children("Permissions", "permission")
	for n, p := range blocks {
		list = append(list, p.permission(fmt.Sprintf("%sPermissions[%d]", place, n)))
	}
	if !ok {
		return nil, false
	}
	_, err := intention.NewPermissions(list)
	if wrong := (*intention.PermissionError)(nil); errors.As(err, &wrong) {
		at := blocks[wrong.Permission]
		at.Mistake(at.At, "%sPermissions[%d].HTTP.%s", place, wrong.Permission, wrong.Err)
	} else if err != nil {
		d.Mistake(d.At, "%s%s", place, err)
	}
	return list, ok
}

func (d *Decoder) permission(place string) (p intention.Permission) {
	action := d.Text("Action")
	switch action.Value {
	case "allow":
		p.Action = intention.Allow
	case "deny":
	default:
		d.Mistake(d.position(action), "%s.Action must be set to 'allow' or 'deny'", place)
	}
	h, given := d.Child("HTTP", "HTTP")
	if given {
		h.httpPermission(&p, place+".HTTP")
	} else if !h.Broken {
		d.Mistake(d.At, "%s.HTTP is required", place)
	}
	p.JWT = d.tokens(place)
	if f := d.field("JWT"); !d.Lenient && p.Action == intention.Deny && action.Set && f != nil && !f.Value.Empty() {
		d.Mistake(f.At, "%s.JWT in a permission that denies: whoever is denied for a token can leave it away, so denying permissions do not look at tokens; "+
			"allow those who bring the right one, in a permission before this one", place)
	}
	d.rest()
	return p
}

// position is where a setting was, or where its block is if it is not set.
func (d *Decoder) position(s Setting[string]) Position {
	if s.Set {
		return s.At
	}
	return d.At
}

// noNulls reports elements of lists that say nothing, which even a lenient Reader leaves out: without one of its conditions a permission
// would be another one.
func (d *Decoder) noNulls(keys ...string) {
	for _, key := range keys {
		for _, f := range d.Given(key) {
			if f.Value.Kind == List && slices.ContainsFunc(f.Value.List, func(n *Node) bool { return n.Kind == Null }) {
				d.Mistake(f.At, "%s has an element that is null", f.Key)
			}
		}
	}
}

// rest is Done for what has to be understood: even a lenient Reader reports a key that nobody knows and that says something.
func (d *Decoder) rest() {
	if d.Lenient {
		d.unsupportedPrefix("")
	}
	d.Done()
}

func (d *Decoder) httpPermission(p *intention.Permission, place string) {
	exact, prefix, regex := d.Text("PathExact"), d.Text("PathPrefix"), d.Text("PathRegex")
	p.PathExact, p.PathPrefix, p.PathRegex = exact.Value, prefix.Value, regex.Value
	if howMany(exact.Set, prefix.Set, regex.Set) > 1 {
		d.Mistake(exact.Or(prefix).At, "%s should only contain at most one of PathExact, PathPrefix, or PathRegex", place)
	}
	for _, path := range []struct {
		key string
		Setting[string]
	}{{"PathExact", exact}, {"PathPrefix", prefix}} {
		switch {
		case !path.Set:
		case !strings.HasPrefix(path.Value, "/"):
			d.Mistake(path.At, "%s.%s doesn't start with '/': %q", place, path.key, path.Value)
		case !d.Lenient && !p.Met():
			d.Mistake(path.At, "%s.%s %q is met by no request: where a permission looks at paths, those are denied that are not canonical "+
				`(with "//", ".", "..", "\", ";", "#", what is not ASCII, or encoded what need not be), and the query is no part of them`, place, path.key, path.Value)
		}
	}
	d.noNulls("Header", "Methods")
	for n, h := range d.Children("Header", "header") {
		if n == maxHeaders {
			d.Mistake(h.At, "%s.Header has more than %d headers", place, maxHeaders)
		}
		p.Headers = append(p.Headers, h.headerMatch(fmt.Sprintf("%s.Header[%d]", place, n)))
	}
	methods := d.Given("Methods")
	for _, m := range d.texts("Methods") {
		m = strings.ToUpper(m)
		switch {
		case !slices.Contains(methodNames, m):
			d.Mistake(methods[0].Value.At, "%s.Methods contains an invalid method %q", place, m)
		case slices.Contains(p.Methods, m):
			d.Mistake(methods[0].Value.At, "%s.Methods contains %q more than once", place, m)
		}
		p.Methods = append(p.Methods, m)
	}
	if !exact.Set && !prefix.Set && !regex.Set && len(p.Headers) == 0 && len(p.Methods) == 0 && !d.Faulty("PathExact", "PathPrefix", "PathRegex", "Header", "Methods") {
		d.Mistake(d.At, "%s should not be empty", place)
	}
	d.rest()
}

// methodNames are those that Consul knows.
var methodNames = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace,
}

func (d *Decoder) headerMatch(place string) intention.HeaderMatch {
	name := d.Text("Name")
	m := intention.HeaderMatch{
		Name: name.Value, Present: d.Boolean("Present").Value,
		Exact: d.Text("Exact").Value, Prefix: d.Text("Prefix").Value, Suffix: d.Text("Suffix").Value, Contains: d.Text("Contains").Value, Regex: d.Text("Regex").Value,
		IgnoreCase: d.Boolean("IgnoreCase").Value, Invert: d.Boolean("Invert").Value,
	}
	if !name.Set {
		d.Mistake(d.At, "%s missing required Name field", place)
	} else if !token(strings.TrimPrefix(strings.ToLower(m.Name), ":")) {
		d.Mistake(name.At, "%s.Name %.60q is not the name of a header: letters, digits, and !#$%%&'*+-.^_`|~", place, name.Value)
	}
	texts := howMany(m.Exact != "", m.Prefix != "", m.Suffix != "", m.Contains != "")
	if texts+howMany(m.Present, m.Regex != "") != 1 {
		d.Mistake(d.At, "%s should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex", place)
	} else if m.IgnoreCase && texts == 0 {
		d.Mistake(d.At, "%s should set one of Exact, Prefix, Suffix, or Contains when using IgnoreCase", place)
	}
	d.rest()
	return m
}

func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func howMany(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}
