//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulIPv6Node holds that sidecars without an address of their own are reached on a node that has one of IPv6, by others and by the
// agent's checks, which dial 127.0.0.1 by default, and that what proxy and upstream say in their own config is spoken though no service-defaults
// say it.
func TestConsulIPv6Node(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{More: map[string]any{"bind_addr": "::1"}})
	m := besideConsul(t, c)
	local := serveHTTP(t, "hello")
	http := map[string]any{"protocol": "http"}
	register := func(name string, proxy map[string]any) {
		proxy["LocalServiceAddress"], proxy["LocalServicePort"], proxy["Config"] = local.Host(), local.Port(), http
		port := m.Port()
		check := map[string]any{"Name": "listening", "TCP": fmt.Sprintf("127.0.0.1:%d", port), "Interval": "1s"}
		c.Register(map[string]any{"Name": name, "Port": local.Port(), "Connect": map[string]any{
			"SidecarService": map[string]any{"Port": port, "Checks": []any{check}, "Proxy": proxy},
		}})
	}
	upstream := m.Port()
	register("api", map[string]any{})
	register("web", map[string]any{"Upstreams": []map[string]any{{"DestinationName": "api", "LocalBindPort": upstream, "Config": http}}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web")
	c.AwaitChecks()
	meshtest.Await(t, "web reaches api", func() error {
		return wantAllowed(meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d", upstream)))
	})
}
