package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// A proxy with Expose.Checks has the agent send the HTTP and gRPC checks of its service to ports of the proxy, of which each is to lead to the path that the
// check asks for. Consul's own control plane looks the paths up inside of the agent; its API tells the port, and the path only in the output of the
// check, which begins with the URL that the agent has asked for (Consul, agent/checks; seen on 1.19.2). So a path is known once its check has run, and is remembered.

// agentCheck is one of the answer of /v1/agent/checks.
type agentCheck struct {
	CheckID     string
	ServiceID   string
	Type        string
	Output      string
	ExposedPort int
}

type checkKey struct {
	service, check string
	port           int
}

// checksEvery is how often the agent's checks are read. They cannot be watched.
const checksEvery = 5 * time.Second

// grpcHealthPath is what gRPC checks ask for (gRPC Health Checking Protocol).
const grpcHealthPath = "/grpc.health.v1.Health/Check"

// checks has the agent's checks read, or not any more.
func (w *watcher) checks(ctx context.Context, wanted bool) {
	a := w.agent
	switch {
	case wanted && w.stopChecks == nil:
		ctx, w.stopChecks = context.WithCancel(ctx)
		poll(ctx, a, &a.known.checks, "/v1/agent/checks", checksEvery, func(body []byte) (map[string]*agentCheck, error) {
			m, err := decodeJSON[map[string]*agentCheck](body)
			if err == nil && m == nil {
				err = errors.New("it is no list of checks")
			}
			return m, err
		})
	case !wanted && w.stopChecks != nil:
		a.mu.Lock()
		w.stopChecks()
		w.stopChecks = nil
		a.known.checks = queryState[map[string]*agentCheck]{}
		a.mu.Unlock()
	}
}

// readChecks remembers the paths that the agent's checks ask for, of those that there are. Agent.mu is held.
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

// exposedChecks are the paths that the checks of a proxy's service ask for; ok is false if that is not known yet. Agent.mu is held.
func (b *assembly) exposedChecks(s *sidecar) (paths []catalog.ExposedPath, ok bool) {
	checks := b.agent.known.checks
	if !checks.ok {
		old := b.former(s.proxy.ID)
		if old != nil {
			paths = slices.DeleteFunc(slices.Clone(old.Exposed), func(e catalog.ExposedPath) bool { return !e.OfCheck })
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
		err := s.exposable(e, slices.Concat(s.proxy.Exposed, paths))
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

// agentAddress is what the agent is known by to other machines; empty if that is no IP address. Agent.mu is held.
func (b *assembly) agentAddress() string {
	if n := b.agent.known.services.value.Node; n != nil {
		if a, err := netip.ParseAddr(n.Address); err == nil && a.Zone() == "" {
			return a.Unmap().String()
		}
	}
	return ""
}

func (c *agentCheck) key() checkKey { return checkKey{c.ServiceID, c.CheckID, c.ExposedPort} }

// path is what a check asks for; empty if the agent does not say.
func (c *agentCheck) path() string {
	switch c.Type {
	case "grpc":
		return grpcHealthPath
	case "http":
		// Whether the application answered is told after the URL: no answer can make one up.
		if u, err := askedURL(c.Output); err == nil && u.Scheme == "http" && u.Port() == strconv.Itoa(c.ExposedPort) {
			return cmp.Or(u.EscapedPath(), "/")
		}
	}
	return ""
}

// askedURL is the URL that the output of an HTTP check begins with: "HTTP GET http://…: 200 OK Output: …", or `Get "http://…": connection refused`.
func askedURL(output string) (*url.URL, error) {
	first, rest, _ := strings.Cut(output, " ")
	if first == "HTTP" {
		_, rest, _ = strings.Cut(rest, " ")
		text, _, ok := strings.Cut(rest, ": ")
		if !ok {
			return nil, fmt.Errorf("no URL in %.60q", output)
		}
		return url.Parse(text)
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return nil, err
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return nil, err
	}
	return url.Parse(text)
}
