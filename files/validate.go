package files

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// Validate is Load for somebody who wants to know what may be wrong: it warns of more, which a mesh
// may have for good reasons.
func Validate(config Config) (catalog.Contents, error) {
	contents, a, err := load(config)
	if a == nil {
		return contents, err
	}
	a.report = report{}
	a.suspectIntentions()
	a.suspectChains()
	a.suspectPorts()
	a.suspectNatives()
	suspectFiles(&a.report, config.Dir)
	for _, w := range a.warnings.sorted() {
		config.warned(w)
	}
	return contents, err
}

// amongReadable are the problems that files have with one another, if some of them cannot be read,
// for which nothing of the kind is among those known. What may be none if those are mended is left
// out.
func amongReadable(c Config, ports map[string]uint16, files []*file, known Errors) Errors {
	readable := slices.DeleteFunc(slices.Clone(files), func(f *file) bool {
		return slices.ContainsFunc(f.problems, func(p Problem) bool { return p.Unread })
	})
	if len(readable) == len(files) {
		return nil
	}
	o := (&assembler{config: c, ports: ports}).assemble(readable)
	return slices.DeleteFunc(o.problems, func(p Problem) bool { return p.Doubtful || slices.Contains(known, p) })
}

// defined are the services that are registered, by their names without regard to letter case, and what there is to say of one that is not.
func (a *assembly) defined() (services map[string]*name, undefined func(service string) string) {
	services = map[string]*name{}
	var names []string
	for _, n := range a.sorted {
		if len(n.instances) > 0 {
			services[identity.NewName(n.name).Fold().Service] = n
			names = append(names, n.name)
		}
	}
	return services, func(service string) string {
		text := fmt.Sprintf("no service %s is defined here", service)
		if near := definition.Nearest(service, names); near != "" {
			text += ": did you mean " + near + "?"
		}
		return text
	}
}

// suspectIntentions warns of intentions about services that nothing defines, and of sources that no
// sidecar speaks for.
func (a *assembly) suspectIntentions() {
	defined, undefined := a.defined()
	for _, n := range a.sorted {
		if n.entry.Destination == nil {
			continue
		}
		if n.name != identity.Wildcard && defined[identity.NewName(n.name).Fold().Service] == nil {
			a.warning(n.entry.at, "intentions for %s: %s", n.name, undefined(n.name))
		}
		of := defined[identity.NewName(n.name).Fold().Service]
		for _, i := range n.entry.Intentions {
			if i.Permissions != nil && of != nil {
				if protocol, why := a.protocolOf(of); protocol == catalog.TCP {
					a.warning(definition.ParsePosition(i.Origin), "permissions of %s for %s, which is tcp (%s): nothing in it is known to be a request, so they deny it all: give it service-defaults with Protocol = \"http\"",
						i.Source.String(), of.name, why)
				}
			}
			if i.Source.Name.IsWildcard() || i.Source.ID != "" {
				continue
			}
			source := i.Source.Name.Service
			switch of := a.names[source]; {
			case of == nil || len(of.instances) == 0:
				a.warning(definition.ParsePosition(i.Origin), "source %s: %s", source, undefined(source))
			case of.served != a.turn && !slices.ContainsFunc(of.instances, func(s *service) bool { return s.registration.ShowsItself() }):
				a.warning(definition.ParsePosition(i.Origin), "source %s: the service has no sidecar and is not native (%s), without which it cannot show who it is", source, of.instances[0].at)
			}
		}
	}
}

// suspectPorts warns of services that listen where another one does.
func (a *assembly) suspectPorts() {
	type place struct {
		host, address string
		port          uint16
	}
	type holder struct {
		*service
		at definition.Position
	}
	first := map[place]holder{}
	take := func(p place, s *service, at definition.Position) {
		other, taken := first[p]
		switch {
		case !taken:
			first[p] = holder{s, at}
		case other.service != s:
			a.warning(at, "port %d of %s is that of %s too (%s): two applications cannot both listen on it", p.port, p.address, other.id, other.at)
		}
	}
	reached := map[*service]bool{}
	for _, s := range a.sidecars {
		if s.instance == nil || s.localSocket.Set {
			continue
		}
		reached[s.instance] = true
		if port := s.localPort.Or(s.instance.port); port.Set && !s.instance.socket.Set {
			take(place{s.host, cmp.Or(s.localAddress.Value, "127.0.0.1"), port.Value}, s.instance, port.At)
		}
	}
	for _, n := range a.sorted {
		for _, s := range n.instances {
			if reached[s] || !s.port.Set {
				continue
			}
			p := place{s.address.Value, s.address.Value, s.port.Value}
			if ip, ok := definition.ParseIP(p.address); p.address == "" || p.address == "localhost" || ok && ip.IsLoopback() {
				p.host, p.address = "", "127.0.0.1"
			}
			take(p, s, s.port.At)
		}
	}
}

// suspectFiles warns of files that are not read, but for hidden ones, what editors leave behind,
// and what is there for people.
func suspectFiles(r *report, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name, at := e.Name(), definition.Position{File: e.Name()}
		switch info, err := os.Stat(filepath.Join(dir, name)); {
		case strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") || err != nil:
		case info.IsDir():
			inside, err := os.ReadDir(filepath.Join(dir, name))
			if err == nil && slices.ContainsFunc(inside, func(e os.DirEntry) bool { return format(e.Name()) != "" }) {
				r.warning(at, "is a directory, and what is in it is not read: move the files beside the others")
			}
		case format(name) == "" && !slices.Contains([]string{".md", ".txt"}, strings.ToLower(filepath.Ext(name))):
			r.warning(at, "is not read: the names of files that are end in .hcl, .json, .yaml or .yml")
		}
	}
}
