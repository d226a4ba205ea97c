package consul

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// exposedChecks is what there is to say of Expose.Checks: of a check that goes through the proxy the agent's API tells the port of the proxy, and the path
// that is asked for nowhere.
const exposedChecks = "Expose.Checks is not supported, for Consul's API does not tell the paths of checks: their listeners are not there, and checks that the agent sends to them fail. " +
	"Expose the paths in Expose.Paths, and have the checks ask for those"

// readExposed reads the paths that a proxy exposes, or says why their listeners are not there. It is called after everything else that listens was read.
func (s *sidecar) readExposed(r *registration, p *proxyRegistration) {
	entry := entryOf(r)
	if p.Expose.Checks {
		s.problem("", entry, "%s", exposedChecks)
	}
	for _, x := range p.Expose.Paths {
		if x == nil || x.ParsedFromCheck && p.Expose.Checks {
			continue // has been said
		}
		refuse := func(format string, args ...any) {
			s.problem("", entry, "the exposed path %.60q: "+format+": its listener is not there", append([]any{x.Path}, args...)...)
		}
		e := catalog.ExposedPath{Path: x.Path, ListenerPort: portOf(x.ListenerPort), LocalPort: portOf(x.LocalPathPort), Protocol: catalog.HTTP, Origin: entry}
		if protocol := strings.ToLower(x.Protocol); protocol != "" {
			e.Protocol = protocolOf(protocol)
		}
		switch err := catalog.CheckPath(x.Path); {
		case x.ParsedFromCheck:
			refuse("paths of checks, which are for the agent alone, are not supported")
		case err != nil:
			refuse("%v", err)
		case e.ListenerPort == 0:
			refuse("it has no ListenerPort")
		case e.LocalPort == 0:
			refuse("it has no LocalPathPort")
		case e.Protocol != catalog.HTTP && e.Protocol != catalog.HTTP2:
			refuse("protocol %.20q is neither http nor http2", x.Protocol)
		case s.listens(e.ListenerPort):
			refuse("another listener of the proxy has port %d", e.ListenerPort)
		case slices.ContainsFunc(s.proxy.Exposed, func(o catalog.ExposedPath) bool { return o.LocalPort == e.LocalPort && o.Protocol != e.Protocol }):
			refuse("another path says that port %d does not speak %s", e.LocalPort, e.Protocol)
		default:
			s.proxy.Exposed = append(s.proxy.Exposed, e)
		}
	}
	slices.SortFunc(s.proxy.Exposed, catalog.CompareExposed)
}

// listens reports whether something that was read listens on a port of the address of the public listener.
func (s *sidecar) listens(port uint16) bool {
	in := s.proxy.Inbound
	if port == in.Port || slices.ContainsFunc(s.proxy.Exposed, func(e catalog.ExposedPath) bool { return e.ListenerPort == port }) {
		return true
	}
	own, err := netip.ParseAddr(in.Address)
	overlaps := func(other netip.Addr) bool {
		return err == nil && (own == other || own.Is4() == other.Is4() && (own.IsUnspecified() || other.IsUnspecified()))
	}
	if m := s.settings.prometheus; m.set && m.value.Port() == port && overlaps(m.value.Addr()) {
		return true
	}
	return slices.ContainsFunc(s.upstreams, func(u dialled) bool {
		address, err := netip.ParseAddr(u.BindAddress)
		return err == nil && u.BindPort == port && overlaps(address)
	})
}
