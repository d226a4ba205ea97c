//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
	"golang.org/x/sys/unix"
)

// shares is whether another process of this user gets some of the connections to a port if it asks for them, as Envoys do.
func shares(t *testing.T, address string) bool {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				t.Error(err)
			}
		})
	}}
	l, err := config.Listen(context.Background(), "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return true
}

// ageBootstrap makes a bootstrap one of the releases that had Envoys share their ports.
func ageBootstrap(t *testing.T, path string) {
	t.Helper()
	var bootstrap map[string]any
	readJSON(t, path, &bootstrap)
	metadata, _ := bootstrap["node"].(map[string]any)["metadata"].(map[string]any)["sallyport"].(map[string]any)
	if metadata["exclusive_ports"] != true {
		t.Fatalf("the bootstrap's metadata is %v", metadata)
	}
	delete(metadata, "exclusive_ports")
	out, err := json.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(out))
}

// TestEarlierBootstraps: an Envoy that an earlier release started shares its ports until it is started anew, which the status says, as it would
// refuse a change of that and every later one of the listener. Started anew it shares them with nobody.
func TestEarlierBootstraps(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			local := serveEcho(t, "")
			api := meshtest.Service{Name: "api", Protocol: "tcp", Local: local}
			m.Add(api)
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			dir := t.TempDir()
			begin := func(service string, aged bool) *meshtest.Sidecar {
				socket := filepath.Join(m.Runtime, service+".admin")
				b := makeBootstrap(t, m, service, "--admin-bind", "unix:"+socket)
				if aged {
					ageBootstrap(t, filepath.Join(b.dir, "bootstrap.json"))
				}
				cmd := exec.Command(m.Envoy(), printedFlags(t, b.output)...)
				s := m.Adopt(service, meshtest.Start(t, "envoy of "+service, filepath.Join(dir, service+".log"), cmd), socket)
				s.AwaitReady()
				return s
			}
			ports := map[string]string{"api": m.Public("api"), "web": m.Upstream("web", "api")}
			const says = "other Envoys of its user can share its ports"
			cars := map[string]*meshtest.Sidecar{"api": begin("api", true), "web": begin("web", true)}
			reaches := func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "api"), "hello")) }
			meshtest.Await(t, "web reaches api", reaches)

			// Listeners that change, and a control plane that is started anew.
			api.Config = []string{"max_inbound_connections = 50"}
			m.Add(api)
			meshtest.Await(t, "api's listener has a limit", func() error {
				if dump := cars["api"].ConfigDump(); !strings.Contains(dump, `"max_connections": "50"`) {
					return errors.New("it has not")
				}
				return nil
			})
			m.StopServe()
			m.Serve()
			m.AwaitConnected("api", "web")
			meshtest.Await(t, "web reaches api again", reaches)
			for service, address := range ports {
				if err := m.SaysOf(service, says); err != nil {
					t.Error(err)
				}
				if p, err := m.Proxy(service); err != nil || p.LastNACK != nil || !p.InSync {
					t.Errorf("%s: %v %v", service, p, err)
				}
				if !shares(t, address) {
					t.Errorf("%s's Envoy does not share %s: what was to be shown is not", service, address)
				}
				cars[service].Check()
				cars[service].Close()
			}

			// Started anew.
			for service, address := range ports {
				begin(service, false)
				meshtest.Await(t, "nobody shares "+address, func() error {
					if shares(t, address) {
						return fmt.Errorf("another process gets connections of %s", service)
					}
					if m.SaysOf(service, says) == nil {
						return errors.New("the status says that it shares its ports")
					}
					return nil
				})
			}
		})
	}
}
