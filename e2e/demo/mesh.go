package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// patience is how long the demo waits for anything.
const patience = 60 * time.Second

// endTime is how long a process is given to end.
const endTime = 15 * time.Second

// mesh is what the demo runs: a control plane, a sidecar for each instance, and api's applications in this process.
type mesh struct {
	play
	sallyport, envoy string
	agent            *agent // nil: the mesh is that of files
	state            *state
	dir              string // of everything below
	apps             []*meshtest.Server
	serve            *meshtest.Process
	sidecars         map[string]*meshtest.Process
}

func newMesh(sallyport, envoy string, p play, a *agent, s *state) (*mesh, error) {
	// Not os.TempDir: what some systems have there is too long for the path of a socket.
	dir, err := os.MkdirTemp("/tmp", "sallyport-demo-")
	if err != nil {
		return nil, err
	}
	if err := s.setDir(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	m := &mesh{play: p, sallyport: sallyport, envoy: envoy, agent: a, state: s, dir: dir, sidecars: map[string]*meshtest.Process{}}
	err = fs.WalkDir(definitions, p.files, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(m.catalog(), 0o755)
		}
		text, err := definitions.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(m.catalog(), d.Name()), text, 0o644) // for its user to look at and to edit
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return m, nil
}

func (m *mesh) catalog() string { return filepath.Join(m.dir, "catalog") }

func (m *mesh) runtimeDir() string { return filepath.Join(m.dir, "run") }

// services are those of the catalog, the one that is asked first.
var services = [...]string{"api", "web", "batch"}

// start starts everything and waits until it works.
func (m *mesh) start(ctx context.Context) (err error) {
	for _, a := range m.answers {
		app, err := meshtest.ServeHTTP(a[0], a[1], nil)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s, where api's application is to listen, is in use by another process (not of a demo): end that first", a[0])
		}
		if err != nil {
			return err
		}
		m.apps = append(m.apps, app)
	}
	if m.agent != nil {
		if err := m.startAgent(ctx); err != nil {
			return err
		}
		if err := m.tellAgent(); err != nil {
			return err
		}
	}
	if err := m.startServe(ctx); err != nil {
		return err
	}
	for _, s := range m.instances {
		c, err := m.run(s+"'s sidecar", s, "envoy", "--sidecar-for", s, "--envoy-binary", m.envoy, "--", "--concurrency", "1")
		if err != nil {
			return err
		}
		m.sidecars[s] = c
	}
	for _, s := range m.instances {
		if err := m.sidecars[s].Await(ctx, patience, "ready", func() error { _, err := m.admin(s, "/ready"); return err }); err != nil { //nolint:contextcheck // it has a deadline of its own
			return err
		}
	}
	if err := m.serve.Await(ctx, patience, "in sync with its sidecars", m.inSync); err != nil || m.agent == nil {
		return err
	}
	// Consul calls a sidecar critical until it has looked at it for the first time, up to 10 s after its registration.
	return m.serve.Await(ctx, patience, "seeing that api's sidecar is healthy", func() error { //nolint:contextcheck // it has a deadline of its own
		if a := meshtest.GetPlain(m.asked); !a.Allowed() {
			return fmt.Errorf("web → api: %v", a)
		}
		return nil
	})
}

func (m *mesh) startServe(ctx context.Context) (err error) {
	source := []string{"--catalog", m.catalog()}
	if m.agent != nil {
		source = []string{"--consul", "--http-addr", m.agent.Addr}
	}
	m.serve, err = m.run("the control plane", "serve", slices.Concat([]string{"serve"}, source, []string{"--data", filepath.Join(m.dir, "data"), "--metrics-bind", ""})...)
	if err != nil {
		return err
	}
	return m.serve.Await(ctx, patience, "ready", func() error {
		s, err := m.status()
		if err == nil && (s.PID != m.serve.PID() || len(s.NotReady) > 0) {
			err = errors.New(strings.Join(s.NotReady, "; "))
		}
		return err
	})
}

// run starts sallyport as launch does.
func (m *mesh) run(name, log string, args ...string) (*meshtest.Process, error) {
	return m.launch(name, log, m.command(args...))
}

// launch starts a program in a process group of its own, so that Ctrl-C reaches the demo alone, which ends things in order.
func (m *mesh) launch(name, log string, cmd *exec.Cmd) (*meshtest.Process, error) {
	p, err := meshtest.Launch(name, filepath.Join(m.dir, log+".log"), cmd)
	if err != nil {
		return nil, err
	}
	if err := m.state.add(p.PID(), name); err != nil && !p.Ended() {
		return p, err
	}
	return p, nil
}

func (m *mesh) command(args ...string) *exec.Cmd {
	cmd := exec.Command(m.sallyport, args...) //nolint:noctx // the command that the demo shows; it is ended in order, not by a context
	cmd.Env = slices.DeleteFunc(meshtest.Environ(), func(e string) bool { return strings.HasPrefix(e, "ENVOY=") })
	cmd.Env = append(cmd.Env, "SALLYPORT_RUNTIME_DIR="+m.runtimeDir())
	return cmd
}

// ask runs a client command and returns its first line and exit status.
func (m *mesh) ask(args ...string) (line string, exit int) {
	out, err := m.command(args...).CombinedOutput()
	line, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return line, e.ExitCode()
	}
	if err != nil {
		return err.Error(), -1
	}
	return line, 0
}

// status is what `sallyport status --json` says, as far as the demo looks at it.
func (m *mesh) status() (s meshtest.Status, err error) {
	var stdout, stderr bytes.Buffer
	cmd := m.command("status", "--json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return s, json.Unmarshal(stdout.Bytes(), &s)
}

// inSync is nil if every sidecar has accepted all that it is to have.
func (m *mesh) inSync() error {
	s, err := m.status()
	if err != nil {
		return err
	}
	for _, p := range s.Proxies {
		if !p.InSync {
			return fmt.Errorf("%s is not in sync", p.ID)
		}
	}
	return nil
}

// admin asks a sidecar's Envoy.
func (m *mesh) admin(service, path string) (string, error) {
	socket := filepath.Join(m.runtimeDir(), service+"-sidecar-proxy", "admin.sock")
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	a := meshtest.Get(tr, "http://envoy"+path)
	if a.Err == nil && a.Status != http.StatusOK {
		a.Err = fmt.Errorf("%s: status %d", path, a.Status)
	}
	return a.Body, a.Err
}

// close ends everything. The files stay if keep is true.
func (m *mesh) close(keep bool) error {
	for _, c := range m.sidecars {
		c.Stop(syscall.SIGTERM, endTime)
	}
	if m.serve != nil {
		m.serve.Stop(syscall.SIGTERM, endTime)
	}
	if m.agent != nil && m.agent.process != nil {
		m.agent.process.Stop(syscall.SIGKILL, endTime) // nothing of it is kept
	}
	for _, a := range m.apps {
		a.Close()
	}
	err := m.state.clear()
	if keep {
		fmt.Fprintf(os.Stderr, "The logs are in %s.\n", m.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}
