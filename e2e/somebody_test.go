//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
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
	verifyEndpoint(t, makeBootstrap(t, m, "web", "--xds-address", remote, "--envoy-version", meshtest.Version).dir, remote)
	if f, err := subscribeTLS(remote, subscription{"", "web-sidecar-proxy", secretType, []string{"leaf/web"}}, silence); err != nil || f.Err == nil || len(f.Resources) != 0 {
		t.Errorf("the TLS endpoint without a token: %v, %v; want the stream refused", f, err)
	}
}

// verifyEndpoint dials the TLS endpoint as clients other than Envoys do, by the CA in a bootstrap and the name that is dialled.
func verifyEndpoint(t *testing.T, dir, addr string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	var ca string
	if at := bytes.Index(b, []byte("-----BEGIN CERTIFICATE")); at >= 0 {
		text, _, _ := bytes.Cut(b[at:], []byte(`"`))
		ca = strings.ReplaceAll(string(text), `\n`, "\n")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		t.Fatal("the bootstrap has no CA of the endpoint")
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"127.0.0.1": true, "localhost": true, host: true, "example.com": false} {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name, NextProtos: []string{"h2"}}}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("a client that dials %s: %v", name, err)
		}
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
