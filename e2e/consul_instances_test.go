//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulInstances: a second instance of a service on the node, whose proxy cannot be served,
// takes nothing from the first, though its ID comes before that one's: a call to the control plane
// is its own proxy's.
func TestConsulInstances(t *testing.T) { //nolint:tparallel // one mesh at a time is load enough
	t.Parallel()
	for _, mode := range []string{"ext_authz", "both"} {
		for _, tokens := range []string{"separate", "one"} {
			t.Run(mode+", "+tokens, func(t *testing.T) { instances(t, mode, tokens == "one") })
		}
	}
}

func instances(t *testing.T, mode string, oneToken bool) {
	t.Helper()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m := besideConsul(t, c)
	enforced := []string{fmt.Sprintf("intention_enforcement = %q", mode)}
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello"), Config: enforced, CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "db", Protocol: "tcp", Local: serveEcho(t, ""), Config: enforced, CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}, CheckInterval: "1s"})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	dir := t.TempDir()
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(dir, "serve"), own))
	m.Serve()
	_, shared := c.NewToken(map[string]any{"ServiceIdentities": []map[string]any{{"ServiceName": "web"}, {"ServiceName": "api"}, {"ServiceName": "db"}}})
	cars := map[string]*meshtest.Sidecar{}
	for _, service := range []string{"web", "api", "db"} {
		token := shared
		if !oneToken {
			_, token = c.ServiceToken(service)
		}
		cars[service] = m.LaunchSidecar(service, "--token-file", tokenFile(t, filepath.Join(dir, service), token))
	}
	for _, car := range cars {
		car.AwaitReady()
	}
	works(t, c, m)

	for _, service := range []string{"api", "db"} {
		id := service + "-0" // "api-0-sidecar-proxy" sorts before "api-sidecar-proxy"
		c.Register(map[string]any{"ID": id, "Name": service, "Address": "127.0.0.1", "Port": m.Port(), "Connect": map[string]any{"SidecarService": map[string]any{
			"Address": "127.0.0.1", "Port": m.Port(),
			"Proxy":  map[string]any{"Config": map[string]any{"envoy_public_listener_json": "{}"}},
			"Checks": []map[string]any{{"Name": "nobody listens", "TTL": "1h", "Status": "critical"}}, // so that web dials the first alone
		}}})
	}
	meshtest.Await(t, "the second instances are there, and not served", func() error {
		s := m.MustRun("status")
		for _, id := range []string{"api-0", "db-0"} {
			if !strings.Contains(s, id+"-sidecar-proxy: envoy_public_listener_json") {
				return fmt.Errorf("the status does not speak of %s:\n%s", id, s)
			}
		}
		return nil
	})
	asked := 0
	meshtest.Holds(t, "web reaches the first instances", 6*time.Second, func() error {
		asked++
		if a, _ := cars["api"].Decided(func() meshtest.Answer { return meshtest.GetPlain("http://" + m.Upstream("web", "api")) }); !a.Allowed() {
			return fmt.Errorf("api: %s", a)
		}
		if a, _ := cars["db"].Decided(func() meshtest.Answer { return meshtest.EchoPlain(m.Upstream("web", "db"), "hello") }); !a.Allowed() {
			return fmt.Errorf("db: %s", a)
		}
		return nil
	})
	figure(t, "asked=%d", asked)
	// So that they can be denied.
	m.Intend("api", meshtest.Intentions{"web": "deny"})
	m.Intend("db", meshtest.Intentions{"web": "deny"})
	meshtest.Await(t, "api and db refuse web", func() error {
		if err := wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api"))); err != nil {
			return fmt.Errorf("api: %w", err)
		}
		return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello"))
	})
}
