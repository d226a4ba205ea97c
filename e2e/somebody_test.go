//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestSomebodyElsesEnvoy starts Envoys with what `sallyport bootstrap` wrote and the flags that it printed: over the socket, and over the TLS
// endpoint as on another machine.
func TestSomebodyElsesEnvoy(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	remote := fmt.Sprintf("127.0.0.1:%d", m.Port())
	m.SetFlags("--xds-address", remote)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Add(meshtest.Service{Name: "batch", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecar("batch")
	dir := t.TempDir()
	for service, args := range map[string][]string{"api": nil, "web": {"--xds-address", remote, "--envoy-version", meshtest.Version}} {
		admin := filepath.Join(m.Runtime, service+".admin")
		b := makeBootstrap(t, m, service, append(args, "--admin-bind", "unix:"+admin)...)
		cmd := exec.Command(envoytest.Binary(t, meshtest.Version), printedFlags(t, b.output)...)
		p := meshtest.Start(t, "envoy of "+service, filepath.Join(dir, service+".log"), cmd)
		m.Adopt(service, p, admin).AwaitReady()
	}
	if a := meshtest.GetPlain("http://" + m.Upstream("web", "api")); !a.Allowed() {
		t.Errorf("web → api: %v", a)
	}
	if a := meshtest.GetPlain("http://" + m.Upstream("batch", "api")); a.Status != 403 {
		t.Errorf("batch → api: %v", a)
	}
	m.AwaitConnected("api", "web")
	if f, err := subscribeTLS(remote, subscription{"", "web-sidecar-proxy", secretType, []string{"leaf/web"}}, silence); err != nil || f.Err == nil || len(f.Resources) != 0 {
		t.Errorf("the TLS endpoint without a token: %v, %v; want the stream refused", f, err)
	}
}

// printedFlags are the arguments of the command line that `sallyport bootstrap` prints for people to copy.
func printedFlags(t *testing.T, output string) []string {
	t.Helper()
	for line := range strings.Lines(output) {
		if _, args, ok := strings.Cut(strings.TrimSpace(line), "envoy --config-path "); ok {
			return append([]string{"--config-path"}, strings.Fields(args)...)
		}
	}
	t.Fatalf("sallyport bootstrap prints no command line of Envoy:\n%s", output)
	return nil
}
