//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulMixed runs sidecars of `consul connect envoy` and of sallyport in one mesh. Each kind reaches each, as a client and as a server, and
// intentions hold on whichever side they are enforced.
func TestConsulMixed(t *testing.T) { //nolint:tparallel // six Envoys at one time are enough load
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) { mixed(t, envoy) })
	}
}

func mixed(t *testing.T, envoy string) {
	t.Helper()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Envoy: envoy})
	// "ours" are the services whose sidecars are sallyport's, "theirs" those of Consul's own control plane.
	kinds := []string{"ours", "theirs"}
	servers := []string{"api-ours", "api-theirs", "db-ours", "db-theirs"}
	for _, k := range kinds {
		m.Add(meshtest.Service{Name: "api-" + k, Protocol: "http", Local: serveHTTP(t, "hello from api-"+k), CheckInterval: "1s"})
		m.Add(meshtest.Service{Name: "db-" + k, Protocol: "tcp", Local: serveEcho(t, ""), CheckInterval: "1s"})
	}
	for _, k := range kinds {
		m.Add(meshtest.Service{Name: "web-" + k, Upstreams: servers, CheckInterval: "1s"})
	}
	both := meshtest.Intentions{"web-ours": "allow", "web-theirs": "allow"}
	for _, s := range servers {
		m.Intend(s, both)
	}
	m.Serve()
	ours := m.Sidecars("api-ours", "db-ours")
	m.Sidecars("web-ours")
	for _, s := range []string{"api-theirs", "db-theirs", "web-theirs"} {
		c.Envoy(m, s, time.Second)
	}

	reach := func(client, server string) meshtest.Answer {
		if server[:3] == "api" {
			return meshtest.GetPlain("http://" + m.Upstream(client, server))
		}
		return meshtest.EchoPlain(m.Upstream(client, server), "hello")
	}
	expect := func(what string, denied map[[2]string]bool) {
		t.Helper()
		took := meshtest.Await(t, what, func() error {
			for _, k := range kinds {
				for _, s := range servers {
					want := wantAllowed
					if denied[[2]string{"web-" + k, s}] {
						want = wantDenied
					}
					if err := want(reach("web-"+k, s)); err != nil {
						return fmt.Errorf("web-%s → %s: %w", k, s, err)
					}
				}
			}
			return nil
		})
		figure(t, "state=%q reached_ms=%.0f", what, millis(took))
	}
	expect("all four directions", nil)
	for _, k := range kinds {
		// Denied one of the two, the other goes on.
		client := "web-" + k
		denied := map[[2]string]bool{}
		for _, s := range servers {
			i := meshtest.Intentions{"web-ours": "allow", "web-theirs": "allow"}
			i[client] = "deny"
			m.Intend(s, i)
			denied[[2]string{client, s}] = true
		}
		expect(client+" denied everywhere", denied)
		for _, s := range servers {
			m.Intend(s, both)
		}
		expect("all four directions after "+client+" was denied", nil)
	}
	// What is said of nobody is denied by both.
	for _, s := range servers {
		m.Intend(s, nil)
	}
	all := map[[2]string]bool{}
	for _, k := range kinds {
		for _, s := range servers {
			all[[2]string{"web-" + k, s}] = true
		}
	}
	expect("no intentions", all)
	for _, car := range ours {
		s := car.Stats()
		old, now := s.Sum(`listener\..*\.ssl\.versions\.TLSv1\.2`), s.Sum(`listener\..*\.ssl\.versions\.TLSv1\.3`)
		figure(t, "server=%s tls12_handshakes=%d tls13_handshakes=%d", car.Name, old, now)
		if old == 0 || now == 0 {
			t.Errorf("%s: %d handshakes of TLS 1.2 and %d of 1.3; want both, as clients under Consul's control plane speak 1.2", car.Name, old, now)
		}
	}
}
