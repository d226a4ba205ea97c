package files

import (
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// warnOfMeaningless names what is said of s, or of one of its upstreams, and has no meaning for the
// protocol. What is said of all proxies, or of all upstreams, is meant for those for which it has.
func (a *assembly) warnOfMeaningless(s *sidecar) {
	a.warnOfRequestTimeout(s.of, s.proxy.settings.RequestTimeout.At, s.proxy.settings.RequestTimeout.Set)
	for i, n := range s.dials {
		if u := s.upstreams[i].settings; u != nil {
			a.warnOfRequests(n, u)
		}
		if d := s.of.defaults; d != nil {
			if u, ok := d.overrides[n.name]; ok {
				a.warnOfRequests(n, &u)
			}
		}
	}
}

func (a *assembly) warnOfRequestTimeout(n *name, at definition.Position, set bool) {
	if !set {
		return
	}
	if protocol, why := a.protocolOf(n); !protocol.L7() {
		a.warning(at, "local_request_timeout_ms has no meaning for %s, which is %s (%s): nothing in it is known to be a request", n.name, protocol, why)
	}
}

func (a *assembly) warnOfRequests(n *name, u *definition.UpstreamSettings) {
	if !u.Limits.Value.MaxConcurrentRequests.Set {
		return
	}
	if protocol, why := a.protocolOf(n); protocol == catalog.TCP {
		a.warning(u.Limits.At, "max_concurrent_requests has no meaning for the upstream %s, which is %s (%s): max_connections limits it", n.name, protocol, why)
	}
}
