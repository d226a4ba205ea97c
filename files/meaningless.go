package files

import (
	"strings"

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

// suspectNatives warns of native services that nobody can dial, and of what is said of the sidecars of those that
// have none.
func (a *assembly) suspectNatives() {
	for _, n := range a.sorted {
		if !n.native() {
			continue
		}
		for _, s := range n.instances {
			switch {
			case !s.registration.Native || s.port.Set:
			case s.socket.Set:
				a.warning(s.socket.At, "service %s is native and on a socket: it can dial others, and nobody can dial it, as that takes a port", s.id)
			default:
				a.warning(s.at, "service %s is native and has no port: it can dial others, and nobody can dial it", s.id)
			}
		}
		if n.served == a.turn || n.defaults == nil {
			continue
		}
		var keys []string
		var at definition.Position
		for _, k := range n.defaults.settings.OfSidecar() {
			if keys = append(keys, k.Key); at == (definition.Position{}) {
				at = k.At
			}
		}
		if len(n.defaults.overrides) > 0 || n.defaults.upstreams != (definition.UpstreamSettings{}) {
			keys = append(keys, "UpstreamConfig")
		}
		if at == (definition.Position{}) {
			at = n.defaults.at
		}
		if len(keys) > 0 {
			a.warning(at, "%s in service-defaults of %s: that is a sidecar's affair, and the service is native and has none (%s)", strings.Join(keys, ", "), n.name, n.instances[0].at)
		}
	}
}
