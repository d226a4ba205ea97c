package meshtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
)

// Config says what a Mesh runs. Sallyport is required.
type Config struct {
	// Sallyport is the path of the built command.
	Sallyport string
	// Envoy is the version of the sidecars' Envoys; empty: Version.
	Envoy string
	// Flags are further flags of `sallyport serve`.
	Flags []string
	// Consul is the agent that the mesh is read from, instead of files; nil: files.
	Consul *Consul
	// Prober lets processes of other users reach the mesh's sockets as far as their modes do.
	Prober bool
	// User is the uid that the control plane runs as; 0: the test's own. The test has to run as root, and Sallyport to be where that user
	// may run it.
	User uint32
}

// Version is the Envoy that the whole suite runs on.
const Version = "1.40.0"

// Mesh is a control plane, its catalog and its sidecars. Its methods are for the test's own
// goroutine.
type Mesh struct {
	// Catalog, Data and Runtime are the directories that the control plane was given.
	Catalog, Data, Runtime string

	t        testing.TB
	config   Config
	dir      string
	envoy    string
	ports    *Ports
	serve    *Process
	services map[string]*Service
	upstream map[string]upstreamPorts
	env      []string // of commands, beside Environ
	sidecars []*Sidecar
}

// ports are shared by all meshes of a test process.
var ports Ports

// New makes a mesh without services and without a running control plane: Add services, then Serve.
func New(t testing.TB, c Config) *Mesh {
	t.Helper()
	if c.Envoy == "" {
		c.Envoy = Version
	}
	StartControl(t)
	// Not t.TempDir: its paths are too long for Unix sockets.
	dir, err := os.MkdirTemp("", "mesh-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the mesh's files are kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	if c.Prober {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &Mesh{
		Catalog: filepath.Join(dir, "catalog"), Data: filepath.Join(dir, "data"), Runtime: filepath.Join(dir, "run"),
		t: t, config: c, dir: dir, envoy: envoytest.Binary(t, c.Envoy), ports: &ports,
		services: map[string]*Service{}, upstream: map[string]upstreamPorts{},
	}
	if err := os.Mkdir(m.Catalog, 0o755); err != nil {
		t.Fatal(err)
	}
	if c.User != 0 {
		if err := os.Chown(dir, int(c.User), int(c.User)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(m.leaks)
	return m
}

// Envoy is the path of the sidecars' Envoy.
func (m *Mesh) Envoy() string { return m.envoy }

// Port gives out a port.
func (m *Mesh) Port() int {
	m.t.Helper()
	p, err := m.ports.Next()
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// Serve starts the control plane and waits until it is ready.
func (m *Mesh) Serve() {
	m.t.Helper()
	m.Launch()
	m.AwaitServe()
}

// Launch starts the control plane without waiting for it.
func (m *Mesh) Launch() {
	m.t.Helper()
	source := []string{"--catalog", m.Catalog}
	if c := m.config.Consul; c != nil {
		source = []string{"--consul", "--http-addr", c.Addr}
	}
	args := []string{"serve", "--data", m.Data, "--runtime-dir", m.Runtime, "--metrics-bind", "", "--log-format", "text", "--log-level", "debug"}
	cmd := m.command(slices.Concat(args, source, m.config.Flags)...)
	if u := m.config.User; u != 0 {
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u, Gid: u}}
	}
	m.serve = Start(m.t, "sallyport serve", m.ServeLog(), cmd)
}

// AwaitServe waits until the control plane is ready.
func (m *Mesh) AwaitServe() {
	m.t.Helper()
	serve := m.serve
	Await(m.t, "control plane ready", func() error {
		if serve.Ended() {
			m.t.Fatalf("sallyport serve ended: %v\n%s", serve.err, serve.Log())
		}
		s, err := m.status()
		if err != nil {
			return err
		}
		if s.PID != serve.PID() {
			return fmt.Errorf("pid %d answers, not %d", s.PID, serve.PID())
		}
		if len(s.NotReady) > 0 {
			return fmt.Errorf("not ready: %s", strings.Join(append(s.NotReady, s.Catalog.Problems...), "; "))
		}
		return nil
	})
}

// SetFlags replaces the further flags of the control plane from its next start on.
func (m *Mesh) SetFlags(flags ...string) { m.config.Flags = flags }

// SetSallyport replaces the command from the next process on: of the control plane, of clients and
// of new sidecars.
func (m *Mesh) SetSallyport(path string) { m.config.Sallyport = path }

// KillServe ends the control plane with SIGKILL.
func (m *Mesh) KillServe() { m.serve.Kill() }

// StopServe ends the control plane with SIGTERM and reports how long that took. It fails the test
// if the exit status is not 0.
func (m *Mesh) StopServe() time.Duration {
	m.t.Helper()
	start := time.Now()
	if err := m.serve.Signal(syscall.SIGTERM); err != nil {
		m.t.Fatal(err)
	}
	err, ended := m.serve.Wait(Deadline)
	if !ended {
		m.t.Fatalf("sallyport serve still runs %s after SIGTERM", Deadline)
	}
	if err != nil {
		m.t.Errorf("sallyport serve after SIGTERM: %v", err)
	}
	return time.Since(start)
}

// ServeProcess is the running control plane.
func (m *Mesh) ServeProcess() *Process { return m.serve }

// ServeLog is the file with what the control planes of this mesh wrote.
func (m *Mesh) ServeLog() string { return filepath.Join(m.dir, "serve.log") }

func (m *Mesh) command(args ...string) *exec.Cmd {
	c := exec.Command(m.config.Sallyport, args...)
	c.Env = append(Environ(), m.env...)
	return c
}

// client is a command that asks this mesh's control plane.
func (m *Mesh) client(args ...string) *exec.Cmd {
	args = append(args, "--runtime-dir", m.Runtime)
	if u := m.config.User; u != 0 {
		args = append(args, "--runtime-owner", strconv.FormatUint(uint64(u), 10))
	}
	return m.command(args...)
}

// SetEnv replaces what further variables of the environment the next commands get.
func (m *Mesh) SetEnv(env ...string) { m.env = env }

// Environ is the environment without sallyport's and Consul's variables, so that what a developer
// has set changes no test.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "SALLYPORT_") || strings.HasPrefix(e, "CONSUL_") })
}

// Run runs a client command of sallyport against this mesh.
func (m *Mesh) Run(args ...string) Result {
	m.t.Helper()
	r, err := run(m.client(args...))
	if err != nil {
		m.t.Fatalf("sallyport %s: %v", strings.Join(args, " "), err)
	}
	return r
}

// MustRun is Run of a command that has to succeed; it returns what it printed.
func (m *Mesh) MustRun(args ...string) string {
	m.t.Helper()
	r := m.Run(args...)
	if r.Exit != 0 {
		m.t.Fatalf("sallyport %s: exit %d\n%s%s", strings.Join(args, " "), r.Exit, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Add writes the definition of a service and gives out the ports that it leaves open. It returns
// the service with them.
func (m *Mesh) Add(s Service) *Service {
	m.t.Helper()
	if old := m.services[s.Name]; old != nil && s.Port == 0 {
		s.Port = old.Port
	}
	if s.Port == 0 {
		s.Port = m.Port()
	}
	if m.upstream[s.Name] == nil {
		m.upstream[s.Name] = upstreamPorts{}
	}
	for _, u := range s.Upstreams {
		if m.upstream[s.Name][u] == 0 {
			m.upstream[s.Name][u] = m.Port()
		}
	}
	m.services[s.Name] = &s
	if c := m.config.Consul; c != nil {
		if s.Protocol != "" {
			c.PutConfig(map[string]any{"Kind": "service-defaults", "Name": s.Name, "Protocol": s.Protocol})
		}
		c.Register(s.registration(m.upstream[s.Name]))
		return &s
	}
	m.Write(s.Name+".hcl", s.hcl(m.upstream[s.Name]))
	if s.Protocol != "" {
		m.Write("defaults-"+s.Name+".hcl", protocolHCL(s.Name, s.Protocol))
	}
	return &s
}

// UpstreamPort is the port on which the application of a service dials one of its upstreams.
func (m *Mesh) UpstreamPort(service, upstream string) int { return m.upstream[service][upstream] }

// PublicPort is the port of a service's sidecar.
func (m *Mesh) PublicPort(service string) int { return m.services[service].Port }

// Public is PublicPort as an address on 127.0.0.1.
func (m *Mesh) Public(service string) string {
	return fmt.Sprintf("127.0.0.1:%d", m.PublicPort(service))
}

// Upstream is UpstreamPort as an address on 127.0.0.1.
func (m *Mesh) Upstream(service, upstream string) string {
	return fmt.Sprintf("127.0.0.1:%d", m.upstream[service][upstream])
}

// Intend writes the intentions of a destination; nil removes them.
func (m *Mesh) Intend(destination string, i Intentions) {
	m.t.Helper()
	if c := m.config.Consul; c != nil {
		c.Intend(destination, i)
		return
	}
	file := "intentions-" + strings.ReplaceAll(destination, "*", "all") + ".hcl"
	if i == nil {
		m.Remove(file)
		return
	}
	m.Write(file, i.hcl(destination))
}

// Write replaces a file of the catalog in one step.
func (m *Mesh) Write(name, text string) {
	m.t.Helper()
	if err := replaceFile(filepath.Join(m.Catalog, name), text); err != nil {
		m.t.Fatal(err)
	}
}

// Remove removes a file of the catalog.
func (m *Mesh) Remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.Catalog, name)); err != nil {
		m.t.Fatal(err)
	}
}

// AwaitCheck waits until `sallyport intention check` says want of source and destination: until the
// control plane has seen a change.
func (m *Mesh) AwaitCheck(source, destination string, want bool) {
	m.t.Helper()
	exit := 1
	if want {
		exit = 0
	}
	Await(m.t, fmt.Sprintf("intention check %s %s = %v", source, destination, want), func() error {
		if r := m.Run("intention", "check", source, destination); r.Exit != exit {
			return fmt.Errorf("exit %d: %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// RunAlone runs a command of sallyport that gets nothing but these arguments.
func (m *Mesh) RunAlone(args ...string) Result {
	m.t.Helper()
	r, err := run(m.command(args...))
	if err != nil {
		m.t.Fatalf("sallyport %s: %v", strings.Join(args, " "), err)
	}
	return r
}

// ReserveUpstream gives out the port on which a service will dial an upstream that its definition
// does not have yet.
func (m *Mesh) ReserveUpstream(service, upstream string) int {
	m.t.Helper()
	p := m.Port()
	m.upstream[service][upstream] = p
	return p
}
