//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// besideConsul makes a mesh beside an agent that runs. flags are further ones of `sallyport serve`.
func besideConsul(t *testing.T, c *meshtest.Consul, flags ...string) *meshtest.Mesh {
	t.Helper()
	return meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Flags: flags})
}

// consulPair is pair beside a Consul agent, without sidecars: web dials api over http and db over tcp. interval is how often Consul looks at the sidecars.
func consulPair(t *testing.T, c *meshtest.Consul, interval string) *meshtest.Mesh {
	t.Helper()
	m := besideConsul(t, c)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveStreams(t, "hello from api"), CheckInterval: interval})
	m.Add(meshtest.Service{Name: "db", Protocol: "tcp", Local: serveEcho(t, ""), CheckInterval: interval})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}, CheckInterval: interval})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	return m
}

// works waits until Consul has found all sidecars listening and web reaches api and db.
func works(t *testing.T, c *meshtest.Consul, m *meshtest.Mesh) {
	t.Helper()
	c.AwaitChecks()
	meshtest.Await(t, "web reaches api and db", func() error {
		if err := wantAllowed(meshtest.GetPlain("http://" + m.Upstream("web", "api"))); err != nil {
			return fmt.Errorf("api: %w", err)
		}
		if err := wantAllowed(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")); err != nil {
			return fmt.Errorf("db: %w", err)
		}
		return nil
	})
}

// TestConsul registers services as for Consul's own proxies, with intentions, and gives them sidecars.
func TestConsul(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	m.Serve()
	m.Sidecars("web", "api", "db")
	works(t, c, m)

	s := m.Status()
	for _, service := range []string{"web", "api", "db"} {
		p, err := m.Proxy(service)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Connected || !p.InSync || p.ID != service+"-sidecar-proxy" || len(p.Warnings) > 0 || p.LastNACK != nil {
			t.Errorf("status: %s", p)
		}
	}
	if !strings.HasSuffix(s.TrustDomain, ".consul") || s.Datacenter != "dc1" {
		t.Errorf("trust domain %s, datacenter %s", s.TrustDomain, s.Datacenter)
	}
	if out := m.MustRun("status"); !strings.Contains(out, "consul agent") || !strings.Contains(out, "web-sidecar-proxy") {
		t.Errorf("status: %s", out)
	}
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 0 || !strings.Contains(r.Stdout, "service-intentions/api") {
		t.Errorf("intention check web api: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}

	// Denied.
	m.Intend("api", meshtest.Intentions{"web": "deny"})
	m.Intend("db", nil) // nothing is said, and the default is to deny
	meshtest.Await(t, "api and db refuse web", func() error {
		if err := wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api"))); err != nil {
			return fmt.Errorf("api: %w", err)
		}
		if err := wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")); err != nil {
			return fmt.Errorf("db: %w", err)
		}
		return nil
	})
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 1 {
		t.Errorf("intention check web api: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}

	// A service that is gone.
	c.Must("PUT", "/v1/agent/service/deregister/web", nil, nil)
	meshtest.Await(t, "web is not there any more", func() error {
		if p, err := m.Proxy("web"); err == nil {
			return errors.New(p.String())
		}
		return nil
	})
}

func serveStreams(t *testing.T, body string) *meshtest.Server {
	t.Helper()
	s, err := meshtest.ServeHTTP("127.0.0.1:0", "", meshtest.ServeStreams(body))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
