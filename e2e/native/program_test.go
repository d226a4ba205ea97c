//go:build e2e

package native

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// program is an application of a page: a server of api, and a client that asks a service, as web. What the catalog has as web is at the port of that server, too, so that
// a client may be misled.
type program struct {
	t       *testing.T
	page    *page
	uid     map[string]uint32   // by service; nil: the test's own user
	environ map[string][]string // by service
	server  func(port int) []string
	client  func(port int, service string) []string
	says    func(out string) bool // what the client prints; nil: hello to web
}

// applicationUsers are whom those run as that sallyport knows by their process. Nothing else is theirs.
var applicationUsers = map[string]uint32{"api": 12411, "web": 12412}

// between is the mesh that a program takes part in.
type between struct {
	intend func(action string)  // may web connect to api?
	rotate func(service string) // nil: cannot be asked for
	plane  *mesh                // nil: does not end meanwhile
}

func (p *program) command(ctx context.Context, service string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = p.page.dir, slices.Concat(meshtest.Environ(), p.environ[service])
	if uid := p.uid[service]; uid > 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return cmd
}

// ask has the client ask a service.
func (p *program) ask(port int, service string) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := p.command(ctx, "web", p.client(port, service))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, errs.String())
	}
	says := p.says
	if says == nil {
		says = func(out string) bool {
			return strings.HasPrefix(out, "hello spiffe://") && strings.HasSuffix(out, "/ns/default/dc/dc1/svc/web\n")
		}
	}
	if !says(out.String()) {
		p.t.Errorf("the client prints %q", out.String())
	}
	return nil
}

// runs has web ask api: allowed, denied, after a rotation, without a certificate, and while the control plane is away.
func (p *program) runs(b between, at int) {
	t := p.t
	t.Helper()
	server := meshtest.Start(t, "server", filepath.Join(t.TempDir(), "server.log"), p.command(context.Background(), "api", p.server(at)))
	allowed := func() error {
		if server.Ended() {
			t.Fatalf("the server ended:\n%s", server.Log())
		}
		return p.ask(at, "api")
	}
	denied := func() error {
		if p.ask(at, "api") == nil {
			return errors.New("let in")
		}
		return nil
	}
	b.intend(allow)
	meshtest.Await(t, "web is let in", allowed)
	if p.ask(at, "web") == nil {
		t.Error("the client takes api for web")
	}
	b.intend(deny)
	meshtest.Await(t, "web is denied", denied)
	if !regexp.MustCompile(`/svc/web.*: Matched L4 intention: .* Action: DENY`).MatchString(server.Log()) {
		t.Errorf("the server does not say whom it denied:\n%s", server.Log())
	}
	b.intend(allow)
	if b.rotate != nil {
		before := shown(t, at)
		b.rotate("api")
		took := meshtest.Await(t, "the server shows its new leaf", func() error {
			if shown(t, at) == before {
				return errors.New("it is the one of before")
			}
			return nil
		})
		figure(t, "new_leaf_shown_after=%s", took.Round(time.Millisecond))
	}
	meshtest.Await(t, "web is let in again", allowed)
	strangers := http.Client{Timeout: meshtest.Deadline, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: anybody()}}
	if r, err := strangers.Get(fmt.Sprintf("https://127.0.0.1:%d/", at)); err == nil {
		r.Body.Close()
		t.Errorf("a client without a certificate is answered %s", r.Status)
	}
	if b.plane != nil {
		b.plane.process.Kill()
		if err := denied(); err != nil {
			t.Errorf("without a control plane: %v", err)
		}
		b.plane.start()
		meshtest.Await(t, "web is let in after a restart", allowed)
	}
	if strings.Contains(server.Log(), "PRIVATE KEY") {
		t.Error("the server's log has a key")
	}
}

// anybody is the TLS of a client without a certificate that trusts everybody.
func anybody() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// shown is the serial number of the certificate that a server shows.
func shown(t *testing.T, at int) string {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: meshtest.Deadline}, "tcp", fmt.Sprintf("127.0.0.1:%d", at), anybody())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// ports are those of all tests here.
var ports meshtest.Ports

// port is one for the server of a program.
func port(t *testing.T) int {
	t.Helper()
	p, err := ports.Next()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// filesPage is a mesh from files for a program whose server has that port.
func filesPage(t *testing.T, at int, flags ...string) (*mesh, between) {
	t.Helper()
	m := newMesh(t)
	catalog := filepath.Join(m.dir, "catalog")
	if err := os.Mkdir(catalog, 0o755); err != nil {
		t.Fatal(err)
	}
	for service := range applicationUsers {
		m.register(service, fmt.Sprintf("127.0.0.1:%d", at))
	}
	m.source, m.environ = append([]string{"--catalog", catalog}, flags...), meshtest.Environ()
	m.start()
	return m, between{
		intend: func(action string) { m.intend("api", map[string]string{"web": action}) },
		rotate: func(service string) { m.run("leaf", "rotate", service) }, plane: m,
	}
}

// withTokens are the variables of applications that ask that mesh at an address, each with its token in a file of its user.
func (m *mesh) withTokens(address string) map[string][]string {
	m.t.Helper()
	out := map[string][]string{}
	for service, uid := range applicationUsers {
		file := filepath.Join(m.dir, service+".token")
		err := os.WriteFile(file, []byte(m.token(service)+"\n"), 0o600)
		if os.Geteuid() == 0 {
			err = errors.Join(err, os.Chown(file, int(uid), int(uid)))
		}
		if err != nil {
			m.t.Fatal(err)
		}
		out[service] = []string{"CONSUL_HTTP_ADDR=" + address, "CONSUL_HTTP_TOKEN_FILE=" + file}
	}
	return out
}

// users has the program's processes be of users of their own, without tokens.
func (p *program) users(m *mesh) {
	p.t.Helper()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		p.t.Skipf("NOTE: %s needs root on Linux to run applications of other users", p.t.Name())
	}
	if err := os.Chmod(m.dir, 0o711); err != nil {
		p.t.Fatal(err)
	}
	p.uid, p.environ = applicationUsers, map[string][]string{}
	for service := range p.uid {
		p.environ[service] = []string{"CONSUL_HTTP_ADDR=" + m.address(), "SPIFFE_ENDPOINT_SOCKET=unix://" + filepath.Join(m.dir, "run", "workload.sock"), "HOME=/"}
	}
}

// named has the services of a mesh from files name those users.
func (p *program) named(m *mesh, at int) {
	p.t.Helper()
	p.users(m)
	for service, uid := range p.uid {
		m.write(service+".hcl", fmt.Sprintf("service {\n  name = %q\n  address = \"127.0.0.1\"\n  port = %d\n  connect { native = true }\n  meta { sallyport_selectors = \"unix:uid:%d\" }\n}\n",
			service, at, uid))
	}
}
