//go:build e2e

package e2e

import (
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulProxyID: an ID of characters to which HTTP, or Envoy in metadata, gives a meaning comes
// through to the control plane as it is.
func TestConsulProxyID(t *testing.T) { //nolint:tparallel // one mesh at a time is load enough
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			c := meshtest.StartConsul(t, meshtest.Agent{})
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Envoy: envoy})
			local := serveHTTP(t, "hello")
			c.PutConfig(map[string]any{"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
			const id = "ä pi 100% %REQ(:path)% %41,+"
			port := m.Port()
			c.Register(map[string]any{"ID": id, "Name": "api", "Address": "127.0.0.1", "Port": 1, "Connect": map[string]any{"SidecarService": map[string]any{
				"Address": "127.0.0.1", "Port": port, "Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", port, "10s")},
				"Proxy": map[string]any{
					"LocalServiceAddress": local.Host(), "LocalServicePort": local.Port(),
					"Config": map[string]any{"intention_enforcement": "ext_authz"},
				},
			}}})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			m.Sidecars(id, "web")
			meshtest.Await(t, "web reaches api", func() error {
				return wantAllowed(meshtest.GetPlain("http://" + m.Upstream("web", "api")))
			})
			m.Intend("api", meshtest.Intentions{"web": "deny"})
			meshtest.Await(t, "api refuses web", func() error {
				return wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api")))
			})
		})
	}
}
