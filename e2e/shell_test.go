//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// shell runs lines of the pages in a directory until one of them fails. sallyport and consul are on its PATH.
type shell struct {
	t   *testing.T
	m   *meshtest.Mesh
	dir string
	env []string
}

func newShell(t *testing.T, m *meshtest.Mesh, consul string) *shell {
	t.Helper()
	bin := t.TempDir()
	for name, path := range map[string]string{"sallyport": sallyport, "consul": consul} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return &shell{t: t, m: m, dir: t.TempDir(), env: append(meshtest.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SALLYPORT_RUNTIME_DIR="+m.Runtime)}
}

// start runs a script, and returns what waits for its end and says what it printed.
func (s *shell) start(script string) func() (string, error) {
	s.t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

// prints runs a script, and fails the test unless it prints all of that.
func (s *shell) prints(script string, want ...string) {
	s.t.Helper()
	out, err := s.start(script)()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.t.Errorf("there is no %q in\n%s", w, out)
		}
	}
}

// leaf is the serial number of the leaf that the API has answered into a file, which has to be that of api.
func (s *shell) leaf() (serial string, err error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "leaf.json"))
	var leaf struct{ Service, SerialNumber, PrivateKeyPEM string }
	if err == nil {
		err = json.Unmarshal(text, &leaf)
	}
	if err == nil && (leaf.Service != "api" || !strings.Contains(leaf.PrivateKeyPEM, "PRIVATE KEY")) {
		err = fmt.Errorf("it is a leaf of %q", leaf.Service)
	}
	return leaf.SerialNumber, err
}

// shellWants is what docs/native.md has a shell print.
var shellWants = []string{`"TrustDomain": "`, `"Authorized":true`, `"Service": "web"`}

// TestShell types what the pages have for a shell, in a mesh from files.
func TestShell(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	for _, name := range []string{"web", "api"} {
		m.Write(name+".hcl", fmt.Sprintf("service {\n  name = %q\n  port = 8443\n  check { status = \"passing\" }\n  connect { native = true }\n}\n", name))
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	s := newShell(t, m, meshtest.NewConsul(t, meshtest.Agent{}).Binary())
	s.prints(pageBlock(t, "../README.md", "", "svid write api", "/run/sallyport", m.Runtime), `"TrustDomain": "`, `"Service": "api"`, "Allowed")
	if _, err := os.Stat(filepath.Join(s.dir, "api-svid", "current", "key.pem")); err != nil {
		t.Error(err)
	}

	wait := s.start(pageBlock(t, "native.md", "", "token=$(sallyport token create api)", "/run/sallyport", m.Runtime))
	var first string
	meshtest.Await(t, "the first leaf", func() (err error) {
		first, err = s.leaf()
		return err
	})
	ended := make(chan error, 1)
	var out string
	go func() {
		text, err := wait()
		out = text
		ended <- err
	}()
	meshtest.Await(t, "the next leaf", func() error {
		m.MustRun("leaf", "rotate", "api")
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return nil
		case <-time.After(time.Second): // it may not have asked yet when the leaf was renewed
			return errors.New("it waits")
		}
	})
	if second, err := s.leaf(); err != nil || second == first {
		t.Errorf("the leaf after the first one: %q, %v", second, err)
	}
	for _, w := range shellWants {
		if !strings.Contains(out, w) {
			t.Errorf("there is no %q in\n%s", w, out)
		}
	}
}

// TestShellOwnQuestions types what the pages have for a shell of questions that Consul does not have.
func TestShellOwnQuestions(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	for _, name := range []string{"web", "api"} {
		m.Write(name+".hcl", fmt.Sprintf("service {\n  name = %q\n  port = 8443\n  connect { native = true }\n}\n", name))
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.AwaitCheck("web", "api", true)
	s := newShell(t, m, meshtest.NewConsul(t, meshtest.Agent{}).Binary())
	before, _, ok := strings.Cut(pageBlock(t, "native.md", "", "token=$(sallyport token create api)", "/run/sallyport", m.Runtime), "ask /v1/agent/connect/authorize")
	if !ok {
		t.Fatal("the page does not ask whether a connection is authorized")
	}
	s.prints(before+pageBlock(t, "native.md", "", "ask '/v1/sallyport/authorize?pretty'"), `"Authorized": true`, `"Default": false`, `"Intention": "web => api (allow)"`, `"Origin": "`)
	s.prints(before + pageBlock(t, "native.md", "", "openssl req -new"))
	text, err := os.ReadFile(filepath.Join(s.dir, "leaf.json"))
	if err != nil {
		t.Fatal(err)
	}
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	if err := json.Unmarshal(text, &leaf); err != nil || leaf.PrivateKeyPEM != "" {
		t.Fatalf("%v: %s", err, text)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair([]byte(leaf.CertPEM), key); err != nil {
		t.Error(err)
	}
}

// TestConsulShell types the same beside a Consul agent with ACLs, with an ACL token in the place of sallyport's.
func TestConsulShell(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	for _, name := range []string{"web", "api"} {
		c.Register(map[string]any{"Name": name, "Port": 8443, "Connect": map[string]any{"Native": true}})
	}
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	_, apis := c.ServiceToken("api")
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "serve"), own))
	c.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.AwaitCheck("web", "api", true)
	s := newShell(t, m, c.Binary())
	s.prints(pageBlock(t, "../README.md", "", "svid write api", "/run/sallyport", m.Runtime, "$(sallyport token create api)", apis), `"TrustDomain": "`, `"Service": "api"`, "Allowed")
	script := pageBlock(t, "native.md", "", "token=$(sallyport token create api)", "/run/sallyport", m.Runtime, "$(sallyport token create api)", apis)
	script, _, ok := strings.Cut(script, "ask \"/v1/agent/connect/ca/leaf/api?wait=5m") // Consul's agent makes no other on request
	if !ok {
		t.Fatal("the page does not wait for a leaf")
	}
	s.prints(script, slices.Clone(shellWants)...)
	if _, err := s.leaf(); err != nil {
		t.Error(err)
	}
}
