//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestLostState: without its CA, or with damaged records, a control plane does not start, and says what to do; without the key of its tokens it
// does, and sidecars get new ones. What is put back is taken again.
func TestLostState(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	app := serveEcho(t, "")
	m.Add(meshtest.Service{Name: "api", Local: app})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web")
	echo := func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "api"), "hello")) }
	meshtest.Await(t, "web reaches api", echo)
	generations := filepath.Join(m.Data, "generations-2.json")
	meshtest.Await(t, "generations are on disk", func() error { _, err := os.Stat(generations); return err })
	m.StopServe()
	refused := func(what string, words ...string) {
		t.Helper()
		r := m.Run("serve", "--catalog", m.Catalog, "--data", m.Data, "--metrics-bind", "")
		for _, w := range words {
			if r.Exit == 0 || !strings.Contains(r.Stderr, w) {
				t.Errorf("%s: exit %d, %s; want %q", what, r.Exit, r.Stderr, w)
			}
		}
	}
	away := func(name string) (back func()) {
		t.Helper()
		path, kept := filepath.Join(m.Data, name), filepath.Join(t.TempDir(), "kept")
		if err := os.Rename(path, kept); err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			_ = os.RemoveAll(path)
			if err := os.Rename(kept, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	back := away("ca")
	refused("without ca/", "root.pem: is missing", "token.key is there", "restore it from a backup", "--data")
	back()

	whole, err := os.ReadFile(generations)
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(strings.Replace(string(whole), `"generation":`, `"generation":1`, 1))
	if string(flipped) == string(whole) {
		t.Fatalf("no generation in %s", whole)
	}
	if err := os.WriteFile(generations, flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("with another generation", generations, "checksum", "delet")
	if err := os.WriteFile(generations, whole, 0o600); err != nil {
		t.Fatal(err)
	}

	away("token.key")
	m.Serve()
	if log, err := os.ReadFile(m.ServeLog()); err != nil || !strings.Contains(string(log), "token key is missing") {
		t.Errorf("the log does not say that the token key is new, %v", err)
	}
	meshtest.Await(t, "the sidecars are back, with new tokens", func() error {
		for _, p := range m.Status().Proxies {
			if !p.Connected {
				return errNothing
			}
		}
		return echo()
	})
}
