package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spf13/cobra"
)

// twoServices are web, which dials api, and api, which lets it.
const twoServices = `services {
  name = "web"
  port = 8080
  connect { sidecar_service { proxy {
    upstreams { destination_name = "api" local_bind_port = 9191 }
  } } }
}
services {
  name = "api"
  port = 8081
  connect { sidecar_service {} }
}
config_entries { bootstrap = [{
  Kind = "service-intentions"
  Name = "api"
  Sources = [{ Name = "web" Action = "allow" }]
}] }
`

// awaitDeadline bounds waits for what happens at once on a machine at rest.
const awaitDeadline = 20 * time.Second

// output is what a command wrote; it may still run.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// shortTemp is a directory whose path is short enough for sockets in it.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// prepare returns sallyport with args, and where it will print.
func prepare(args ...string) (*cobra.Command, *output) {
	var out output
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	return root, &out
}

// withoutVariables takes SALLYPORT_* out of the environment for a test: those of the tests' own are
// none that serve knows.
func withoutVariables(t *testing.T) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "SALLYPORT_") {
			t.Setenv(name, value) // which puts it back at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// command runs sallyport with args and returns what it printed.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root, out := prepare(args...)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// startServe runs `sallyport serve` in a directory of its own, which becomes the working directory:
// the catalog cat with twoServices, the data directory data, the runtime directory rt. It returns a
// client and that directory when a catalog was read.
func startServe(t *testing.T, args ...string) (*admin.Client, string) {
	t.Helper()
	withoutVariables(t)
	dir := shortTemp(t)
	t.Chdir(dir)
	var ports meshtest.Ports
	var free [2]int
	for i := range free {
		port, err := ports.Next()
		if err != nil {
			t.Fatal(err)
		}
		free[i] = port
	}
	// web's sidecar may be run, and the machine may have a mesh of its own.
	writeText(t, filepath.Join(dir, "cat", "mesh.hcl"), strings.NewReplacer(
		"9191", strconv.Itoa(free[0]), "sidecar_service { proxy", fmt.Sprintf("sidecar_service { port = %d proxy", free[1]),
	).Replace(twoServices))
	if err := os.Mkdir(filepath.Join(dir, "rt"), 0o700); err != nil { // as an earlier start left it
		t.Fatal(err)
	}
	root, _ := prepare(append([]string{"serve", "--catalog", "cat", "--data", "data", "--runtime-dir", "rt", "--metrics-bind", "", "--log-level", "error"}, args...)...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	for end := time.Now().Add(awaitDeadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c, err := admin.Find(filepath.Join(dir, "rt"))
		if err != nil {
			continue
		}
		if s, err := c.Status(t.Context()); err == nil && len(s.Proxies) > 0 {
			return c, dir
		}
	}
	t.Fatal("serve does not answer")
	return nil, ""
}

// TestRelativeRuntimeDir: the sidecars that are told of the sockets have a working directory of
// their own.
func TestRelativeRuntimeDir(t *testing.T) {
	c, dir := startServe(t)
	r, err := c.Token(t.Context(), admin.TokenRequest{SidecarFor: "web"})
	if want := filepath.Join(dir, "rt", "xds.sock"); err != nil || r.XDSSocket != want {
		t.Errorf("xDS socket %q, %v, want %s", r.XDSSocket, err, want)
	}
	if out, err := command(t, "bootstrap", "--sidecar-for", "web", "--runtime-dir", "rt"); err != nil || !strings.Contains(out, dir) {
		t.Errorf("bootstrap: %v, %s", err, out)
	}
}

// TestAdminGroup: the group's members get to the socket, whoever runs the control plane.
func TestAdminGroup(t *testing.T) {
	g, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	_, dir := startServe(t, "--admin-group", g.Name)
	if info, err := os.Stat(filepath.Join(dir, "rt")); err != nil || info.Mode().Perm()&0o011 != 0o011 {
		t.Errorf("runtime directory: %v, %v, want others let through", info.Mode(), err)
	}
	if info, err := os.Stat(admin.Socket(filepath.Join(dir, "rt"))); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("admin socket: %v, %v, want 0660", info.Mode(), err)
	}
	refused := &fs.PathError{Op: "chown", Path: "/x", Err: fs.ErrPermission}
	if err := groupError("audio", refused); !errors.Is(err, refused) || !strings.Contains(err.Error(), "member of the group") {
		t.Errorf("error = %v, want how to mend it", err)
	}
	if err := groupError("", refused); !errors.Is(err, refused) || err.Error() != refused.Error() {
		t.Errorf("error without a group = %v", err)
	}
}

func TestStateDir(t *testing.T) {
	for _, tc := range []struct {
		uid               int
		state, home, want string
	}{
		{0, "/s", "/h", "/var/lib/sallyport"},
		{7, "/s", "/h", "/s/sallyport"},
		{7, "relative", "/h", "/h/.local/state/sallyport"},
		{7, "", "/h", "/h/.local/state/sallyport"},
		{7, "", "", ""},
	} {
		got, err := stateDir(tc.uid, func(name string) string {
			return map[string]string{"XDG_STATE_HOME": tc.state, "HOME": tc.home}[name]
		})
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("stateDir(%d) with XDG_STATE_HOME=%s HOME=%s = %q, %v, want %q", tc.uid, tc.state, tc.home, got, err, tc.want)
		}
	}
	for _, c := range []serveConfig{{Consul: true}, {Catalog: "cat"}, {Catalog: "cat", Data: "data", RuntimeDir: "rt"}} {
		if err := c.complete(); err != nil || !filepath.IsAbs(c.Data) || !filepath.IsAbs(c.RuntimeDir) || c.Catalog != "" && !filepath.IsAbs(c.Catalog) {
			t.Errorf("%+v, %v, want full paths", c, err)
		}
	}
}

// TestFailedStart: a start that fails for what can be known before leaves nothing behind, a CA that
// nobody wants least of all.
func TestFailedStart(t *testing.T) {
	withoutVariables(t)
	dir := shortTemp(t)
	t.Chdir(dir)
	writeText(t, filepath.Join(dir, "cat", "mesh.hcl"), twoServices)
	taken, err := admin.Listen(filepath.Join(dir, "admin.sock"), 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for args, want := range map[string]string{
		"--default-intention-policy alow": "--default-intention-policy",
		"--trust-domain a/b":              "--trust-domain",
		"--leaf-ttl 1s":                   "--leaf-ttl",
		"--admin-group no-such-group":     "--admin-group",
		"--runtime-dir " + dir:            "another sallyport serves",
		"--runtime-dir cat/mesh.hcl":      "not a directory",
		"--runtime-dir " + filepath.Join(dir, strings.Repeat("x", 120)): "too long",
		"--xds-address 192.0.2.1:1":                                     "--xds-address",
		"--data cat":                                                    "is the catalog directory",
	} {
		_, err := command(t, append([]string{"serve", "--catalog", "cat", "--data", "data", "--runtime-dir", "rt", "--metrics-bind", ""}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("serve %s: %v, want %q", args, err, want)
		}
		if _, err := os.Stat("data"); err == nil {
			t.Fatalf("serve %s left a data directory behind", args)
		}
		if left, _ := os.ReadDir("cat"); len(left) != 1 {
			t.Fatalf("serve %s left %v in the catalog", args, left)
		}
	}
}

// TestAnnounceLater: beside Consul the catalog comes bit by bit, and the first of it has no
// proxies.
func TestAnnounceLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &controlPlane{store: &catalog.Store{}, source: source{status: func() admin.Catalog { return admin.Catalog{Source: "a test"} }}}
		contents := catalogtest.Mesh{Mesh: catalog.Mesh{TrustDomain: exampleDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}}}
		p.store.Publish(contents.Contents())
		var out output
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.announce(t.Context(), &out, listeners{})
		}()
		time.Sleep(time.Minute)
		if got := out.String(); !strings.Contains(got, "no proxies yet") {
			t.Errorf("announced %q before there are proxies", got)
		}
		for _, name := range []string{"web", "api"} {
			contents.Proxies = append(contents.Proxies, catalog.Proxy{ID: identity.ProxyID(name + "-sidecar-proxy"), Service: identity.NewName(name)})
			p.store.Publish(contents.Contents())
			time.Sleep(time.Second / 2)
		}
		<-done
		if got := out.String(); !strings.Contains(got, "\nnow there: 2 proxies\n  api-sidecar-proxy") {
			t.Errorf("announced %q, want both proxies at once", got)
		}
	})
}

// TestRotateSaysWhy: leafs are made for connected sidecars alone.
func TestRotateSaysWhy(t *testing.T) {
	c, _ := startServe(t)
	for service, want := range map[string]string{"web": "none of its sidecars is connected", "wbe": "not found"} {
		if _, err := c.Rotate(t.Context(), service); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("leaf rotate %s: %v, want %q", service, err, want)
		}
	}
}
