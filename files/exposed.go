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
	for _, e := range paths {
		if c := e.ParsedFromCheck; c.Value {
			o.Mistake(c.At, runsNone, "parsed_from_check", "remove it")
		}
		if d.fits(e, out) {
			out = append(out, e)
		}
	}
	return out
}

// fits reports whether e can be beside the others; if not, that is a problem. Their ports are
// compared with those of all listeners later.
func (d *definitions) fits(e definition.Exposed, others []definition.Exposed) bool {
	for _, other := range others {
		switch {
		case other.LocalPort != e.LocalPort:
		case other.Path == e.Path:
			d.problem(e.At, "path %s of port %d is exposed twice (first at %s)", e.Path, e.LocalPort, other.At)
			return false
		case other.Protocol != e.Protocol:
			d.problem(e.At, "path %s says that port %d speaks %s, and path %s (%s) that it speaks %s", e.Path, e.LocalPort, e.Protocol, other.Path, other.At, other.Protocol)
			return false
		}
	}
	return true
}
