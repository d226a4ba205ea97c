//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// instance is the definition of one of several instances of api.
func instance(id string, appPort, sidecarPort int) string {
	return fmt.Sprintf(`service {
  name    = "api"
  id      = %q
  address = "127.0.0.1"
  port    = %d
  connect { sidecar_service { port = %d } }
}
`, id, appPort, sidecarPort)
}

// TestInstancesMove replaces the instances of a service one after the other, under load: each new one serves, and no request fails.
func TestInstancesMove(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Write("defaults.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n")
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	apps := []*meshtest.Server{serveHTTP(t, "0"), serveHTTP(t, "1"), serveHTTP(t, "2"), serveHTTP(t, "3")}
	file := func(n int) string { return fmt.Sprintf("api-%d.hcl", n) }
	m.Write(file(0), instance("api-0", apps[0].Port(), m.Port()))
	m.Serve()
	m.Sidecars("web", "api-0")
	load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "api"), KeepAlive: 100, Fresh: 25})
	for n := 1; n < len(apps); n++ {
		// As one does it: the new instance's sidecar is up before others are told to go there. It gets no request until its service is
		// healthy, and needs none for being ready.
		text := instance(fmt.Sprintf("api-%d", n), apps[n].Port(), m.Port())
		starting := strings.Replace(text, "  connect", "  checks  = [{ name = \"starting\", status = \"critical\" }]\n  connect", 1)
		m.Write(file(n), starting)
		meshtest.Await(t, "the new instance is known", func() error {
			_, err := m.Proxy(fmt.Sprintf("api-%d", n))
			return err
		})
		m.Sidecar(fmt.Sprintf("api-%d", n))
		if r := apps[n].Requests.Load(); r != 0 {
			t.Errorf("instance %d got %d requests before it was healthy", n, r)
		}
		m.Write(file(n), text)
		meshtest.Await(t, "the new instance serves", func() error {
			if apps[n].Requests.Load() == 0 {
				return errors.New("no request yet")
			}
			return nil
		})
		m.Remove(file(n - 1))
		meshtest.Await(t, "the old instance is left alone", func() error {
			before := apps[n-1].Requests.Load()
			for range 20 {
				if a := meshtest.GetPlain("http://" + m.Upstream("web", "api")); !a.Allowed() {
					t.Fatalf("web → api: %v", a)
				}
			}
			if got := apps[n-1].Requests.Load() - before; got != 0 {
				return fmt.Errorf("%d requests", got)
			}
			return nil
		})
	}
	unscathed(t, "3 instances replaced", load.Stop())
}

// TestUpstreamsComeAndGo adds and removes upstreams of web while it uses another: nothing happens to that one.
func TestUpstreamsComeAndGo(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	m.Add(meshtest.Service{Name: "extra", Local: serveEcho(t, "")})
	m.Intend("extra", meshtest.Intentions{"web": "allow"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
	meshtest.Await(t, "extra is known", func() error { _, err := m.Proxy("extra"); return err })
	m.Sidecar("extra")
	same := unmodified(t, api, db)
	load := busy(t, m)
	for range 5 {
		m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db", "extra"}})
		meshtest.Await(t, "web → extra", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "extra"), "hello")) })
		m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db", "api"}})
		meshtest.Await(t, "extra is gone", func() error {
			if s := web.Stats(); s["cluster_manager.active_clusters"] != 4 || s["listener_manager.total_listeners_active"] != 3 {
				return fmt.Errorf("%d clusters besides the control plane's and the application's, %d listeners", s["cluster_manager.active_clusters"]-2, s["listener_manager.total_listeners_active"])
			}
			return nil
		})
	}
	unscathed(t, "an upstream 5 times added and removed", load.Stop())
	same("upstreams of web")
}

// TestMetricsAndLimits: the proxy's metrics listener tells Prometheus with Consul's labels what Envoy counts, the admin interface on a port changes
// nothing, and a limit of connections is one.
func TestMetricsAndLimits(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	metricsPort, adminPort := m.Port(), m.Port()
	app := serveEcho(t, "")
	m.Add(meshtest.Service{Name: "db", Local: app, Config: []string{"max_inbound_connections = 2"}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}, Config: []string{fmt.Sprintf(`envoy_prometheus_bind_addr = "127.0.0.1:%d"`, metricsPort)}})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("db", "web")
	one, two := connect(t, m.Upstream("web", "db")), connect(t, m.Upstream("web", "db"))
	if a := meshtest.EchoPlain(m.Upstream("web", "db"), "hello"); a.Allowed() {
		t.Errorf("a third connection where two are allowed: %v", a)
	}
	for _, conn := range []io.Closer{one, two} {
		conn.Close()
	}
	meshtest.Await(t, "a connection once the others are gone", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })

	a := meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d/metrics", metricsPort))
	for _, want := range []string{"envoy_cluster_upstream_cx_total{", `local_cluster="web"`, `consul_destination_service="db"`, `consul_source_datacenter="dc1"`} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("/metrics of web's sidecar (status %d) does not hold %s", a.Status, want)
		}
	}
	if a := meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d/config_dump", metricsPort)); a.Status != http.StatusNotFound {
		t.Errorf("/config_dump at the metrics listener: %v, want status 404", a)
	}

	m.Add(meshtest.Service{Name: "admin"})
	meshtest.Await(t, "the service is known", func() error { _, err := m.Proxy("admin"); return err })
	p := m.LaunchSidecar("admin", "--admin-bind", fmt.Sprintf("127.0.0.1:%d", adminPort)).Abandon()
	base := fmt.Sprintf("http://127.0.0.1:%d", adminPort)
	meshtest.Await(t, "ready on a port", func() error { return wantAllowed(meshtest.GetPlain(base + "/ready")) })
	for _, path := range []string{"/quitquitquit", "/logging?level=trace", "/drain_listeners", "/healthcheck/fail", "/runtime_modify?a=b", "/cpuprofiler?enable=y"} {
		resp, err := http.Post(base+path, "", http.NoBody)
		if err != nil {
			t.Errorf("POST %s: %v", path, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("POST %s on a port that every user reaches: %s, want 403", path, resp.Status)
		}
	}
	if p.Ended() {
		t.Error("Envoy was ended over its admin port")
	}
}
