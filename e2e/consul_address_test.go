//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// pemFile writes blocks of PEM.
func pemFile(t *testing.T, path, kind string, blocks ...[]byte) string {
	t.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// issued writes a certificate of an authority and its key.
func issued(t *testing.T, a *meshtest.Authority, dir, name string, s meshtest.LeafSpec) (cert, key string) {
	t.Helper()
	c := a.Issue(t, s)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemFile(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", c.Certificate...), pemFile(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", der)
}

// TestConsulAddresses reaches the agent over a Unix socket, and over TLS with a certificate of either side.
func TestConsulAddresses(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "agent-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	authority := meshtest.ForeignAuthority(t, "agents")
	ca := pemFile(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", authority.Certificate.Raw)
	cert, key := issued(t, authority, dir, "agent", meshtest.LeafSpec{CommonName: "agent", DNS: []string{"agent.example"}})
	own, ownKey := issued(t, authority, dir, "sallyport", meshtest.LeafSpec{CommonName: "sallyport"})
	socket := filepath.Join(dir, "http.sock")
	c := meshtest.NewConsul(t, meshtest.Agent{})
	m := besideConsul(t, c)
	c.Agent.HTTPS = m.Port()
	c.Agent.More = map[string]any{
		"addresses": map[string]any{"http": "127.0.0.1 unix://" + socket},
		"tls":       map[string]any{"https": map[string]any{"ca_file": ca, "cert_file": cert, "key_file": key, "verify_incoming": true}},
	}
	c.Start()
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello"), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}, CheckInterval: "1s"})
	overTLS := []string{"--http-addr", fmt.Sprintf("https://127.0.0.1:%d", c.Agent.HTTPS), "--ca-file", ca, "--client-cert", own, "--client-key", ownKey, "--tls-server-name", "agent.example"}
	started := false
	for name, flags := range map[string][]string{"socket": {"--http-addr", "unix://" + socket}, "TLS": overTLS} {
		m.SetFlags(flags...)
		m.Serve()
		if !started {
			m.Sidecars("web", "api")
			started = true
		} else {
			m.AwaitConnected("web", "api")
		}
		for _, action := range []string{"allow", "deny"} {
			m.Intend("api", meshtest.Intentions{"web": action})
			meshtest.Await(t, name+": "+action, func() error {
				a := meshtest.GetPlain("http://" + m.Upstream("web", "api"))
				if action == "allow" {
					return wantAllowed(a)
				}
				return wantDenied(a)
			})
		}
		m.StopServe()
	}
	// Who cannot be verified is not asked: neither an agent of another name, nor by a control plane without a certificate.
	for name, flags := range map[string][]string{"another name": append(overTLS[:len(overTLS)-1:len(overTLS)-1], "other.example"), "no certificate": overTLS[:4]} {
		m.SetFlags(flags...)
		m.Launch()
		meshtest.Await(t, name, func() error { return refusesAgent(m) })
		m.StopServe()
	}
}

// refusesAgent is nil if the control plane runs, is not ready and says that it is for a certificate.
func refusesAgent(m *meshtest.Mesh) error {
	r := m.Run("status")
	if r.Exit != 0 {
		return fmt.Errorf("exit %d: %s", r.Exit, r.Stderr)
	}
	if s := m.Status(); len(s.NotReady) == 0 || !strings.Contains(r.Stdout, "certificate") {
		return fmt.Errorf("not ready: %q; %s", s.NotReady, r.Stdout)
	}
	return nil
}
