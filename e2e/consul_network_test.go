//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulNetworks: sidecars in network namespaces of their own have the same ports, without a word of configuration, and nobody gets another's by
// saying that he is in one. Nobody is led to an Envoy's administration.
func TestConsulNetworks(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "10s")
	upstream := m.UpstreamPort("web", "db")
	register := func(name string, port int, proxy map[string]any) {
		c.Register(map[string]any{"Name": name, "Port": 1, "Connect": map[string]any{
			"SidecarService": map[string]any{"Address": "127.0.0.1", "Port": port, "Proxy": proxy, "Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", port, "10s")}},
		}})
	}
	evil, admin, dir := m.Port(), m.Port(), t.TempDir()
	m.Serve()
	register("evil", evil, map[string]any{"LocalServicePort": 1})
	m.Sidecars("api", "db")
	meshtest.Await(t, "evil is there", func() error {
		_, err := m.Proxy("evil")
		return err
	})
	m.Sidecar("evil")
	web := m.Adopt("web", meshtest.Start(t, "sallyport envoy web", filepath.Join(dir, "web.log"), exec.Command(sallyport, "envoy", "--runtime-dir", m.Runtime,
		"--envoy-binary", m.Envoy(), "--sidecar-for", "web", "--admin-bind", fmt.Sprintf("127.0.0.1:%d", admin))), fmt.Sprintf("127.0.0.1:%d", admin))
	web.AwaitReady()
	works(t, c, m)

	dials := []map[string]any{{"DestinationName": "db", "LocalBindPort": upstream}}
	register("twin", m.PublicPort("web"), map[string]any{"LocalServicePort": 1, "Upstreams": dials})
	register("evil", evil, map[string]any{"LocalServicePort": 1, "Upstreams": dials, "Config": map[string]any{"sallyport_network": "elsewhere"}})
	meshtest.Await(t, "twin is there", func() error {
		_, err := m.Proxy("twin")
		return err
	})
	args := []string{"-n", "sh", "-c", `ip link set lo up && exec "$@"`, "sh", sallyport, "envoy", "--runtime-dir", m.Runtime, "--envoy-binary", m.Envoy()}
	if os.Geteuid() != 0 {
		args = append([]string{"-r"}, args...)
	}
	socket := filepath.Join(m.Runtime, "twin.admin")
	cmd := exec.Command("unshare", append(args, "--sidecar-for", "twin", "--admin-bind", "unix:"+socket)...)
	twin := m.Adopt("twin", meshtest.Start(t, "sallyport envoy twin", filepath.Join(dir, "twin.log"), cmd), socket)
	twin.AwaitReady()
	works(t, c, m)
	meshtest.Await(t, "twin has web's ports in its namespace", func() error {
		dump := twin.Admin("/listeners")
		for _, want := range []string{fmt.Sprintf("db:127.0.0.1:%d", upstream), fmt.Sprintf("public_listener:127.0.0.1:%d", m.PublicPort("web"))} {
			if !strings.Contains(dump, want) {
				return fmt.Errorf("%s is not in %s", want, dump)
			}
		}
		return nil
	})
	says(t, m, "upstream db of evil-sidecar-proxy and upstream db of web-sidecar-proxy")
	if s := m.MustRun("status", "--json"); strings.Contains(s, "of twin-sidecar-proxy") {
		t.Errorf("something of twin is refused: %s", s)
	}
	m.StopServe()
	m.Serve()
	m.AwaitConnected("web", "twin", "evil", "db", "api")
	works(t, c, m)
	says(t, m, "upstream db of evil-sidecar-proxy and upstream db of web-sidecar-proxy")
	if s := m.MustRun("status", "--json"); strings.Contains(s, "of twin-sidecar-proxy") {
		t.Errorf("started anew, something of twin is refused: %s", s)
	}

	register("evil", evil, map[string]any{"LocalServicePort": admin})
	says(t, m, fmt.Sprintf("the application of evil-sidecar-proxy cannot be at port %d of 127.0.0.1: the administration of the Envoy of web-sidecar-proxy", admin))
	m.Add(meshtest.Service{Name: "outside", Protocol: "tcp", Upstreams: []string{"evil"}, CheckInterval: "10s"})
	m.Intend("evil", meshtest.Intentions{"outside": "allow"})
	meshtest.Await(t, "outside is there", func() error {
		_, err := m.Proxy("outside")
		return err
	})
	m.Sidecar("outside")
	meshtest.Await(t, "nobody reaches the administration", func() error {
		if a := meshtest.GetPlain("http://" + m.Upstream("outside", "evil") + "/ready"); a.Status != 0 {
			return errors.New(a.String())
		}
		return nil
	})
}
