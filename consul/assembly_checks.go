package consul

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/sallyport/sallyport/catalog"
)

// readChecks remembers the paths that the agent's checks ask for, of those that there are. Agent.mu
// is held.
func (b *assembly) readChecks() {
	checks := b.agent.known.checks
	if !checks.ok {
		return
	}
	there := make(map[checkKey]bool, len(checks.value))
	for _, c := range checks.value {
		if c == nil || c.ExposedPort == 0 {
			continue
		}
		there[c.key()] = true
		if p := c.path(); p != "" {
			b.checkPaths[c.key()] = p
		}
	}
	maps.DeleteFunc(b.checkPaths, func(k checkKey, _ string) bool { return !there[k] })
}

// exposedChecks are the paths that the checks of a proxy's service ask for; ok is false if that is
// not known yet. Agent.mu is held.
func (b *assembly) exposedChecks(s *sidecar) (paths []catalog.ExposedPath, ok bool) {
	checks := b.agent.known.checks
	if !checks.ok {
		old := b.former(s.proxy.ID)
		if old != nil {
			paths = slices.DeleteFunc(slices.Clone(old.Exposed),
				func(e catalog.ExposedPath) bool { return !e.OfCheck })
		}
		return paths, old != nil || checks.err != nil
	}
	in := s.proxy.Inbound
	for _, id := range slices.Sorted(maps.Keys(checks.value)) {
		c := checks.value[id]
		if c == nil || c.ServiceID != s.proxy.Instance || portOf(c.ExposedPort) == 0 {
			continue
		}
		e := catalog.ExposedPath{
			Path: b.checkPaths[c.key()], ListenerPort: portOf(c.ExposedPort), LocalPort: in.LocalPort, Protocol: catalog.HTTP, OfCheck: true, Agent: b.agentAddress(), Origin: s.proxy.Origin,
		}
		if c.Type == "grpc" {
			e.Protocol = catalog.HTTP2
		}
		err := exposable(e, slices.Concat(s.proxy.Exposed, paths))
		switch {
		case e.Path == "":
			err = errors.New("the agent does not say which path it asks for: that is known when it has run once, unless the agent discards the output of checks")
		case in.LocalSocket != "":
			err = errors.New("the application is on a socket, and the agent does not say which port the check asks")
		}
		if err != nil {
			b.problem(s.proxy.ID, "", "check "+c.CheckID, "%v: its listener is not there, and it fails", err)
			continue
		}
		paths = append(paths, e)
	}
	return paths, true
}

// statusOf is the worst status of an application's checks, by those that the agent itself runs. Who has none passes; what is not known
// stays as it was. Agent.mu is held.
func (b *assembly) statusOf(r *catalog.Registration) string {
	checks := b.agent.known.checks
	if !checks.ok || !r.Native {
		return r.Status
	}
	worst := "passing"
	for _, c := range checks.value {
		switch {
		case c == nil || c.ServiceID != r.ID:
		case c.Status == "critical", c.Status == "maintenance":
			return "critical"
		case c.Status == "warning":
			worst = "warning"
		}
	}
	return worst
}

// agentAddress is what the agent is known by to other machines; empty if that is no IP address.
// Agent.mu is held.
func (b *assembly) agentAddress() string {
	if n := b.agent.known.services.value.Node; n != nil {
		if a, err := netip.ParseAddr(n.Address); err == nil && a.Zone() == "" {
			return a.Unmap().String()
		}
	}
	return ""
}
