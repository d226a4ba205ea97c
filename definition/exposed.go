package definition

import (
	"fmt"

	"github.com/sallyport/sallyport/catalog"
)

// Exposed is a path that a proxy exposes.
type Exposed struct {
	catalog.ExposedPath
	At Position
	// ParsedFromCheck says that the path is there for a check, which Consul's agent knows.
	ParsedFromCheck Setting[bool]
}

// Exposed reads what a proxy's expose says: the paths of which there is nothing wrong, and whether
// the agent's checks are to be exposed, too. It is done with d then.
func (d *Decoder) Exposed() (paths []Exposed, checks Setting[bool]) {
	checks = d.Boolean("checks")
	for _, p := range d.Children("paths", "exposed path") {
		if e, ok := p.exposedPath(); ok {
			paths = append(paths, e)
		}
		p.Done()
	}
	d.Done()
	return paths, checks
}

// exposedPath reads one exposed path; ok is false if there was a mistake.
func (d *Decoder) exposedPath() (e Exposed, ok bool) {
	path := d.Text("path")
	what := "exposed path " + path.Value
	if d.Lenient {
		d.path = fmt.Sprintf("the exposed path %.60q: ", path.Value)
		what, d.instead = d.path+"it", "its listener is not there"
	}
	listen, local := d.Port("listener_port"), d.Port("local_path_port")
	protocol := readText(d, "protocol", func(s string) (catalog.Protocol, error) {
		p, ok := parseProtocol(s)
		if !ok || p != catalog.HTTP && p != catalog.HTTP2 {
			return p, fmt.Errorf("%.60q of an exposed path is not known: http and http2 are", s)
		}
		return p, nil
	})
	e = Exposed{At: d.At, ParsedFromCheck: d.Boolean("parsed_from_check")}
	e.Path, e.ListenerPort, e.LocalPort = path.Value, listen.Value, local.Value
	e.Protocol, e.Origin = protocol.Else(catalog.HTTP), d.At.String()
	if !d.Need("path", path) {
		return e, false
	}
	if err := catalog.CheckPath(path.Value); err != nil {
		d.wrong(d.field("path"), "%.60q cannot be exposed: %v", path.Value, err)
		return e, false
	}
	for _, key := range []string{"listener_port", "local_path_port"} {
		if d.field(key) == nil {
			d.need(lack{key, what})
		}
	}
	return e, listen.Set && local.Set && (protocol.Set || d.Field("protocol") == nil)
}
