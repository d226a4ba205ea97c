//go:build e2e

package e2e

import (
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestOlderEnvoys runs the promise, a rotation and a revocation on the older Envoys; the whole suite runs on meshtest.Version.
func TestOlderEnvoys(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", "1.38.3"} {
		for _, s := range []shape{{mode: "rbac", protocol: "tcp"}, {mode: "both", protocol: "tcp"}, {mode: "rbac", protocol: "http"}, {mode: "ext_authz", protocol: "http"}, {mode: "both", protocol: "http", ipv6: true}} {
			t.Run(envoy+"_"+s.String(), func(t *testing.T) {
				t.Parallel()
				allowAndDeny(t, s, envoy)
			})
		}
		t.Run(envoy+"_changes", func(t *testing.T) {
			t.Parallel()
			echo, web := serveEcho(t, ""), serveHTTP(t, "hello")
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "db", Local: echo})
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: web})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db", "api"}})
			m.Intend("db", meshtest.Intentions{"web": "allow"})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			cars := m.Sidecars("db", "api", "web")
			load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "api"), KeepAlive: 50, Fresh: 10, TCP: m.Upstream("web", "db"), Held: 2, Dialled: 5})
			rotate(t, m, 3, cars...)
			unscathed(t, "3 rotations", load.Stop())
			m.Intend("db", meshtest.Intentions{"web": "deny"})
			m.AwaitCheck("web", "db", false)
			meshtest.Await(t, "new connection to db refused", func() error {
				return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello"))
			})
		})
	}
}

// TestExtAuthzAloneIsRefusedOnEnvoy136 holds that mode ext_authz of a tcp service, which that Envoy cannot do safely, is not done at all
// rather than unsafely: nobody gets in, and the status says why.
func TestExtAuthzAloneIsRefusedOnEnvoy136(t *testing.T) {
	t.Parallel()
	echo := serveEcho(t, "")
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: "1.36.4"})
	m.Add(meshtest.Service{Name: "db", Local: echo, Config: []string{`intention_enforcement = "ext_authz"`}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecar("web")
	m.LaunchSidecar("db").Abandon()
	meshtest.Await(t, "status says why", func() error { return m.SaysOf("db", "ext_authz") })
	if a := meshtest.EchoPlain(m.Upstream("web", "db"), "hello"); a.Allowed() {
		t.Errorf("web → db, whose Envoy cannot do what its mode needs: %v", a)
	}
}
