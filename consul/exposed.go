package consul

import (
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/catalog"
)

// readExposed reads the paths that a proxy exposes, or says why their listeners are not there.
func (s *sidecar) readExposed(r *registration, p *proxyRegistration) {
	paths, checks := s.decoder(r, "", &p.Expose, "Expose").Exposed()
	s.checks = checks.Value
	for _, x := range paths {
		refuse := func(why string) {
			s.problem("", entryOf(r), "the exposed path %.60q: %s: its listener is not there", x.Path, why)
		}
		x.Origin = entryOf(r)
		err := exposable(x.ExposedPath, s.proxy.Exposed)
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

// exposable says why e cannot be exposed beside others; nil: it can. Whether its port is free is not
// judged here.
func exposable(e catalog.ExposedPath, others []catalog.ExposedPath) error {
	if err := catalog.CheckPath(e.Path); err != nil {
		return err
	}
	if slices.ContainsFunc(others,
		func(o catalog.ExposedPath) bool { return o.LocalPort == e.LocalPort && o.Protocol != e.Protocol }) {
		return fmt.Errorf("another path says that port %d does not speak %s", e.LocalPort, e.Protocol)
	}
	return nil
}
