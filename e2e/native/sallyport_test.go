//go:build e2e

package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// mesh is a sallyport that reads files, unless it is beside a Consul.
type mesh struct {
	t       *testing.T
	binary  string
	dir     string
	source  []string // flags
	environ []string
	process *meshtest.Process
}

// sallyport is the command under test: $SALLYPORT_BIN, else one that is built here.
var sallyport = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("SALLYPORT_BIN"); b != "" {
		return b, nil
	}
	return onceBuilt("../..", "./cmd/sallyport")()
})

// files starts a sallyport that reads files until the test ends.
func files(t *testing.T) *mesh {
	t.Helper()
	m := newMesh(t)
	catalog := filepath.Join(m.dir, "catalog")
	if err := os.Mkdir(catalog, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"web", "api"} { // tokens are for what the catalog has; the ports come later
		m.register(s, "127.0.0.1:1")
	}
	m.source, m.environ = []string{"--catalog", catalog}, meshtest.Environ()
	m.start()
	return m
}

// beside starts a sallyport beside a Consul until the test ends.
func beside(t *testing.T, c *meshtest.Consul) *mesh {
	t.Helper()
	m := newMesh(t)
	m.source, m.environ = []string{"--consul", "--http-addr", c.Addr}, c.ConsulEnviron()
	m.start()
	return m
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	binary := built(t, sallyport)
	// Not t.TempDir: its paths are too long for Unix sockets.
	dir, err := os.MkdirTemp("", "native-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &mesh{t: t, binary: binary, dir: dir}
}

func (m *mesh) start() {
	m.t.Helper()
	args := []string{"serve", "--data", filepath.Join(m.dir, "data"), "--runtime-dir", filepath.Join(m.dir, "run"), "--metrics-bind", "", "--log-format", "text"}
	cmd := exec.Command(m.binary, slices.Concat(args, m.source)...)
	cmd.Env = m.environ
	m.process = meshtest.Start(m.t, "sallyport serve", filepath.Join(m.dir, "serve.log"), cmd)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.dir, "run", "http.sock"))
	}}}
	meshtest.Await(m.t, "sallyport's API", func() error {
		if m.process.Ended() {
			m.t.Fatalf("sallyport serve ended:\n%s", m.process.Tail(40))
		}
		resp, err := client.Get("http://localhost/v1/agent/connect/ca/roots")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// address is that of its API.
func (m *mesh) address() string { return "unix://" + filepath.Join(m.dir, "run", "http.sock") }

func (m *mesh) write(name, text string) {
	m.t.Helper()
	file := filepath.Join(m.dir, "catalog", name)
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		m.t.Fatal(err)
	}
}

// register says that a native instance of the service is at that address.
func (m *mesh) register(service, address string) {
	m.t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(service+".hcl", fmt.Sprintf("service {\n  name = %q\n  address = %q\n  port = %s\n  connect { native = true }\n}\n", service, host, port))
}

// intend writes the intentions about a service: who may, and who may not.
func (m *mesh) intend(destination string, sources map[string]string) {
	m.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "Kind = \"service-intentions\"\nName = %q\nSources = [\n", destination)
	for source, action := range sources {
		fmt.Fprintf(&b, "  { Name = %q, Action = %q },\n", source, action)
	}
	m.write("intentions-"+destination+".hcl", b.String()+"]\n")
}

// run runs a command of sallyport about this mesh, and returns what it prints.
func (m *mesh) run(args ...string) string {
	m.t.Helper()
	cmd := exec.Command(m.binary, append(args, "--runtime-dir", filepath.Join(m.dir, "run"))...)
	cmd.Env = meshtest.Environ()
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("sallyport %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// token makes the token of a service's applications.
func (m *mesh) token(service string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("token", "create", service))
}

// TestSallyport has two applications in a mesh from files: intentions, a control plane that goes and comes back, tokens.
func TestSallyport(t *testing.T) {
	t.Parallel()
	m := files(t)
	api := service(t, m.address(), "api", connect.Options{Token: m.token("api"), EndOnRevocation: true, RevocationInterval: time.Hour})
	web := service(t, m.address(), "web", connect.Options{Token: m.token("web")})
	m.register("api", echo(t, api))
	m.intend("api", map[string]string{"web": allow})
	meshtest.Await(t, "allowed", func() error { return reach(t.Context(), web, "api") })
	meshtest.Await(t, "by its whole name", func() error { return reach(t.Context(), web, "Api.service.dc1.consul") })
	if !api.Ready() || !web.Ready() {
		t.Error("not ready")
	}
	held, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ping(held); err != nil {
		t.Fatal(err)
	}
	m.process.Kill()
	if err := reach(t.Context(), web, "api"); err == nil {
		t.Error("dialled without a control plane")
	}
	meshtest.Holds(t, "the open connection", time.Second, func() error { return ping(held) })
	m.start()
	meshtest.Await(t, "dials again", func() error { return reach(t.Context(), web, "api") })
	if err := ping(held); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	m.intend("api", map[string]string{"web": deny})
	figure(t, "ended_after_the_denial=%s", ended(t, held).Round(time.Millisecond))
	meshtest.Holds(t, "denied", 300*time.Millisecond, func() error {
		if reach(t.Context(), web, "api") == nil {
			return errors.New("let in")
		}
		return nil
	})
	stranger, err := connect.NewService(t.Context(), "api", connect.Options{Address: m.address(), Token: m.token("web"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := stranger.ReadyWait(ctx); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("another service's token: %v", err)
	}
}

// TestSallyportSDK has Consul's own package and this one dial each other, where leafs hang under an intermediate.
func TestSallyportSDK(t *testing.T) {
	t.Parallel()
	m := files(t)
	programs := map[string]string{"web": built(t, peer), "api": built(t, sdk)}
	apps := map[string]*application{}
	for name, program := range programs {
		environ := slices.Concat(meshtest.Environ(), []string{"CONSUL_HTTP_ADDR=" + m.address(), "CONSUL_HTTP_TOKEN=" + m.token(name)})
		apps[name] = launch(t, environ, program, name)
		m.register(name, apps[name].address)
	}
	both := func(what string, good bool) {
		t.Helper()
		for from, to := range map[string]string{"web": "api", "api": "web"} {
			meshtest.Await(t, from+" to "+to+" "+what, func() error {
				if failed, why, _ := apps[from].dial(to, 3); good && failed > 0 || !good && failed < 3 {
					return fmt.Errorf("%d of 3 failed: %s", failed, why)
				}
				return nil
			})
		}
	}
	for _, action := range []string{allow, deny, allow} {
		m.intend("api", map[string]string{"web": action})
		m.intend("web", map[string]string{"api": action})
		both(action, action == allow)
	}
	figure(t, "ready: ours=%s theirs=%s", apps["web"].ready(), apps["api"].ready())
	if r := apps["web"].ready(); r != "true" {
		t.Errorf("Ready is %s", r)
	}
}

// TestBesideConsul has two applications ask a sallyport beside a Consul with ACLs, each with its service's token.
func TestBesideConsul(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: "11111111-2222-3333-4444-555555555555"})
	m := beside(t, c)
	_, apis := c.ServiceToken("api")
	_, webs := c.ServiceToken("web")
	for _, s := range []string{"web", "api"} { // sallyport makes leafs for what is registered; the port comes later
		register(t, c, s, "127.0.0.1:1")
	}
	api := service(t, m.address(), "api", connect.Options{Token: apis, EndOnRevocation: true, RevocationInterval: time.Hour})
	web := service(t, m.address(), "web", connect.Options{Token: webs})
	register(t, c, "api", echo(t, api))
	c.Intend("api", meshtest.Intentions{"web": allow})
	meshtest.Await(t, "allowed", func() error { return reach(t.Context(), web, "api") })
	held, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ping(held); err != nil {
		t.Fatal(err)
	}
	// Consul itself gives the leaf to everybody from now on; sallyport does not.
	stranger, err := connect.NewService(t.Context(), "api", connect.Options{Address: m.address(), Token: webs, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := stranger.ReadyWait(ctx); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("another service's token: %v", err)
	}
	c.Intend("api", meshtest.Intentions{"web": deny})
	figure(t, "ended_after_the_denial=%s", ended(t, held).Round(time.Millisecond))
	meshtest.Await(t, "denied", func() error {
		if reach(t.Context(), web, "api") == nil {
			return errors.New("let in")
		}
		return nil
	})
}
