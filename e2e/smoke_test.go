//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestOlderEnvoys runs the promise, a rotation and a revocation on the older Envoys; the whole suite runs on meshtest.Version.
func TestOlderEnvoys(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", "1.38.3"} {
		for _, s := range []shape{{mode: "rbac", protocol: "tcp"}, {mode: "both", protocol: "tcp"}, {mode: "rbac", protocol: "http"}, {mode: "ext_authz", protocol: "http"}, {mode: "both", protocol: "http", ipv6: true}} {
			t.Run(envoy+"_"+s.String(), func(t *testing.T) {
				t.Parallel()
				allowAndDeny(t, s, envoy)
			})
		}
		t.Run(envoy+"_changes", func(t *testing.T) {
			t.Parallel()
			echo, web := serveEcho(t, ""), serveHTTP(t, "hello")
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "db", Local: echo})
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: web})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db", "api"}})
			m.Intend("db", meshtest.Intentions{"web": "allow"})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			cars := m.Sidecars("db", "api", "web")
			load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "api"), KeepAlive: 50, Fresh: 10, TCP: m.Upstream("web", "db"), Held: 2, Dialled: 5})
			rotate(t, m, 3, cars...)
			unscathed(t, "3 rotations", load.Stop())
			m.Intend("db", meshtest.Intentions{"web": "deny"})
			m.AwaitCheck("web", "db", false)
			meshtest.Await(t, "new connection to db refused", func() error {
				return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello"))
			})
		})
	}
}

// TestExtAuthzAloneOnEnvoy136: that Envoy dials the application before it asks, so mode ext_authz of a tcp service alone would have the denied hear
// what the application says. It takes mode both there, the status says so, and nobody who is denied hears a byte.
func TestExtAuthzAloneOnEnvoy136(t *testing.T) {
	t.Parallel()
	app := serveEcho(t, banner)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: "1.36.4"})
	m.Add(meshtest.Service{Name: "mail", Local: app, Config: []string{`intention_enforcement = "ext_authz"`}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"mail"}})
	m.Add(meshtest.Service{Name: "batch", Upstreams: []string{"mail"}})
	m.Intend("mail", meshtest.Intentions{"web": "allow"})
	m.Serve()
	mail := m.Sidecars("mail", "web", "batch")[0]
	for _, want := range []string{"both, not ext_authz", "dials the application for every TCP connect"} {
		meshtest.Await(t, "the status says what this Envoy cannot do", func() error { return m.SaysOf("mail", want) })
	}
	if a, _ := mail.Decided(func() meshtest.Answer { return meshtest.ListenPlain(m.Upstream("web", "mail"), time.Second) }); a.Body != banner {
		t.Errorf("web → mail: %v, want the banner", a)
	}
	for _, a := range []meshtest.Answer{
		meshtest.ListenPlain(m.Upstream("batch", "mail"), time.Second),
		meshtest.EchoPlain(m.Upstream("batch", "mail"), "EHLO batch\r\n"),
		m.Client("batch", "mail").Listen(m.Public("mail"), time.Second),
		meshtest.ListenPlain(m.Public("mail"), time.Second),
	} {
		if len(a.Body) != 0 {
			t.Errorf("batch → mail: heard %q", a.Body)
		}
	}
	if n := app.Bytes.Load(); n != 0 {
		t.Errorf("the application got %d bytes of the denied", n)
	}
}
