//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestConsulConfigRead holds that what a real Consul prints of the entries that it was given, by `consul config read` and by its API, is
// taken as it is in files: times in nanoseconds, the keys of intentions that an older API made, and what is empty.
func TestConsulConfigRead(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	type entry = map[string]any
	meta := entry{"owner": "team"}
	passive := entry{"Interval": "10s", "MaxFailures": 5, "EnforcingConsecutive5xx": 0, "MaxEjectionPercent": 50, "BaseEjectionTime": "30s"}
	entries := []entry{
		{"Kind": "proxy-defaults", "Name": "global", "Meta": meta, "MeshGateway": entry{"Mode": "none"}, "Config": entry{
			"protocol": "HTTP", "local_connect_timeout_ms": 1000, "envoy_prometheus_bind_addr": "0.0.0.0:9102", "local_idle_timeout_ms": 0,
		}},
		{"Kind": "service-defaults", "Name": "nothing-said"},
		{
			"Kind": "service-defaults", "Name": "api", "Protocol": "HTTP", "Meta": meta, "LocalConnectTimeoutMs": 1000, "LocalRequestTimeoutMs": 2000, "MaxInboundConnections": 7,
			"BalanceInboundConnections": "exact_balance", "MeshGateway": entry{"Mode": "none"}, "MutualTLSMode": "strict", "UpstreamConfig": entry{
				"Defaults":  entry{"ConnectTimeoutMs": 3000, "Protocol": "http", "Limits": entry{"MaxConnections": 3}, "PassiveHealthCheck": passive, "BalanceOutboundConnections": "exact_balance", "MeshGateway": entry{"Mode": "none"}},
				"Overrides": []entry{{"Name": "db", "ConnectTimeoutMs": 10, "Limits": entry{"MaxPendingRequests": 4, "MaxConcurrentRequests": 5}}, {"Name": "other", "PassiveHealthCheck": entry{"Interval": 1500000000}}},
			},
		},
		{"Kind": "mesh", "Meta": meta, "TLS": entry{"Incoming": entry{"TLSMinVersion": "TLSv1_2"}, "Outgoing": entry{"TLSMinVersion": "TLSv1_3"}}, "HTTP": entry{"SanitizeXForwardedClientCert": true}},
		{"Kind": "service-intentions", "Name": "api", "Meta": meta, "Sources": []entry{
			{"Name": "web", "Action": "allow", "Description": "the shop"}, {"Name": "*", "Action": "deny", "Type": "consul"},
		}},
		{"Kind": "service-intentions", "Name": "*", "Sources": []entry{{"Name": "*", "Action": "deny"}}},
	}
	for _, e := range entries {
		c.PutConfig(e)
	}
	c.Must(http.MethodPost, "/v1/connect/intentions", entry{"SourceName": "old", "DestinationName": "legacy", "Action": "allow", "Description": "x", "Meta": meta}, nil)
	entries = append(entries, entry{"Kind": "service-intentions", "Name": "legacy"})

	byCommand, byAPI := t.TempDir(), t.TempDir()
	for _, e := range entries {
		kind, name := e["Kind"].(string), "mesh"
		if n, ok := e["Name"].(string); ok {
			name = n
		}
		file := strings.ReplaceAll(kind+"-"+name, "*", "any") + ".json"
		var text json.RawMessage
		c.Must(http.MethodGet, "/v1/config/"+kind+"/"+url.PathEscape(name), nil, &text)
		for path, text := range map[string]string{
			filepath.Join(byCommand, file): c.Run("config", "read", "-kind", kind, "-name", name),
			filepath.Join(byAPI, file):     string(text),
		} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for form, dir := range map[string]string{"consul config read": byCommand, "API": byAPI} {
		contents, err := files.Load(files.Config{Dir: dir, TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test"), Warned: func(files.Problem) {}})
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		var intentions int
		for _, d := range contents.Intentions {
			intentions += len(d.Intentions)
		}
		if m := contents.Mesh; intentions != 4 || !m.Incoming.Allow12 || m.Outgoing.Allow12 || !m.DropForwardedClientCert {
			t.Errorf("%s: %d intentions, mesh %+v", form, intentions, m)
		}
	}
}
