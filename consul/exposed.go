package consul

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// readExposed reads the paths that a proxy exposes, or says why their listeners are not there. It is called after everything else that listens was read.
func (s *sidecar) readExposed(r *registration, p *proxyRegistration) {
	entry := entryOf(r)
	s.checks = p.Expose.Checks
	for _, x := range p.Expose.Paths {
		if x == nil || x.ParsedFromCheck && p.Expose.Checks {
			continue // the agent tells it again
		}
		refuse := func(format string, args ...any) {
			s.problem("", entry, "the exposed path %.60q: "+format+": its listener is not there", append([]any{x.Path}, args...)...)
		}
		e := catalog.ExposedPath{Path: x.Path, ListenerPort: portOf(x.ListenerPort), LocalPort: portOf(x.LocalPathPort), Protocol: catalog.HTTP, Origin: entry}
		if protocol := strings.ToLower(x.Protocol); protocol != "" {
			e.Protocol = protocolOf(protocol)
		}
		err := s.exposable(e, s.proxy.Exposed)
		switch {
		case x.ParsedFromCheck:
			refuse("it is said to be a check's, and Expose.Checks is not set")
		case e.ListenerPort == 0:
			refuse("it has no ListenerPort")
		case e.LocalPort == 0:
			refuse("it has no LocalPathPort")
		case e.Protocol != catalog.HTTP && e.Protocol != catalog.HTTP2:
			refuse("protocol %.20q is neither http nor http2", x.Protocol)
		case err != nil:
			refuse("%v", err)
		default:
			s.proxy.Exposed = append(s.proxy.Exposed, e)
		}
	}
	slices.SortFunc(s.proxy.Exposed, catalog.CompareExposed)
}

// exposable says why e cannot be exposed beside others; nil: it can.
func (s *sidecar) exposable(e catalog.ExposedPath, others []catalog.ExposedPath) error {
	if err := catalog.CheckPath(e.Path); err != nil {
		return err
	}
	if s.listens(e.ListenerPort) || slices.ContainsFunc(others, func(o catalog.ExposedPath) bool { return o.ListenerPort == e.ListenerPort }) {
		return fmt.Errorf("another listener of the proxy has port %d", e.ListenerPort)
	}
	if slices.ContainsFunc(others, func(o catalog.ExposedPath) bool { return o.LocalPort == e.LocalPort && o.Protocol != e.Protocol }) {
		return fmt.Errorf("another path says that port %d does not speak %s", e.LocalPort, e.Protocol)
	}
	return nil
}

// listens reports whether something that was read, other than an exposed path, listens on a port of the address of the public listener.
func (s *sidecar) listens(port uint16) bool {
	in := s.proxy.Inbound
	if port == in.Port {
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
