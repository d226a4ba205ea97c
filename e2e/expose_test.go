//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestExpose: who has no certificate gets an exposed path, and nothing else; whom the intentions deny gets it too, for that is what it is there for. On the port of the
// public listener nothing changes.
func TestExpose(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"tcp", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			app, metrics := serveHTTP(t, "hello"), serveHTTP(t, "metrics")
			m := newMesh(t)
			public, health, scrape := m.Port(), m.Port(), m.Port()
			m.Write("api.hcl", fmt.Sprintf(`service {
  name    = "api"
  id      = "api"
  address = "127.0.0.1"
  port    = %d
  connect { sidecar_service {
    port = %d
    proxy {
      config { intention_enforcement = "both" }
      expose { paths = [
        { path = "/healthz", listener_port = %d, local_path_port = %d },
        { path = "/metrics", listener_port = %d, local_path_port = %d },
      ] }
    }
  } }
}
`, app.Port(), public, health, app.Port(), scrape, metrics.Port()))
			m.Write("api-defaults.hcl", fmt.Sprintf("Kind = \"service-defaults\"\nName = \"api\"\nProtocol = %q\n", protocol))
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
			m.Intend("api", meshtest.Intentions{"*": "deny"})
			m.Serve()
			m.Sidecars("api", "web")
			ask := func(port int, path string, status int, body string) {
				t.Helper()
				a := getPort(port, path)
				if a.Status != status || strings.TrimSpace(a.Body) != body {
					t.Errorf("%s of port %d: %v, want %d and %q", path, port, a, status, body)
				}
			}
			meshtest.Await(t, "the exposed path", func() error {
				if a := getPort(health, "/healthz"); a.Status != http.StatusOK {
					return fmt.Errorf("%v", a)
				}
				return nil
			})
			ask(health, "/healthz", http.StatusOK, "hello")
			ask(health, "/healthz?verbose", http.StatusOK, "hello")
			ask(scrape, "/metrics", http.StatusOK, "metrics")
			reached, scraped := app.Requests.Load(), metrics.Requests.Load()
			for _, path := range []string{"/", "/healthz/", "/healthz/x", "/healthzz", "/HEALTHZ", "/metrics", "/healthz/../admin", "/%2e%2e/admin"} {
				ask(health, path, http.StatusNotFound, "")
			}
			ask(scrape, "/healthz", http.StatusNotFound, "")
			if a := getPort(public, "/healthz"); a.Status != 0 {
				t.Errorf("the public listener in plaintext: %v", a)
			}
			if a := meshtest.GetPlain("http://" + m.Upstream("web", "api") + "/healthz"); a.Allowed() {
				t.Errorf("web → api, which is denied: %v", a)
			}
			if n, s := app.Requests.Load(), metrics.Requests.Load(); n != reached || s != scraped {
				t.Errorf("%d requests for other paths reached the application, %d its other port", n-reached, s-scraped)
			}
		})
	}
}

// TestConsulExpose: the paths of a registration are exposed, and those that the agent's checks of it ask for.
func TestConsulExpose(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	checked := c.Agent.Expose
	app := serveHTTP(t, "hello")
	m := besideConsul(t, c)
	public, health := m.Port(), m.Port()
	c.Register(map[string]any{
		"Name": "api", "Address": "127.0.0.1", "Port": app.Port(),
		"Checks": []any{map[string]any{"CheckID": "alive", "Name": "alive", "HTTP": fmt.Sprintf("http://127.0.0.1:%d/alive?deep", app.Port()), "Interval": "1s"}},
		"Connect": map[string]any{"SidecarService": map[string]any{
			"Port": public,
			"Proxy": map[string]any{"Expose": map[string]any{
				"Checks": true,
				"Paths":  []any{map[string]any{"Path": "/healthz", "ListenerPort": health, "LocalPathPort": app.Port()}},
			}},
		}},
	})
	m.Serve()
	m.Sidecars("api")
	meshtest.Await(t, "the exposed path", func() error { return wantAllowed(getPort(health, "/healthz")) })
	meshtest.Await(t, "the exposed path of the check", func() error { return wantAllowed(getPort(checked, "/alive")) })
	meshtest.Await(t, "the check passes, by way of the proxy", func() error {
		var checks map[string]struct{ Status, Output string }
		c.Must(http.MethodGet, "/v1/agent/checks", nil, &checks)
		if k := checks["alive"]; k.Status != "passing" || !strings.Contains(k.Output, fmt.Sprintf(":%d/alive?deep: 200 OK", checked)) {
			return fmt.Errorf("%s %q", k.Status, k.Output)
		}
		return nil
	})
	for port, path := range map[int]string{health: "/", checked: "/healthz"} {
		if a := getPort(port, path); a.Status != http.StatusNotFound {
			t.Errorf("another path, %s of port %d: %v", path, port, a)
		}
	}
	p, err := m.Proxy("api")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) > 0 || p.LastNACK != nil {
		t.Errorf("status: %s", p)
	}
}

// getPort asks for a path in plaintext.
func getPort(port int, path string) meshtest.Answer {
	return meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
}
