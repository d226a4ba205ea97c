//go:build e2e

package native

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// pythonBinary is one that every user may run.
const pythonBinary = "/usr/bin/python3"

// python is the application of docs/native/python.md.
func python(t *testing.T) *program {
	t.Helper()
	if _, err := exec.LookPath(pythonBinary); err != nil {
		t.Skipf("NOTE: %s is not run: %v: apt-get install python3-venv", t.Name(), err)
	}
	p := &program{t: t, page: readPage(t, "native/python.md")}
	p.by(pythonBinary)
	return p
}

// by has it run by an interpreter.
func (p *program) by(interpreter string) {
	p.server = func(port int) []string {
		return []string{interpreter, "server.py", "api", "127.0.0.1", strconv.Itoa(port)}
	}
	p.client = func(_ int, service string) []string { return []string{interpreter, "client.py", "web", service} }
}

// TestPython runs the server and the client of the page, which need the standard library alone.
func TestPython(t *testing.T) {
	t.Parallel()
	p, at := python(t), port(t)
	m, b := filesPage(t, at)
	p.environ = m.withTokens(m.address())
	p.runs(b, at)
}

// TestPythonBesideConsul runs them on a Consul agent, without sallyport.
func TestPythonBesideConsul(t *testing.T) {
	t.Parallel()
	p, at := python(t), port(t)
	c := meshtest.StartConsul(t, meshtest.Agent{})
	for service := range applicationUsers {
		register(t, c, service, fmt.Sprintf("127.0.0.1:%d", at))
	}
	p.environ = map[string][]string{"web": {"CONSUL_HTTP_ADDR=" + c.Addr}, "api": {"CONSUL_HTTP_ADDR=" + c.Addr}}
	p.runs(between{intend: func(action string) { c.Intend("api", meshtest.Intentions{"web": action}) }}, at)
}

// TestPythonWorkload runs them with leaf and roots from the Workload API, by the package spiffe, and without a token.
func TestPythonWorkload(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command(pythonBinary, "-m", "ensurepip", "--version").CombinedOutput(); err != nil {
		t.Skipf("NOTE: TestPythonWorkload is not run: %s: apt-get install python3-venv", out)
	}
	p, at := python(t), port(t)
	m, b := filesPage(t, at)
	p.named(m, at)
	p.page.types("python3 -m venv venv && venv/bin/pip install -r requirements.txt", "PATH=/usr/bin:/bin")
	p.page.types(`sed -i 's/^import mesh$/import mesh, workload/; s/mesh.Service/workload.Service/' server.py client.py`)
	p.by(filepath.Join(p.page.dir, "venv", "bin", "python"))
	p.runs(b, at)
}
