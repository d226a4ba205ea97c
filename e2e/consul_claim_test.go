//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// evil registers a service as somebody would who may write nothing but it, and names what the
// registration of its proxy says.
func evil(c *meshtest.Consul, port int, proxy map[string]any) {
	c.Register(map[string]any{"Name": "evil", "Port": 1, "Connect": map[string]any{
		"SidecarService": map[string]any{"Address": "127.0.0.1", "Port": port, "Proxy": proxy, "Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", port, "10s")}},
	}})
}

// says waits until the status has all that is said.
func says(t *testing.T, m *meshtest.Mesh, texts ...string) {
	t.Helper()
	meshtest.Await(t, "the status names what is refused", func() error {
		s := m.MustRun("status", "--json")
		for _, text := range texts {
			if !strings.Contains(s, text) {
				return fmt.Errorf("%q is not in %s", text, s)
			}
		}
		return nil
	})
}

// TestConsulPortOfAnother: who may write one registration gets none of the connections that another's application makes to its upstreams, nor those
// to its public listener, and hands nobody on to them, by naming their ports. Envoys share ports.
func TestConsulPortOfAnother(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "10s")
	trap := serveEcho(t, "stolen ")
	m.Add(meshtest.Service{Name: "trap", Protocol: "tcp", Local: trap, CheckInterval: "10s"})
	m.Add(meshtest.Service{Name: "outside", Protocol: "tcp", Upstreams: []string{"evil"}, CheckInterval: "10s"})
	m.Intend("trap", meshtest.Intentions{"evil": "allow"})
	m.Intend("evil", meshtest.Intentions{"outside": "allow"})
	port, own := m.Port(), m.Port()
	honest := map[string]any{"LocalServicePort": trap.Port(), "Upstreams": []map[string]any{{"DestinationName": "trap", "LocalBindPort": own}}}
	evil(c, port, honest)
	m.Serve()
	m.Sidecars("web", "api", "db", "trap", "evil", "outside")
	works(t, c, m)
	meshtest.Await(t, "outside reaches evil", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("outside", "evil"), "hello")) })

	dials := func(what string) {
		t.Helper()
		before := trap.Dials.Load()
		for i := range 100 {
			if a := meshtest.EchoPlain(m.Upstream("web", "db"), "hello"); wantAllowed(a) != nil || a.Body != "hello" {
				t.Fatalf("%s: connection %d of web to db: %v", what, i, a)
			}
		}
		if n := trap.Dials.Load() - before; n > 0 {
			t.Fatalf("%s: evil's upstream got %d of 100 connections of web to db", what, n)
		}
	}
	upstream := m.UpstreamPort("web", "db")
	for _, address := range []string{"127.0.0.1", "0.0.0.0"} {
		evil(c, port, map[string]any{"LocalServicePort": trap.Port(), "Upstreams": []map[string]any{{"DestinationName": "trap", "LocalBindAddress": address, "LocalBindPort": upstream}}})
		says(t, m, "upstream trap of evil-sidecar-proxy and upstream db of web-sidecar-proxy", fmt.Sprintf("cannot both listen on port %d of 127.0.0.1", upstream))
		dials("with an upstream on " + address)
	}

	// The public listener of web's port, or a metrics listener or exposed path on web's.
	for what, proxy := range map[string]map[string]any{
		"the public listener":   {"LocalServicePort": trap.Port(), "Config": map[string]any{"bind_port": upstream}},
		"the exposed path /all": {"LocalServicePort": trap.Port(), "Expose": map[string]any{"Paths": []map[string]any{{"Path": "/all", "ListenerPort": upstream, "LocalPathPort": trap.Port()}}}},
	} {
		evil(c, port, proxy)
		says(t, m, what+" of evil-sidecar-proxy and upstream db of web-sidecar-proxy")
		dials("with " + what)
	}
	evil(c, port, map[string]any{"LocalServicePort": trap.Port(), "Upstreams": []map[string]any{{"DestinationName": "trap", "LocalBindPort": m.PublicPort("db")}}})
	says(t, m, "upstream trap of evil-sidecar-proxy and the public listener of db-sidecar-proxy")
	dials("with an upstream on db's public port")

	// Its application where web's upstream is: who may reach evil would reach db as web.
	evil(c, port, map[string]any{"LocalServicePort": upstream})
	says(t, m, fmt.Sprintf("the application of evil-sidecar-proxy cannot be at port %d of 127.0.0.1: upstream db of web-sidecar-proxy", upstream))
	meshtest.Await(t, "nobody reaches evil", func() error {
		if a := meshtest.EchoPlain(m.Upstream("outside", "evil"), "hello"); wantAllowed(a) == nil {
			return fmt.Errorf("outside got in: %v", a)
		}
		return nil
	})

	// What is honest again is served again.
	evil(c, port, honest)
	meshtest.Await(t, "outside reaches evil again", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("outside", "evil"), "hello")) })
	if s := m.MustRun("status", "--json"); strings.Contains(s, "cannot both listen") {
		t.Errorf("the status still names something: %s", s)
	}
}

// TestConsulSocketOfAnother: no registration has Envoy replace a file or a socket that is not its own, or hand anybody on to what the control plane
// listens on.
func TestConsulSocketOfAnother(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "10s")
	m.Add(meshtest.Service{Name: "outside", Protocol: "tcp", Upstreams: []string{"evil"}, CheckInterval: "10s"})
	m.Intend("evil", meshtest.Intentions{"outside": "allow"})
	port := m.Port()
	local := serveEcho(t, "")
	evil(c, port, map[string]any{"LocalServicePort": local.Port()})
	m.Serve()
	m.Sidecars("web", "api", "db", "evil", "outside")
	works(t, c, m)
	reaches := func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("outside", "evil"), "hello")) }
	meshtest.Await(t, "outside reaches evil", reaches)

	dir := filepath.Dir(m.Runtime)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(m.Runtime, link); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.sock")
	upstream := func(name, path string) map[string]any {
		return map[string]any{"DestinationName": name, "LocalBindSocketPath": path}
	}
	before, err := os.Stat(filepath.Join(m.Runtime, "xds.sock"))
	if err != nil {
		t.Fatal(err)
	}
	evil(c, port, map[string]any{"LocalServicePort": local.Port(), "Upstreams": []map[string]any{
		upstream("db", good), upstream("api", filepath.Join(m.Runtime, "xds.sock")), upstream("web", secret),
		upstream("x", filepath.Join(link, "admin.sock")), upstream("y", "/etc/sallyport.sock"),
	}})
	says(t, m, "upstream api of evil-sidecar-proxy: "+m.Runtime+"/xds.sock is in a directory of the control plane's own", "upstream web of evil-sidecar-proxy: "+secret+" is there and no socket",
		"upstream x of evil-sidecar-proxy: "+link+"/admin.sock is in a directory of the control plane's own", "upstream y of evil-sidecar-proxy: /etc/sallyport.sock is in none of the directories")
	meshtest.Await(t, "evil's own socket", func() error {
		if info, err := os.Stat(good); err != nil || info.Mode().Type() != os.ModeSocket {
			return fmt.Errorf("%s: %v, %w", good, info, err)
		}
		return nil
	})
	if b, err := os.ReadFile(secret); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if after, err := os.Stat(filepath.Join(m.Runtime, "xds.sock")); err != nil || !os.SameFile(before, after) {
		t.Errorf("xds.sock is another: %v", err)
	}
	meshtest.Await(t, "outside reaches evil", reaches)

	for _, path := range []string{filepath.Join(m.Runtime, "admin.sock"), filepath.Join(link, "admin.sock")} {
		evil(c, port, map[string]any{"LocalServiceSocketPath": path})
		says(t, m, "the application of evil-sidecar-proxy: "+path+" is in a directory of the control plane's own")
		meshtest.Await(t, "nobody reaches evil", func() error {
			if reaches() == nil {
				return errors.New("outside does")
			}
			return nil
		})
	}
}

// TestConsulDenyOfRefused: a proxy of which nothing can be made any more keeps what it has, but for who may connect, also after the control plane was
// started anew and has never made anything of it.
func TestConsulDenyOfRefused(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "10s")
	m.Serve()
	m.Sidecars("web", "api", "db")
	works(t, c, m)
	reach := map[string]func() meshtest.Answer{
		"api": func() meshtest.Answer { return meshtest.GetPlain("http://" + m.Upstream("web", "api")) },
		"db":  func() meshtest.Answer { return meshtest.EchoPlain(m.Upstream("web", "db"), "hello") },
	}
	decide := func(when, action string) {
		t.Helper()
		want := wantAllowed
		if action == "deny" {
			want = wantDenied
		}
		for service := range reach {
			m.Intend(service, meshtest.Intentions{"web": action})
		}
		for service, ask := range reach {
			meshtest.Await(t, fmt.Sprintf("%s: web → %s: %s", when, service, action), func() error { return want(ask()) })
			m.AwaitCheck("web", service, action == "allow")
		}
	}
	spoil := map[string]func(){
		"an escape hatch for all": func() {
			c.PutConfig(map[string]any{"Kind": "proxy-defaults", "Name": "global", "Config": map[string]any{"envoy_public_listener_json": "{}"}})
		},
		"the address of the application": func() {
			for service := range reach {
				c.Register(map[string]any{"ID": service, "Name": service, "Port": 1, "Connect": map[string]any{"SidecarService": map[string]any{
					"Address": "127.0.0.1", "Port": m.PublicPort(service), "Proxy": map[string]any{"LocalServiceAddress": "app.example", "LocalServicePort": 1},
					"Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", m.PublicPort(service), "10s")},
				}}})
			}
		},
	}
	says := map[string]string{"an escape hatch for all": "envoy_public_listener_json is not supported yet", "the address of the application": `LocalServiceAddress "app.example" is no IP address`}
	for _, what := range []string{"an escape hatch for all", "the address of the application"} {
		spoil[what]()
		for service := range reach {
			meshtest.Await(t, "the status says why "+service+" is refused", func() error { return m.SaysOf(service, says[what]) })
		}
		decide(what, "deny")
		decide(what, "allow")
		m.StopServe()
		m.Serve()
		decide(what+", started anew", "deny")
		decide(what+", started anew", "allow")
		if what == "an escape hatch for all" {
			c.DeleteConfig("proxy-defaults", "global")
			meshtest.Await(t, "all is served again", func() error {
				for service := range reach {
					if p, err := m.Proxy(service); err != nil || !p.InSync || p.BuildError != "" {
						return fmt.Errorf("%s: %v %w", service, p, err)
					}
				}
				return nil
			})
		}
	}
	m.StopServe() // each Envoy refused nothing: see the checks at the end
	m.Serve()
	m.AwaitConnected("web", "api", "db")
}
