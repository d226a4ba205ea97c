//go:build e2e

package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestAlertsNameEnvoysMetrics: docs/guides/alerts.yaml and watching.md name metrics that real sidecars have, on the oldest Envoy and on the newest. The cmd
// package's tests do the same for sallyport's own.
func TestAlertsNameEnvoysMetrics(t *testing.T) {
	t.Parallel()
	alerts, err := os.ReadFile("../docs/guides/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/guides/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	_, graphs, _ := strings.Cut(string(page), "## Worth a graph")
	names := regexp.MustCompile(`\benvoy_[a-z0-9_]+`).FindAllString(string(alerts)+graphs, -1)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 8 {
		t.Fatalf("they name %q alone", names)
	}
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy, Flags: []string{"--intention-enforcement", "both"}})
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
			m.Serve()
			var stats strings.Builder
			for _, s := range m.Sidecars("db", "api") {
				stats.WriteString(s.Admin("/stats/prometheus"))
			}
			for _, name := range names {
				// The page says so: there the secret's name is a part of the metric's.
				want := name != "envoy_sds_update_rejected" || envoy != "1.36.4"
				if got := strings.Contains(stats.String(), "\n"+name+"{"); got != want {
					t.Errorf("a sidecar has %s: %v, want %v", name, got, want)
				}
			}
		})
	}
}
