//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// management is the management token of the agents with ACLs.
const management = "6d616e61-6765-4d65-8e74-746f6b656e31"

// tokenFile writes a token where its owner alone reads it. It is replaced in one step.
func tokenFile(t *testing.T, path, token string) string {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// guarded is an agent with ACLs that deny, and beside it the mesh of consulPair, whose control plane has the token that `sallyport consul policy` asks
// for and nothing more, and whose sidecars have those of their services. tokens are the files of the latter, accessors what they are called by.
// own is the file of the former.
func guarded(t *testing.T) (c *meshtest.Consul, m *meshtest.Mesh, tokens, accessors map[string]string, own string) {
	t.Helper()
	c = meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m = consulPair(t, c, "1s")
	// Each request is asked about too, with the token of the sidecar that asks.
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveStreams(t, "hello from api"), CheckInterval: "1s", Config: []string{`intention_enforcement = "both"`}})
	dir := t.TempDir()
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, secret := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	own = tokenFile(t, filepath.Join(dir, "serve"), secret)
	m.SetFlags("--token-file", own)
	m.Serve()
	tokens, accessors = map[string]string{}, map[string]string{}
	for _, service := range []string{"web", "api", "db"} {
		accessor, secret := c.ServiceToken(service)
		tokens[service], accessors[service] = tokenFile(t, filepath.Join(dir, service), secret), accessor
	}
	return c, m, tokens, accessors, own
}

// TestConsulACL: with ACLs that deny, the control plane works with exactly the documented policy and each sidecar with the token of its service.
func TestConsulACL(t *testing.T) { //nolint:tparallel // the parts follow each other
	t.Parallel()
	c, m, tokens, accessors, own := guarded(t)
	cars := map[string]*meshtest.Sidecar{}
	for _, service := range []string{"web", "api"} {
		cars[service] = m.LaunchSidecar(service, "--token-file", tokens[service])
	}
	for _, car := range cars {
		car.AwaitReady()
	}
	// Another service's token, and none, are not good for db: its sidecar says so and does not start.
	foreign, err := os.ReadFile(tokens["web"])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for token, reason := range map[string]string{
		strings.TrimSpace(string(foreign)):     `the token has no service:write on "db"`,
		"anonymous":                            `the token has no service:write on "db"`,
		"00000000-dead-4000-8000-000000000000": "Consul does not take the token",
	} {
		r := m.RunSidecar("db", "--token-file", tokenFile(t, filepath.Join(dir, "db"), token))
		if r.Exit != 2 || !strings.Contains(r.Stderr, reason) || !strings.Contains(r.Stderr, "give the right one with --token-file") {
			t.Errorf("sallyport envoy with the token %.9s…: exit %d, %s, want %q", token, r.Exit, r.Stderr, reason)
		}
	}
	if log := m.ServeProcess().Log(); strings.Contains(log, `msg="stream rejected" proxy=db-sidecar-proxy`) {
		t.Error("an Envoy was started with a wrong token")
	}
	cars["db"] = m.LaunchSidecar("db", "--token-file", tokens["db"])
	cars["db"].AwaitReady()
	works(t, c, m)
	if s := m.MustRun("status"); strings.Contains(s, "warning") || strings.Contains(s, "may not read") {
		t.Errorf("with the documented policy the status warns:\n%s", s)
	}
	for service, car := range cars {
		secret, err := os.ReadFile(tokens[service])
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSpace(string(secret))
		for what, dump := range map[string]string{"config_dump": car.ConfigDump(), "its log": car.Log(), "the control plane's log": m.ServeProcess().Log()} {
			if strings.Contains(dump, text) {
				t.Errorf("%s: %s holds its token", service, what)
			}
		}
	}

	t.Run("revoked", func(t *testing.T) { consulRevoked(t, c, m, own) })
	t.Run("rotated file", func(t *testing.T) {
		// A new token in web's file; the old one is deleted, and with it the stream goes that it opened. The same Envoy comes back with the new one.
		streams := streamsOpened(m, "web")
		stats := cars["web"].Stats()
		load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "api"), KeepAlive: 20, TCP: m.Upstream("web", "db"), Held: 2})
		accessor, secret := c.ServiceToken("web")
		tokenFile(t, tokens["web"], secret)
		time.Sleep(2 * time.Second) // it is looked at once a second
		start := time.Now()
		c.DeleteToken(accessors["web"])
		accessors["web"] = accessor
		_, err := meshtest.Within(75*time.Second, func() error {
			p, err := m.Proxy("web")
			switch {
			case err != nil:
				return err
			case streamsOpened(m, "web") == streams:
				return errors.New("web's Envoy has its old stream")
			case !p.Connected || !p.InSync:
				return fmt.Errorf("web: %s", p)
			}
			return nil
		})
		if err != nil {
			t.Errorf("the rotated token is not used: %v", err)
		}
		figure(t, "deleted_to_stream_with_new_token_s=%.1f", time.Since(start).Seconds())
		unscathed(t, "a rotated token", load.Stop())
		if now := cars["web"].Stats(); now["server.uptime"] < stats["server.uptime"] {
			t.Error("web's Envoy was restarted")
		}
	})

	t.Run("deleted", func(t *testing.T) {
		others := map[string]int{"web": streamsOpened(m, "web"), "api": streamsOpened(m, "api")}
		start := time.Now()
		c.DeleteToken(accessors["db"])
		_, err := meshtest.Within(75*time.Second, func() error {
			p, err := m.Proxy("db")
			if err == nil && p.Connected {
				err = errors.New("db is connected")
			}
			return err
		})
		took := time.Since(start)
		if err != nil || took > time.Minute {
			t.Errorf("a deleted token had its stream for %v: %v", took, err)
		}
		// It does not come back, and nobody else has lost anything.
		meshtest.Holds(t, "db without a token", 5*time.Second, func() error {
			if p, err := m.Proxy("db"); err != nil || p.Connected {
				return fmt.Errorf("db: %s, %w", p, err)
			}
			return nil
		})
		for service, n := range others {
			if p, err := m.Proxy(service); err != nil || !p.Connected || streamsOpened(m, service) != n {
				t.Errorf("%s lost its stream: %s, %v", service, p, err)
			}
		}
		works(t, c, m) // with what db's Envoy has
		figure(t, "deleted_to_stream_ended_s=%.1f", took.Seconds())
	})
}

// streamsOpened is how many streams the control plane has opened for a service's proxy.
func streamsOpened(m *meshtest.Mesh, service string) int {
	return strings.Count(m.ServeProcess().Log(), `msg="stream opened" proxy=`+service+"-sidecar-proxy ")
}
