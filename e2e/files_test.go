//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestBrokenFile: while a file is wrong it says what it said last and all others count; the status says what is wrong and where, and
// what is mended counts again. A restart goes on from there, and one that has no record of it leaves the sidecars what they have.
func TestBrokenFile(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	same := unmodified(t, web, api, db)
	load := busy(t, m)
	for _, broken := range []struct{ name, file, text, where string }{
		{"no HCL", "intentions-api.hcl", "Kind = \"service-intentions\"\nName = \"api\"\nSources = [ {{{\n", "intentions-api.hcl:3"},
		{"half a file", "intentions-api.hcl", "Kind = \"service-intentions\"\nName = \"api\"\nSources = [\n  { Name = \"web\", ", "intentions-api.hcl:"},
		{"an unknown key", "intentions-api.hcl", "Kind = \"service-intentions\"\nName = \"api\"\nSorces = []\n", "intentions-api.hcl:3"},
		{"an unknown action", "intentions-api.hcl", "Kind = \"service-intentions\"\nName = \"api\"\nSources = [\n  { Name = \"web\", Action = \"maybe\" },\n]\n", "intentions-api.hcl:4"},
		{"a mode in which the denied would hear what the server says", "db.hcl", `service {
  name = "db"
  port = 1
  connect { sidecar_service { proxy { config {
    server_first          = true
    intention_enforcement = "ext_authz"
  } } } }
}
`, "db.hcl:"},
		{"an empty file", "db.hcl", "", "db.hcl:1"},
	} {
		good, err := os.ReadFile(filepath.Join(m.Catalog, broken.file))
		if err != nil {
			t.Fatal(err)
		}
		m.Write(broken.file, broken.text)
		meshtest.Await(t, broken.name+": the status says it", func() error {
			if p := strings.Join(m.Status().Catalog.Problems, "\n"); !strings.Contains(p, broken.where) {
				return fmt.Errorf("problems: %q, want one at %s", p, broken.where)
			}
			return nil
		})
		if r := m.RunAlone("validate", m.Catalog); r.Exit == 0 || !strings.Contains(r.Stdout+r.Stderr, broken.where) {
			t.Errorf("%s: sallyport validate: exit %d, %s%s, want %s", broken.name, r.Exit, r.Stdout, r.Stderr, broken.where)
		}
		// What is said elsewhere counts, and the exit status says whether something newer waits.
		waits := 3
		if broken.name == "a mode in which the denied would hear what the server says" {
			waits = 0 // that contradicts the protocol, which is said elsewhere: it costs no intentions
		}
		says := func(batch string, exit int) {
			m.Intend("other", meshtest.Intentions{"batch": batch}) // no service, whose connections it would end
			meshtest.Await(t, broken.name+": batch → other: "+batch, func() error {
				if r := m.Run("intention", "check", "batch", "other"); r.Exit != exit {
					return fmt.Errorf("check batch other: exit %d, %s", r.Exit, r.Stdout)
				}
				return nil
			})
		}
		says("allow", waits)
		says("deny", max(waits+1, 1))
		m.Write(broken.file, string(good))
		meshtest.Await(t, broken.name+": mended", func() error {
			if p := m.Status().Catalog.Problems; len(p) != 0 {
				return fmt.Errorf("problems: %q", p)
			}
			return nil
		})
	}
	unscathed(t, "broken files", load.Stop())
	same("broken files")
	recorded(t, m)
	m.Write("intentions-api.hcl", "Kind = ")
	m.KillServe()
	m.Serve()
	m.AwaitConnected("web", "api", "db")
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 3 || !strings.Contains(r.Stdout, "(as taken at ") {
		t.Errorf("check web api after a start on broken files: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	same("start on broken files")
	// A control plane that starts on broken files and does not know what was in force has nothing to serve yet, and leaves the sidecars
	// what they have.
	m.KillServe()
	if err := os.Remove(filepath.Join(m.Data, "catalog-taken")); err != nil {
		t.Fatal(err)
	}
	m.Launch()
	meshtest.Await(t, "the status says what is wrong", func() error {
		r := m.Run("status")
		if r.Exit != 0 || !strings.Contains(r.Stdout, "intentions-api.hcl:1") {
			return fmt.Errorf("exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		return nil
	})
	if a := meshtest.GetPlain("http://" + m.Upstream("web", "api")); !a.Allowed() {
		t.Errorf("web → api while the control plane has no valid catalog: %v", a)
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.AwaitServe()
	m.AwaitConnected("web", "api", "db")
	same("start on broken files without a record")
}

// TestDenyBesideBrokenFile: while somebody else's file is broken, access that is taken away ends the live connections and refuses
// new ones within a second, and a restart lets nobody in again. /readyz and the status name the file.
func TestDenyBesideBrokenFile(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
	m.Add(meshtest.Service{Name: "job", Upstreams: []string{"db"}})
	m.Intend("db", meshtest.Intentions{"web": "allow", "job": "allow"})
	metrics := fmt.Sprintf("127.0.0.1:%d", m.Port())
	m.SetFlags("--metrics-bind", metrics)
	m.Serve()
	m.Sidecars("db", "web", "job")
	live := connect(t, m.Upstream("web", "db"))
	m.Write("job.hcl", "service {")
	meshtest.Await(t, "/readyz names the file", func() error {
		r, err := http.Get("http://" + metrics + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if b, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(b), "job.hcl is not taken since ") {
			return fmt.Errorf("%s: %s, %w", r.Status, b, err)
		}
		return nil
	})
	start := time.Now()
	m.Intend("db", meshtest.Intentions{"job": "allow", "web": "deny"})
	refused, err := meshtest.Within(promise+room, func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
	if err != nil {
		t.Errorf("a new connection is still let in after %v: %v", refused, err)
	}
	_, err = meshtest.Within(promise+room-time.Since(start), func() error {
		if a := meshtest.Exchange(live, "ping", 4); a.Allowed() {
			return fmt.Errorf("the live connection lives on: %v", a)
		}
		return nil
	})
	ended := time.Since(start)
	if err != nil {
		t.Error(err)
	}
	figure(t, "new_refused_ms=%.0f live_ended_ms=%.0f", millis(refused), millis(ended))
	if a := meshtest.EchoPlain(m.Upstream("job", "db"), "hello"); !a.Allowed() {
		t.Errorf("job → db, whose file is broken: %v", a)
	}
	if r := m.Run("status", "--check"); r.Exit != 1 || !strings.Contains(r.Stdout, "not taken: job.hcl is not taken since ") {
		t.Errorf("status --check: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	recorded(t, m)
	m.KillServe()
	m.Serve()
	m.AwaitConnected("web", "job", "db")
	meshtest.Holds(t, "denied after a restart", time.Second, func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
	if r := m.Run("intention", "check", "web", "db"); r.Exit != 4 {
		t.Errorf("intention check web db: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
}

// recorded waits until what is in force is on the disk.
func recorded(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	meshtest.Await(t, "all is recorded", func() error {
		if _, err := os.Stat(filepath.Join(m.Runtime, "unrecorded-catalog")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("access was taken away that is not recorded: %w", err)
		}
		return nil
	})
}

// TestReload changes the catalog in every way that files are changed, and measures how long until the mesh knows.
func TestReload(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Serve()
	file := filepath.Join(m.Catalog, "intentions-api.hcl")
	text := func(action string) string {
		return fmt.Sprintf("Kind = \"service-intentions\"\nName = \"api\"\nSources = [\n  { Name = \"web\", Action = %q },\n]\n", action)
	}
	write := func(action string) error { return os.WriteFile(file, []byte(text(action)), 0o644) }
	elsewhere := t.TempDir()
	link := func(action string) error {
		target := filepath.Join(elsewhere, action)
		tmp := filepath.Join(elsewhere, "link")
		return errors.Join(os.WriteFile(target, []byte(text(action)), 0o644), os.Symlink(target, tmp), os.Rename(tmp, file))
	}
	// As kubelet mounts a ConfigMap: the file is a link through ..data, a link to a directory that is swapped.
	mount := func(version, action string) error {
		dir := filepath.Join(m.Catalog, "..version"+version)
		err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "intentions-api.hcl"), []byte(text(action)), 0o644),
			os.Symlink("..version"+version, filepath.Join(m.Catalog, "..data_tmp")), os.Rename(filepath.Join(m.Catalog, "..data_tmp"), filepath.Join(m.Catalog, "..data")))
		if _, statErr := os.Lstat(file); err == nil && statErr != nil {
			err = os.Symlink("..data/intentions-api.hcl", file)
		}
		return err
	}
	slow := func(action string) error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		for _, b := range []byte(text(action)) {
			if _, err := f.Write([]byte{b}); err != nil {
				return errors.Join(err, f.Close())
			}
			time.Sleep(2 * time.Millisecond)
		}
		return f.Close()
	}
	steps := []struct {
		name   string
		change func() error
		want   bool
	}{
		{"create", func() error { return write("allow") }, true},
		{"write in place", func() error { return write("deny") }, false},
		{"rename over", func() error { m.Write("intentions-api.hcl", text("allow")); return nil }, true},
		{"delete", func() error { return os.Remove(file) }, false},
		{"a link", func() error { return link("allow") }, true},
		{"a link to another file", func() error { return link("deny") }, false},
		{"slowly", func() error { return errors.Join(os.Remove(file), slow("allow")) }, true},
		{"delete again", func() error { return os.Remove(file) }, false},
		{"a mounted ConfigMap", func() error { return mount("1", "allow") }, true},
		{"its next version", func() error { return mount("2", "deny") }, false},
		{"its target written in place", func() error {
			return os.WriteFile(filepath.Join(m.Catalog, "..version2", "intentions-api.hcl"), []byte(text("allow")), 0o644)
		}, true},
	}
	for _, s := range steps {
		if err := s.change(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		exit := 1
		if s.want {
			exit = 0
		}
		took, err := meshtest.Within(promise+room, func() error {
			if r := m.Run("intention", "check", "web", "api"); r.Exit != exit {
				return fmt.Errorf("check web api: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: not known %v later: %v", s.name, took, err)
		}
		figure(t, "change=%q known_after_ms=%.0f", s.name, millis(took))
	}
	// A signal has it read again at once, and does not end it.
	signal(t, m, syscall.SIGHUP)
	m.AwaitCheck("web", "api", true)
}

// TestRemovedIntention is the issue's own words: curl through web's upstream port is answered; with the intention removed it is refused
// within a second; `intention check` says why; `status` tells the state of both.
func TestRemovedIntention(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t)
	url := "http://" + m.Upstream("web", "api")
	if a := meshtest.GetPlain(url); !a.Allowed() {
		t.Fatalf("web → api: %v", a)
	}
	m.Intend("api", nil)
	took, err := meshtest.Within(promise+room, func() error { return wantDenied(meshtest.GetPlain(url)) })
	if err != nil {
		t.Errorf("still answered %v after the intention was removed: %v", took, err)
	}
	figure(t, "refused_after_ms=%.0f", millis(took))
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 1 || !strings.HasPrefix(r.Stdout, "Denied") || !strings.Contains(r.Stdout, "default") {
		t.Errorf("intention check web api: exit %d, %s%s, want 1 and that the default denies", r.Exit, r.Stdout, r.Stderr)
	}
	if r := m.Run("intention", "check", "web", "nowhere"); r.Exit != 1 || !strings.Contains(r.Stdout, `no service "nowhere" is registered`) {
		t.Errorf("intention check of a destination that nobody knows: exit %d, %s%s, want 1 and that nobody is called so", r.Exit, r.Stdout, r.Stderr)
	}
	text := m.MustRun("status")
	for _, want := range []string{"web-sidecar-proxy", "api-sidecar-proxy", "1.40.0", "in sync", "rbac"} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	fmt.Print(text)
}
