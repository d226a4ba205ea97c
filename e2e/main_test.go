//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// sallyport is the path of the command under test; set once, before the tests.
var sallyport string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if task := os.Getenv(probeVariable); task != "" {
		if err := prober(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if task := os.Getenv(floodVariable); task != "" {
		if err := flooder(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if sallyport = os.Getenv("SALLYPORT_BIN"); sallyport == "" {
		dir, err := os.MkdirTemp("", "sallyport-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Users of other tests' processes (the prober) have to reach the command.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		sallyport = filepath.Join(dir, "sallyport")
		build := exec.Command("go", "build", "-o", sallyport, "github.com/sallyport/sallyport/cmd/sallyport")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building sallyport: %v\n%s", err, out)
			return 1
		}
	}
	abs, err := filepath.Abs(sallyport)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	sallyport = abs
	status := m.Run()
	if r, ok := meshtest.StopControl(); ok {
		fmt.Printf("FIGURE control load: %s\n", r)
	}
	return status
}

// newMesh makes a mesh on the Envoy of the whole suite. flags are further ones of `sallyport serve`.
func newMesh(t *testing.T, flags ...string) *meshtest.Mesh {
	t.Helper()
	return meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: flags})
}

// needRoot skips the test of whoever cannot act as other users, and says so, so that nobody takes it for passed.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOTE: %s needs root to act as other users", t.Name())
	}
}

// figure prints what was measured.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	fmt.Printf("FIGURE %s %s\n", strings.ReplaceAll(t.Name(), " ", "_"), fmt.Sprintf(format, args...))
}

func serveHTTP(t *testing.T, body string) *meshtest.Server {
	t.Helper()
	return serveHTTPOn(t, "127.0.0.1", body)
}

func serveHTTPOn(t *testing.T, host, body string) *meshtest.Server {
	t.Helper()
	s, err := meshtest.ServeHTTP(net.JoinHostPort(host, "0"), body, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func serveEcho(t *testing.T, banner string) *meshtest.Server {
	t.Helper()
	return serveEchoOn(t, "127.0.0.1", banner)
}

func serveEchoOn(t *testing.T, host, banner string) *meshtest.Server {
	t.Helper()
	s, err := meshtest.ServeEcho(net.JoinHostPort(host, "0"), banner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func startLoad(t *testing.T, c meshtest.LoadConfig) *meshtest.Load {
	t.Helper()
	meshtest.StartControl(t)
	l, err := meshtest.StartLoad(c)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return l
}

// unscathed fails the test if any request of a load failed or any of its connections ended. What the
// control load failed as well is the machine's: said apart, and no pass either.
func unscathed(t *testing.T, what string, r meshtest.Report) {
	t.Helper()
	figure(t, "load=%q %s", what, r)
	control, ok := meshtest.ControlSince(r.From)
	if !ok {
		t.Fatal("no control load runs")
	}
	v := meshtest.Judge(r, control)
	switch {
	case len(v.Ours) > 0 || r.Closed != 0 && len(v.Machine) == 0:
		t.Errorf("%s: %d of %d requests failed, %d of %d connections ended: %v\nthe control load meanwhile: %v", what, r.Failed, r.Requests, r.Closed, r.Held, r, control)
	case r.Failed != 0:
		t.Errorf("%s%s: %d of %d requests failed: %v\nthe control load meanwhile: %v", meshtest.TooSlow, what, r.Failed, r.Requests, r, control)
	}
	if r.Requests == 0 {
		t.Errorf("%s: the load did nothing", what)
	}
}
