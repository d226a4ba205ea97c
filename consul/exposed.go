package consul

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sallyport/sallyport/catalog"
)

// readExposed reads the paths that a proxy exposes, or says why their listeners are not there. It
// is called after everything else that listens was read.
func (s *sidecar) readExposed(r *registration, p *proxyRegistration) {
	paths, checks := s.decoder(r, "", &p.Expose, "Expose").Exposed()
	s.checks = checks.Value
	for _, x := range paths {
		refuse := func(why string) {
			s.problem("", entryOf(r), "the exposed path %.60q: %s: its listener is not there", x.Path, why)
		}
		x.Origin = entryOf(r)
		err := s.exposable(x.ExposedPath, s.proxy.Exposed)
		switch {
		case x.ParsedFromCheck.Value && s.checks: // the agent tells it again
		case x.ParsedFromCheck.Value:
			refuse("it is said to be a check's, and Expose.Checks is not set")
		case err != nil:
			refuse(err.Error())
		default:
			s.proxy.Exposed = append(s.proxy.Exposed, x.ExposedPath)
		}
	}
	slices.SortFunc(s.proxy.Exposed, catalog.CompareExposed)
}

// exposable says why e cannot be exposed beside others; nil: it can.
func (s *sidecar) exposable(e catalog.ExposedPath, others []catalog.ExposedPath) error {
	if err := catalog.CheckPath(e.Path); err != nil {
		return err
	}
	samePort := func(o catalog.ExposedPath) bool { return o.ListenerPort == e.ListenerPort }
	if s.listens(e.ListenerPort) || slices.ContainsFunc(others, samePort) {
		return fmt.Errorf("another listener of the proxy has port %d", e.ListenerPort)
	}
	if slices.ContainsFunc(others,
		func(o catalog.ExposedPath) bool { return o.LocalPort == e.LocalPort && o.Protocol != e.Protocol }) {
		return fmt.Errorf("another path says that port %d does not speak %s", e.LocalPort, e.Protocol)
	}
	return nil
}

// listens reports whether something that was read, other than an exposed path, listens on a port of
// the address of the public listener.
func (s *sidecar) listens(port uint16) bool {
	in := s.proxy.Inbound
	if port == in.Port {
		return true
	}
	own, err := netip.ParseAddr(in.Address)
	overlaps := func(other netip.Addr) bool {
		return err == nil && (own == other ||
			own.Is4() == other.Is4() && (own.IsUnspecified() || other.IsUnspecified()))
	}
	if m := s.settings.Prometheus; m.Set && m.Value.Port() == port && overlaps(m.Value.Addr()) {
		return true
	}
	return slices.ContainsFunc(s.upstreams, func(u upstream) bool {
		address, err := netip.ParseAddr(u.BindAddress)
		return err == nil && u.BindPort == port && overlaps(address)
	})
}
