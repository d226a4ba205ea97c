//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConnectProxy runs `consul connect proxy` as it is on sallyport's socket: traffic goes through it in both directions, as intentions say.
func TestConnectProxy(t *testing.T) {
	t.Parallel()
	consul := meshtest.NewConsul(t, meshtest.Agent{}).Binary()
	m := newMesh(t)
	port := m.Port()
	m.Write("web.hcl", fmt.Sprintf("service {\n  name = \"web\"\n  address = \"127.0.0.1\"\n  port = %d\n  connect { native = true }\n}\n", port))
	connectProxy(t, m, consul, port, func() string { return strings.TrimSpace(m.MustRun("token", "create", "web")) })
}

// TestConsulConnectProxy is TestConnectProxy beside an agent with ACLs.
func TestConsulConnectProxy(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	port := m.Port()
	c.Register(map[string]any{"Name": "web", "Address": "127.0.0.1", "Port": port, "Connect": map[string]any{"Native": true}})
	dir := t.TempDir()
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	_, apis := c.ServiceToken("api")
	_, webs := c.ServiceToken("web")
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(dir, "serve"), own))
	connectProxy(t, m, c.Binary(), port, func() string { return webs }, "--token-file", tokenFile(t, filepath.Join(dir, "api"), apis))
}

// connectProxy has api behind an Envoy, and web behind `consul connect proxy`, which listens on a port. token is that of web.
func connectProxy(t *testing.T, m *meshtest.Mesh, consul string, port int, token func() string, sidecar ...string) {
	t.Helper()
	m.Add(meshtest.Service{Name: "api", Local: serveEcho(t, ""), Upstreams: []string{"web"}, CheckInterval: "1s"})
	allow := func(action string) {
		m.Intend("api", meshtest.Intentions{"web": action})
		m.Intend("web", meshtest.Intentions{"api": action})
	}
	allow("allow")
	m.Serve()
	m.Sidecar("api", sidecar...)

	app, upstream := serveEcho(t, ""), m.Port()
	cmd := exec.Command(consul, "connect", "proxy", "-service", "web", "-upstream", fmt.Sprintf("api:%d", upstream),
		"-listen", fmt.Sprintf("127.0.0.1:%d", port), "-service-addr", fmt.Sprintf("127.0.0.1:%d", app.Port()))
	cmd.Env = slices.Concat(meshtest.Environ(), []string{"CONSUL_HTTP_ADDR=unix://" + filepath.Join(m.Runtime, "http.sock"), "CONSUL_HTTP_TOKEN=" + token()})
	proxy := meshtest.Start(t, "consul connect proxy", filepath.Join(t.TempDir(), "proxy.log"), cmd)
	out := func() meshtest.Answer {
		return meshtest.EchoPlain(net.JoinHostPort("127.0.0.1", strconv.Itoa(upstream)), "hello")
	}
	in := func() meshtest.Answer { return meshtest.EchoPlain(m.Upstream("api", "web"), "hello") }
	both := func(want func(meshtest.Answer) error) func() error {
		return func() error {
			if proxy.Ended() {
				t.Fatalf("consul connect proxy ended:\n%s", proxy.Log())
			}
			return errors.Join(want(out()), want(in()))
		}
	}
	meshtest.Await(t, "web and api reach each other", both(wantAllowed))
	if app.Dials.Load() == 0 {
		t.Error("who answered api is not web's application")
	}
	allow("deny")
	meshtest.Await(t, "web and api are refused", both(wantDenied))
	meshtest.Holds(t, "both refused", 300*time.Millisecond, both(wantDenied))
	allow("allow")
	meshtest.Await(t, "web and api reach each other again", both(wantAllowed))
}
