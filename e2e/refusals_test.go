//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// ownMetrics are the samples of the control plane's own metrics, by name and labels as they are written.
func ownMetrics(t *testing.T, m *meshtest.Mesh) map[string]float64 {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.Runtime, "admin.sock"))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://sallyport/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok && name != "#" {
			if out[name], err = strconv.ParseFloat(value, 64); err != nil {
				continue // labels with blanks are none of ours
			}
		}
	}
	return out
}

// TestRefusalsAreCounted: Envoys report whom they refuse, in the handshake and by the rules, and nobody else, on the oldest Envoy and on the newest.
func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db", "api"}})
			m.Intend("db", meshtest.Intentions{"web": "allow"})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			m.Sidecars("db", "api", "web")
			for range 5 { // who is let in is not counted
				for what, a := range map[string]meshtest.Answer{"db": meshtest.EchoPlain(m.Upstream("web", "db"), "hello"), "api": meshtest.GetPlain("http://" + m.Upstream("web", "api"))} {
					if !a.Allowed() {
						t.Fatalf("web → %s: %v", what, a)
					}
				}
			}
			const n = 3
			for range n {
				if a := m.Client("batch", "db").Echo(m.Public("db"), "hello"); !a.Denied() {
					t.Errorf("batch → db: %v", a)
				}
				if a := m.Client("batch", "api").Get(m.Public("api"), "/"); !a.Denied() {
					t.Errorf("batch → api: %v", a)
				}
				conn, err := net.Dial("tcp", m.Public("db")) // as a check of a port does
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			sample := func(destination, reason string) string {
				return fmt.Sprintf("sallyport_refusals_total{destination=%q,reason=%q}", destination, reason)
			}
			want := map[string]float64{sample("db", "handshake"): n, sample("db", "rules"): 0, sample("api", "handshake"): 0, sample("api", "rules"): n, sample("web", "rules"): 0}
			got := map[string]float64{}
			meshtest.Await(t, "the refusals to be counted", func() error {
				all := ownMetrics(t, m)
				for name, value := range want {
					got[name] = all[name]
					if all[name] < value {
						return fmt.Errorf("%s is %v, want %v", name, all[name], value)
					}
				}
				return nil
			})
			for name, value := range want {
				if got[name] != value {
					t.Errorf("%s is %v, want %v", name, got[name], value)
				}
			}
		})
	}
}
