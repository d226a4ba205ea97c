//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestBrokenFile: while a file is wrong the mesh stays as it was, the status says what is wrong and where, and what is mended counts again.
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
		// Nothing else gets in with it: a valid change waits until all is valid.
		m.Intend("db", meshtest.Intentions{"web": "allow", "batch": "allow"})
		meshtest.Holds(t, broken.name+": nothing changes", 600*time.Millisecond, func() error {
			if r := m.Run("intention", "check", "batch", "db"); r.Exit != 1 {
				return fmt.Errorf("check batch db: exit %d, %s", r.Exit, r.Stdout)
			}
			return nil
		})
		m.Intend("db", meshtest.Intentions{"web": "allow"})
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
	// A control plane that starts on broken files has nothing to serve yet, and leaves the sidecars what they have.
	m.Write("intentions-api.hcl", "Kind = ")
	m.KillServe()
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
	same("start on broken files")
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
	if r := m.Run("intention", "check", "web", "nowhere"); r.Exit != 2 {
		t.Errorf("intention check of a destination that nobody knows: exit %d, %s%s, want 2", r.Exit, r.Stdout, r.Stderr)
	}
	text := m.MustRun("status")
	for _, want := range []string{"web-sidecar-proxy", "api-sidecar-proxy", "1.40.0", "in sync", "rbac"} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	fmt.Print(text)
}
