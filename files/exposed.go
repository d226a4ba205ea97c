package files

import (
	"github.com/sallyport/sallyport/definition"
)

// exposed reads what a proxy's expose says.
func (d *definitions) exposed(o *definition.Decoder) []definition.Exposed {
	const runsNone = "%s is not supported from files, for nothing runs checks here: %s"
	paths, checks := o.Exposed()
	if checks.Value {
		o.Mistake(checks.At, runsNone, "checks", "expose the path that is asked for in paths")
	}
	var out []definition.Exposed
	first, taken := map[uint16]definition.Exposed{}, map[exposure]definition.Position{}
	for _, e := range paths {
		if c := e.ParsedFromCheck; c.Value {
			o.Mistake(c.At, runsNone, "parsed_from_check", "remove it")
		}
		if !d.fits(e, first, taken) {
			continue
		}
		out = append(out, e)
		taken[exposure{e.LocalPort, e.Path}] = e.At
		if _, ok := first[e.LocalPort]; !ok {
			first[e.LocalPort] = e
		}
	}
	return out
}

// exposure is what of the application is exposed.
type exposure struct {
	port uint16
	path string
}

// fits reports whether e can be beside others, of which first has the first one of each local port, and taken all; if
// not, that is a problem. Their ports are compared with those of all listeners later.
func (d *definitions) fits(e definition.Exposed, first map[uint16]definition.Exposed, taken map[exposure]definition.Position) bool {
	if at, twice := taken[exposure{e.LocalPort, e.Path}]; twice {
		d.problem(e.At, "path %s of port %d is exposed twice (first at %s)", e.Path, e.LocalPort, at)
		return false
	}
	if other, ok := first[e.LocalPort]; ok && other.Protocol != e.Protocol {
		d.problem(e.At, "path %s says that port %d speaks %s, and path %s (%s) that it speaks %s", e.Path, e.LocalPort, e.Protocol, other.Path, other.At, other.Protocol)
		return false
	}
	return true
}
