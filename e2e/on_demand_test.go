//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestOnDemandClusters: an Envoy whose owner added a listener with on-demand CDS, which subscribes to clusters by name, is told at once of
// one that does not exist, and answers 503; it would wait for its timeout otherwise.
func TestOnDemandClusters(t *testing.T) {
	t.Parallel()
	const timeout = 10 * time.Second
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "web", Protocol: "http", Local: serveHTTP(t, "hello")})
			m.Serve()
			admin := filepath.Join(t.TempDir(), "a.sock")
			b := makeBootstrap(t, m, "web", "--admin-bind", "unix:"+admin)
			port := m.Port()
			addListener(t, filepath.Join(b.dir, "bootstrap.json"), fmt.Sprintf(onDemandListener, port, int(timeout.Seconds())))
			cmd := exec.Command(m.Envoy(), "-c", filepath.Join(b.dir, "bootstrap.json"), "--log-level", "warning", "--disable-hot-restart")
			m.Adopt("web", meshtest.Start(t, "envoy", filepath.Join(t.TempDir(), "envoy.log"), cmd), admin).AwaitReady()
			ask := func(cluster string) (int, time.Duration) {
				t.Helper()
				q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("x-cluster", cluster)
				began := time.Now()
				r, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				return r.StatusCode, time.Since(began)
			}
			if code, _ := ask("local_app"); code != http.StatusOK {
				t.Fatalf("a cluster that is there: %d, want 200", code)
			}
			code, took := ask("nosuch")
			if code != http.StatusServiceUnavailable || took >= timeout {
				t.Errorf("a cluster that is not there: %d after %v, want 503 before the timeout of %v", code, took, timeout)
			}
			figure(t, "missing_ms=%.0f", millis(took))
		})
	}
}

// onDemandListener routes by a header to any cluster, and fetches those that are missing.
const onDemandListener = `{
	"name": "on_demand", "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}},
	"filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
		"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "on_demand",
		"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}}]}]},
		"http_filters": [
			{"name": "on_demand", "typed_config": {
				"@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand",
				"odcds": {"source": {"ads": {}, "resource_api_version": "V3"}, "timeout": "%ds"}}},
			{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]
}`

// addListener adds a listener to a bootstrap.
func addListener(t *testing.T, path, listener string) {
	t.Helper()
	var bootstrap map[string]any
	readJSON(t, path, &bootstrap)
	static, _ := bootstrap["static_resources"].(map[string]any)
	if static == nil {
		t.Fatal("the bootstrap has no static resources")
	}
	var l any
	if err := json.NewDecoder(strings.NewReader(listener)).Decode(&l); err != nil {
		t.Fatal(err)
	}
	listeners, _ := static["listeners"].([]any)
	static["listeners"] = append(listeners, l)
	out, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(out))
}
