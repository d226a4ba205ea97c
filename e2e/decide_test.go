//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

var modes = []string{"rbac", "ext_authz", "both"}

// shape is a mesh of one destination: web is allowed to reach it, batch is not.
type shape struct {
	mode, protocol string
	ipv6           bool
}

func (s shape) String() string {
	ip := "IPv4"
	if s.ipv6 {
		ip = "IPv6"
	}
	return s.mode + "_" + s.protocol + "_" + ip
}

// build makes the mesh on an Envoy and starts it.
func (s shape) build(t *testing.T, envoy string) (m *meshtest.Mesh, app *meshtest.Server, api *meshtest.Sidecar) {
	t.Helper()
	host, loopback := "127.0.0.1", "127.0.0.1"
	if s.ipv6 {
		host, loopback = "::1", "::1"
	}
	if s.protocol == "tcp" {
		app = serveEchoOn(t, host, "")
	} else {
		app = serveHTTPOn(t, host, "hello from api")
	}
	m = meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
	m.Add(meshtest.Service{Name: "api", Protocol: s.protocol, Local: app, Host: host, Config: []string{fmt.Sprintf("intention_enforcement = %q", s.mode)}})
	m.Add(meshtest.Service{Name: "web", Protocol: s.protocol, Host: host, Upstreams: []string{"api"}, UpstreamHost: loopback})
	m.Add(meshtest.Service{Name: "batch", Protocol: s.protocol, Host: host, Upstreams: []string{"api"}, UpstreamHost: loopback})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	return m, app, m.Sidecars("api", "web", "batch")[0]
}

// ask sends a request from an application through its sidecar's upstream port.
func (s shape) ask(m *meshtest.Mesh, from string) meshtest.Answer {
	addr := fmt.Sprintf("127.0.0.1:%d", m.UpstreamPort(from, "api"))
	if s.ipv6 {
		addr = fmt.Sprintf("[::1]:%d", m.UpstreamPort(from, "api"))
	}
	if s.protocol == "tcp" {
		return meshtest.EchoPlain(addr, "hello api\n")
	}
	return meshtest.GetPlain("http://" + addr + "/")
}

// TestAllowAndDeny is the promise itself: who is allowed is answered, who is not is refused and never reaches the application.
func TestAllowAndDeny(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"tcp", "http"} {
		for _, mode := range modes {
			for _, ipv6 := range []bool{false, true} {
				s := shape{mode: mode, protocol: protocol, ipv6: ipv6}
				t.Run(s.String(), func(t *testing.T) {
					t.Parallel()
					if s.ipv6 && !meshtest.HasIPv6() {
						t.Fatal("this machine has no IPv6 loopback address: half of this test cannot run")
					}
					allowAndDeny(t, s, meshtest.Version)
				})
			}
		}
	}
}

func allowAndDeny(t *testing.T, s shape, envoy string) {
	t.Helper()
	m, app, api := s.build(t, envoy)
	for range 3 {
		if a, _ := api.Decided(func() meshtest.Answer { return s.ask(m, "web") }); !a.Allowed() {
			t.Errorf("web → api, allowed: %v", a)
		}
	}
	dials, requests, bytes := app.Dials.Load(), app.Requests.Load(), app.Bytes.Load()
	for range 3 {
		if a, _ := api.Decided(func() meshtest.Answer { return s.ask(m, "batch") }); !a.Denied() {
			t.Errorf("batch → api, denied: %v", a)
		} else if s.protocol != "tcp" && a.Status != 403 {
			t.Errorf("batch → api over http: status %d, want 403", a.Status)
		}
	}
	if n := app.Requests.Load() - requests; n != 0 {
		t.Errorf("the application got %d requests of the denied", n)
	}
	if n := app.Bytes.Load() - bytes; n != 0 {
		t.Errorf("the application got %d bytes of the denied", n)
	}
	// What only ext_authz denies is judged when its first byte comes; the handshake of the other modes, and http, do not dial.
	// Envoy 1.36 dials for every connection, and the status of its proxies says so.
	if n := app.Dials.Load() - dials; n != 0 && !strings.HasPrefix(envoy, "1.36") {
		t.Errorf("the application was dialled %d times for the denied", n)
	}
	if s.protocol != "tcp" {
		return
	}
	if out := m.Run("intention", "check", "batch", "api"); out.Exit != 1 || !strings.HasPrefix(out.Stdout, "Denied") {
		t.Errorf("intention check batch api: exit %d, %s%s", out.Exit, out.Stdout, out.Stderr)
	}
	if out := m.MustRun("intention", "check", "web", "api"); !strings.HasPrefix(out, "Allowed") || !strings.Contains(out, "intentions-api.hcl:") {
		t.Errorf("intention check web api: %s", out)
	}
}

// TestProtocols runs http2 and grpc services, whose sidecars speak HTTP/2 to the application.
func TestProtocols(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http2", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			app := serveHTTP(t, "hello")
			m := newMesh(t)
			m.Add(meshtest.Service{Name: "api", Protocol: protocol, Local: app})
			m.Add(meshtest.Service{Name: "web", Protocol: protocol, Upstreams: []string{"api"}})
			m.Add(meshtest.Service{Name: "batch", Protocol: protocol, Upstreams: []string{"api"}})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			m.Sidecars("api", "web", "batch")
			if a := getH2C("http://" + m.Upstream("web", "api")); !a.Allowed() {
				t.Errorf("web → api over %s: %v", protocol, a)
			}
			requests := app.Requests.Load()
			if a := getH2C("http://" + m.Upstream("batch", "api")); a.Status != 403 {
				t.Errorf("batch → api over %s: %v, want status 403", protocol, a)
			}
			if n := app.Requests.Load() - requests; n != 0 {
				t.Errorf("the application got %d requests of the denied", n)
			}
		})
	}
}
