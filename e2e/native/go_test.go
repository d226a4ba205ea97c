//go:build e2e

package native

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// goProgram builds programs of docs/native/go.md: a server and a client.
func goProgram(t *testing.T, server, client string) *program {
	t.Helper()
	p := &program{t: t, page: readPage(t, "native/go.md")}
	for _, name := range []string{server, client} {
		path := filepath.Join(p.page.dir, name)
		if out, err := exec.Command("go", "vet", path+".go").CombinedOutput(); err != nil {
			t.Errorf("go vet: %v\n%s", err, out)
		}
		if out, err := exec.Command("go", "build", "-o", path, path+".go").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	p.server = func(port int) []string {
		return []string{filepath.Join(p.page.dir, server), "api", fmt.Sprintf("127.0.0.1:%d", port)}
	}
	p.client = func(_ int, service string) []string {
		return []string{filepath.Join(p.page.dir, client), "web", service}
	}
	return p
}

// TestGo runs an HTTP server and a client of package connect.
func TestGo(t *testing.T) {
	t.Parallel()
	p, at := goProgram(t, "server", "client"), port(t)
	m, b := filesPage(t, at)
	p.environ = m.withTokens(m.address())
	p.runs(b, at)
}

// TestGoBesideConsul runs them on a Consul agent, without sallyport.
func TestGoBesideConsul(t *testing.T) {
	t.Parallel()
	p, at := goProgram(t, "server", "client"), port(t)
	c := meshtest.StartConsul(t, meshtest.Agent{})
	for service := range applicationUsers {
		register(t, c, service, fmt.Sprintf("127.0.0.1:%d", at))
	}
	p.environ = map[string][]string{"web": {"CONSUL_HTTP_ADDR=" + c.Addr}, "api": {"CONSUL_HTTP_ADDR=" + c.Addr}}
	p.runs(between{intend: func(action string) { c.Intend("api", meshtest.Intentions{"web": action}) }}, at)
}

// TestGoGRPC runs a gRPC server and a client of it.
func TestGoGRPC(t *testing.T) {
	t.Parallel()
	p, at := goProgram(t, "grpcserver", "grpcclient"), port(t)
	p.says = func(out string) bool { return out == "SERVING\n" }
	m, b := filesPage(t, at)
	p.environ = m.withTokens(m.address())
	p.runs(b, at)
}

// TestGoSPIFFE runs a server and a client of go-spiffe.
func TestGoSPIFFE(t *testing.T) {
	t.Parallel()
	at := port(t)
	m, b := filesPage(t, at)
	p := goSPIFFE(t, m)
	p.named(m, at)
	p.runs(b, at)
}

// TestGoSPIFFEBesideConsul runs them in a mesh that is beside a Consul agent without ACLs.
func TestGoSPIFFEBesideConsul(t *testing.T) {
	t.Parallel()
	c, at := meshtest.StartConsul(t, meshtest.Agent{}), port(t)
	m := beside(t, c)
	p := goSPIFFE(t, m)
	p.users(m)
	for service, uid := range p.uid {
		c.Register(map[string]any{
			"Name": service, "Address": "127.0.0.1", "Port": at, "Connect": map[string]any{"Native": true},
			"Meta": map[string]any{"sallyport_selectors": fmt.Sprintf("unix:uid:%d", uid)},
		})
	}
	p.runs(between{intend: func(action string) { c.Intend("api", meshtest.Intentions{"web": action}) }, plane: m}, at)
}

func goSPIFFE(t *testing.T, m *mesh) *program {
	t.Helper()
	p := goProgram(t, "spiffeserver", "spiffeclient")
	server := p.server
	p.server = func(port int) []string { return append(server(port), filepath.Join(m.dir, "run", "http.sock")) }
	p.client = func(port int, service string) []string {
		return []string{filepath.Join(p.page.dir, "spiffeclient"), fmt.Sprintf("https://127.0.0.1:%d/", port), service}
	}
	return p
}

// TestGoLines has the lines of Go in docs/native.md be those of the programs.
func TestGoLines(t *testing.T) {
	t.Parallel()
	programs, err := os.ReadFile("../../docs/native/go.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/native.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			if n++; !strings.Contains(string(programs), "\t"+line) {
				t.Errorf("docs/native/go.md has no line %q", line)
			}
		}
	}
	if n < 5 {
		t.Errorf("docs/native.md has %d lines of Go", n)
	}
}
