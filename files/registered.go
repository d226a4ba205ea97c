package files

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// register makes what is told of the registration of s, with what Consul gives one that is nested in a service's.
func (a *assembly) register(s *sidecar) *catalog.Sidecar {
	r := &catalog.Sidecar{
		Registration: catalog.Registration{
			ID: s.id, Service: identity.NewName(s.name), Tags: s.tags, Meta: s.meta, Address: s.proxy.address.Value, Port: s.publicPort(),
			Checks: s.checks, Origin: s.at.String(),
		},
		Destination: identity.NewName(s.of.name), Instance: s.proxy.instance.Value,
		LocalAddress: s.localAddress.Value, LocalPort: s.localPort.Value, LocalSocket: s.localSocket.Value,
		Config: a.configOf(s), AccessLogs: a.loggedOf(s.proxy),
	}
	if w := s.weights; w.Set {
		r.Weights = catalog.Weights{Passing: uint16(w.Value.passing), Warning: uint16(w.Value.warning)} //nolint:gosec // within their bounds
	}
	if p := s.parent; p != nil {
		r.Instance = p.id
		if len(r.Tags) == 0 {
			r.Tags = p.registration.Tags
		}
		if len(r.Meta) == 0 {
			r.Meta = p.registration.Meta
		}
		r.Address = cmp.Or(r.Address, p.address.Value)
		switch {
		case r.LocalSocket != "" || r.LocalPort != 0:
		case p.socket.Set:
			r.LocalSocket = p.socket.Value
		default:
			r.LocalPort = p.port.Value
		}
		if r.LocalSocket == "" {
			r.LocalAddress = cmp.Or(r.LocalAddress, "127.0.0.1")
		}
		if !s.health.Set {
			r.Checks = []catalog.Check{alias(s.id, p)}
		}
	}
	for i := range s.upstreams {
		u := s.upstreams[i].told
		u.Config = a.upstreamConfigOf(s, i)
		r.Upstreams = append(r.Upstreams, u)
	}
	for _, e := range s.exposed {
		r.Exposed = append(r.Exposed, e.ExposedPath)
	}
	r.Status = worst(r.Checks).String()
	return r
}

// worst is the worst status of checks.
func worst(checks []catalog.Check) (h health) {
	for _, c := range checks {
		for _, other := range []health{warning, critical} {
			if c.Status == other.String() {
				h = max(h, other)
			}
		}
	}
	return h
}

// alias is the check that Consul gives a nested sidecar: its health is that of its application.
func alias(id string, of *service) catalog.Check {
	c := catalog.Check{ID: "service:" + id + ":2", Name: "Connect Sidecar Aliasing " + of.id, Type: "alias", Status: passing.String(), Output: "All checks passing."}
	checks := of.registration.Checks
	if len(checks) == 0 {
		c.Output = "No checks found."
	}
	if h := worst(checks); h != passing {
		i := slices.IndexFunc(checks, func(o catalog.Check) bool { return o.Status == h.String() })
		c.Status = h.String()
		c.Output = fmt.Sprintf("Aliased check %q failing: %s", checks[i].Name, checks[i].Output)
	}
	return c
}

// told is what is told of a check, whose ID and name may be missing yet.
func told(written map[string]any, status string) catalog.Check {
	c := catalog.Check{
		ID: cmp.Or(text(written, "check_id"), text(written, "id")), Name: text(written, "name"), Notes: text(written, "notes"), Status: status,
		Interval: duration(written, "interval"), Timeout: duration(written, "timeout"),
	}
	for _, kind := range []struct{ key, name string }{
		{"http", "http"},
		{"tcp", "tcp"},
		{"udp", "udp"},
		{"grpc", "grpc"},
		{"h2ping", "h2ping"},
		{"os_service", "os_service"},
		{"alias_service", "alias"},
		{"alias_node", "alias"},
		{"ttl", "ttl"},
	} {
		if written[kind.key] != nil && c.Type == "" {
			c.Type = kind.name
		}
	}
	return c
}

// duration is a time as Consul tells it; empty if there is none.
func duration(written map[string]any, key string) string {
	if ns, ok := written[key].(int64); ok {
		return time.Duration(ns).String()
	}
	return ""
}

// text is a text; empty if there is none.
func text(written map[string]any, key string) string {
	s, _ := written[key].(string)
	return s
}

// identified are the checks of a registration with the IDs and names that Consul gives those that have none.
func identified(checks []catalog.Check, id, name string) []catalog.Check {
	for i := range checks {
		c := &checks[i]
		if c.ID == "" {
			c.ID = "service:" + id
			if len(checks) > 1 {
				c.ID = fmt.Sprintf("%s:%d", c.ID, i+1)
			}
		}
		c.Name = cmp.Or(c.Name, fmt.Sprintf("Service '%s' check", name))
	}
	return checks
}

// registered are all sidecars as they are told.
func (a *assembly) registered() []*catalog.Sidecar {
	all := make([]*catalog.Sidecar, len(a.sidecars))
	for i, s := range a.sidecars {
		all[i] = s.registered
	}
	return all
}

// entries are all config entries.
func (a *assembly) entries() (all []*catalog.Entry) {
	for _, e := range a.tokenProviders() {
		all = append(all, e.entry)
	}
	if e := a.meshEntry; e != nil {
		all = append(all, e.entry)
	}
	if e := a.proxyDefaults; e != nil {
		all = append(all, e.written.entry)
	}
	for _, n := range a.sorted {
		if e := n.defaults; e != nil {
			all = append(all, e.written.entry)
		}
	}
	for _, n := range a.sorted {
		if e := n.entry.entry; e != nil {
			all = append(all, e)
		}
	}
	for _, e := range a.routings() {
		all = append(all, e.written.entry)
	}
	return all // the kinds are in their order
}
