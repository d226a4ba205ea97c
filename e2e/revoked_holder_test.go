//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestRevokedHolder revokes the certificate of a sidecar that has connections to HTTP services in its pools. It is given another one, dials
// with that, and goes on; nothing of that is undone when the certificate is unrevoked.
func TestRevokedHolder(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := &revokedMesh{Mesh: meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy}), t: t}
			page := serveHTTP(t, "hello")
			for _, mode := range []string{"rbac", "ext_authz"} {
				m.services = append(m.services, "api-"+mode)
				m.Add(meshtest.Service{Name: "api-" + mode, Protocol: "http", Local: page, Config: []string{fmt.Sprintf("intention_enforcement = %q", mode)}})
			}
			m.Add(meshtest.Service{Name: "web", Upstreams: m.services})
			m.Intend("*", meshtest.Intentions{"web": "allow"})
			m.Serve()
			cars := []*meshtest.Sidecar{m.LaunchSidecar("web")}
			for _, s := range m.services {
				cars = append(cars, m.LaunchSidecar(s))
			}
			for _, car := range cars {
				car.AwaitReady()
			}
			clients := map[string]*http.Client{}
			for _, s := range m.services {
				clients[s] = &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 5 * time.Second}
				t.Cleanup(clients[s].CloseIdleConnections)
				meshtest.Await(t, "web reaches "+s, func() error { return m.asks(clients[s], s) })
			}
			serial, _ := m.inUse()
			m.MustRun("revoke", serial)
			began := time.Now()
			for _, s := range m.services {
				meshtest.Await(t, "web reaches "+s+" with its new certificate", func() error { return m.letsIn(clients[s], s) })
				figure(t, "service=%s let-in-again=%s", s, time.Since(began).Round(time.Millisecond))
			}
			m.goesOn(clients)
			m.MustRun("unrevoke", serial)
			m.goesOn(clients)

			// By a person, who writes into the list and runs no command.
			serial, digest := m.inUse()
			m.Write("revoked.yaml", fmt.Sprintf("revoked:\n- serial: %q\n  sha256: %q\n  spiffe_id: %s\n", serial, digest, m.URI("web")))
			meshtest.Await(t, "web has another certificate", func() error {
				if now, _ := m.inUse(); now == serial {
					return errors.New("it has that of the list")
				}
				return nil
			})
			for _, s := range m.services {
				meshtest.Await(t, "web reaches "+s+" with it", func() error { return m.letsIn(clients[s], s) })
			}
			m.goesOn(clients)
		})
	}
}

// letsIn is nil if a service answers many requests in a row: one of Envoy's workers may have a new connection before all have.
func (m *revokedMesh) letsIn(client *http.Client, service string) error {
	for range 20 {
		if err := m.asks(client, service); err != nil {
			return err
		}
	}
	return nil
}

// inUse is the certificate that web's sidecar has.
func (m *revokedMesh) inUse() (serial, digest string) {
	m.t.Helper()
	var leafs []struct {
		Serial, SHA256 string
		InUse          bool `json:"in_use"`
	}
	if err := json.Unmarshal([]byte(m.MustRun("leaf", "list", "web", "--json")), &leafs); err != nil {
		m.t.Fatal(err)
	}
	for _, l := range leafs {
		if l.InUse {
			return l.Serial, l.SHA256
		}
	}
	m.t.Fatalf("web uses none of %+v", leafs)
	return "", ""
}

// asks makes one request of web's application.
func (m *revokedMesh) asks(client *http.Client, service string) error {
	r, err := client.Get("http://" + m.Upstream("web", service) + "/")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// goesOn is that nothing is refused for a while.
func (m *revokedMesh) goesOn(clients map[string]*http.Client) {
	m.t.Helper()
	for range 40 {
		for s, client := range clients {
			if err := m.asks(client, s); err != nil {
				m.t.Errorf("%s: %v", s, err)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
