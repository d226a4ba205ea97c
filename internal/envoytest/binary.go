// Package envoytest runs real Envoys in tests.
package envoytest

import (
	"os"
	"path/filepath"
	"testing"
)

// The Envoys that tests run on: the oldest and the newest that are supported, and one between them.
const (
	Oldest = "1.36.4"
	Middle = "1.38.3"
	Newest = "1.40.0"
)

// Binary is the path of an Envoy of the given version, which `make tools` has put into the
// checkout's .tools directory. A test that wants one that is not there fails, unless
// SALLYPORT_SKIP_ENVOY is set: then it is skipped, which `make test` does not count as a pass.
func Binary(t testing.TB, version string) string {
	t.Helper()
	if os.Getenv("SALLYPORT_SKIP_ENVOY") != "" {
		t.Skipf("SALLYPORT_SKIP_ENVOY is set: no test on Envoy %s", version)
	}
	return Tool(t, "envoy-"+version)
}

// Tool is the path of a program that `make tools` has put into the checkout's .tools directory. A
// test that wants one that is not there fails.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(moduleRoot(t), ".tools", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s: %v: run `make tools`, or set SALLYPORT_SKIP_ENVOY=1 to go without", name, err)
	}
	return path
}

// moduleRoot is the directory of go.mod: tests run in the directory of their package.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the directory of the test")
		}
		dir = parent
	}
}
