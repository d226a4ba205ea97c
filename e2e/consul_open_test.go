//go:build e2e

package e2e

import (
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// ownAddress is an address of this machine that is not of its loopback interface, so that who dials it comes from another machine, by all that can be
// told.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Fatal("this machine has no address but loopback's, and the test needs one")
	return ""
}

// TestConsulOpen: a Consul with ACLs whose default is to allow. From another machine nobody is given a key without a token that Consul knows; on this
// machine everybody is, as in Consul, and the status says so.
func TestConsulOpen(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management, More: map[string]any{"acl": map[string]any{
		"enabled": true, "default_policy": "allow", "tokens": map[string]any{"initial_management": management, "agent": management},
	}}})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	remote := net.JoinHostPort(ownAddress(t), strconv.Itoa(m.Port()))
	m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, "")})
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "serve"), own), "--xds-address", remote)
	m.Serve()
	_, secret := c.ServiceToken("web")
	meshtest.Await(t, "the proxy is known", func() error { _, err := m.Proxy("web"); return err })
	const none, unknown = "", "00000000-dead-4000-8000-000000000000"
	for _, token := range []string{none, "anonymous", unknown} {
		f, err := subscribeTLS(remote, subscription{token, "web-sidecar-proxy", secretType, []string{"leaf/web"}}, 5*time.Second)
		if err != nil || f.Err == nil || f.Keys != 0 {
			t.Errorf("from another machine with the token %q: %v, %v; want the stream refused", token, f, err)
		}
	}
	meshtest.Await(t, "a key for the service's own token from another machine", func() error {
		f, err := subscribeTLS(remote, subscription{secret, "web-sidecar-proxy", secretType, []string{"leaf/web"}}, 2*time.Second)
		if err == nil && f.Keys == 0 {
			err = errors.Join(errNothing, f.Err)
		}
		return err
	})
	meshtest.Await(t, "the status says who is let in", func() error {
		if s := m.MustRun("status"); !strings.Contains(s, "the anonymous token has service:write on web") {
			return errors.New(s)
		}
		return nil
	})
}

// TestConsulWithoutACLs: that ACLs are off is said at the start, before anybody asks for anything.
func TestConsulWithoutACLs(t *testing.T) {
	t.Parallel()
	for _, registered := range []bool{false, true} {
		m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: meshtest.StartConsul(t, meshtest.Agent{})})
		if registered {
			m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, "")})
		}
		m.Serve()
		d := meshtest.Await(t, "the status says that ACLs are off", func() error {
			if s := m.MustRun("status"); !strings.Contains(s, "any process of this machine that reaches the xDS socket") {
				return errors.New(s)
			}
			return nil
		})
		figure(t, "registered=%t said_ms=%.0f", registered, millis(d))
	}
}
