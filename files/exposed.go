package files

import (
	"github.com/sallyport/sallyport/catalog"
)

// exposed is a path that a proxy exposes.
type exposed struct {
	catalog.ExposedPath
	at position
}

// exposed reads what a proxy's expose says.
func (o *object) exposed() []exposed {
	const runsNone = "%s is not supported from files, for nothing runs checks here: %s"
	if c := o.boolean("checks"); c.value {
		o.problem(c.at, runsNone, "checks", "expose the path that is asked for in paths")
	}
	var out []exposed
	for _, p := range o.children("paths", "exposed path") {
		if c := p.boolean("parsed_from_check"); c.value {
			p.problem(c.at, runsNone, "parsed_from_check", "remove it")
		}
		e, ok := p.exposedPath()
		p.done()
		if ok && e.fits(o.reader, out) {
			out = append(out, e)
		}
	}
	o.done()
	return out
}

// exposedPath reads one exposed path; ok is false if there was a problem.
func (o *object) exposedPath() (e exposed, ok bool) {
	path, listen, local := o.text("path"), o.port("listener_port"), o.port("local_path_port")
	protocol, ok := catalog.HTTP, true
	if t := o.text("protocol"); t.set {
		if protocol, ok = catalog.ParseProtocol(t.value); protocol != catalog.HTTP && protocol != catalog.HTTP2 {
			ok = false
		}
		if !ok {
			o.problem(t.at, "protocol %.60q of an exposed path is not known: http and http2 are", t.value)
		}
	}
	if !o.require("path", path) {
		return e, false
	}
	if err := catalog.CheckPath(path.value); err != nil {
		o.problem(path.at, "path %.60q cannot be exposed: %v", path.value, err)
		return e, false
	}
	for _, key := range []string{"listener_port", "local_path_port"} {
		if o.field(key) == nil {
			o.problem(o.at, "exposed path %s has no %s", path.value, key)
		}
	}
	return exposed{
		ExposedPath: catalog.ExposedPath{Path: path.value, ListenerPort: listen.value, LocalPort: local.value, Protocol: protocol, Origin: o.at.String()},
		at:          o.at,
	}, ok && listen.set && local.set
}

// fits reports whether e can be beside the others; if not, that is a problem. Their ports are compared with those of all listeners later.
func (e exposed) fits(r *reader, others []exposed) bool {
	for _, other := range others {
		switch {
		case other.LocalPort != e.LocalPort:
		case other.Path == e.Path:
			r.problem(e.at, "path %s of port %d is exposed twice (first at %s)", e.Path, e.LocalPort, other.at)
			return false
		case other.Protocol != e.Protocol:
			r.problem(e.at, "path %s says that port %d speaks %s, and path %s (%s) that it speaks %s", e.Path, e.LocalPort, e.Protocol, other.Path, other.at, other.Protocol)
			return false
		}
	}
	return true
}
