package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// TestGoesOn: a restart beside a broken file goes on from what was in force, unless an older release ran in between, or the
// files were read as a whole. `intention check` says that something waits, and its exit status, too.
func TestGoesOn(t *testing.T) {
	withoutVariables(t)
	dir := shortTemp(t)
	t.Chdir(dir)
	mesh := filepath.Join(dir, "cat", "mesh.hcl")
	writeText(t, mesh, twoServices)
	// serve runs a control plane until it is stopped, and until its catalog has so many proxies, or so many problems.
	serve := func(proxies, problems int, args ...string) (stop func()) {
		t.Helper()
		root, out := prepare(append([]string{"serve", "--catalog", "cat", "--data", "data", "--runtime-dir", "rt", "--metrics-bind", "", "--log-level", "error"}, args...)...)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- root.ExecuteContext(ctx) }()
		stop = func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
		for end := time.Now().Add(awaitDeadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if c, err := admin.Find(filepath.Join(dir, "rt")); err == nil {
				if s, err := c.Status(t.Context()); err == nil && len(s.Proxies) == proxies && len(s.Catalog.Problems) == problems {
					return stop
				}
			}
		}
		stop()
		t.Fatalf("serve %v has not %d proxies and %d problems:\n%s", args, proxies, problems, out)
		return nil
	}
	check := func(want string, status int) {
		t.Helper()
		out, err := command(t, "intention", "check", "web", "api", "--runtime-dir", "rt")
		if got, _ := errors.AsType[exitError](err); int(got) != status || !strings.Contains(out, want) {
			t.Errorf("intention check: %v, %q, want %q and status %d", err, out, want, status)
		}
	}
	broken := func() { writeText(t, mesh, strings.Replace(twoServices, `"allow"`, `"deny" }`, 1)) }

	stop := serve(2, 0)
	check("mesh.hcl:16", 0)
	broken()
	for end := time.Now().Add(awaitDeadline); ; time.Sleep(10 * time.Millisecond) {
		out, _ := command(t, "intention", "check", "web", "api", "--runtime-dir", "rt")
		if strings.Contains(out, "(as taken at ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing waits: %s", out)
		}
	}
	check("Allowed: web => api, by the intention web => api (allow) at mesh.hcl:16 (as taken at ", 3)
	stop()
	stop = serve(2, 1)
	check("; newer contents wait until they can be taken: mesh.hcl", 3)
	stop()
	if err := os.WriteFile("data/change", []byte("123\n"), 0o600); err != nil { // as an older release does at its start
		t.Fatal(err)
	}
	serve(0, 1)()
	writeText(t, mesh, twoServices)
	serve(2, 0)()
	serve(2, 0, "--strict-catalog")()
	broken()
	serve(0, 1)()
}
