package sidecar

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeSidecarDir(t *testing.T) {
	base := t.TempDir()
	path := func(name string) string { return filepath.Join(base, name) }
	for name, mode := range map[string]os.FileMode{"wide": 0o770, "open": 0o755, "ours": 0o700} {
		if err := os.Mkdir(path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path("ours"), path("link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"new": "", "ours": "", "open": "",
		"wide": "may be written to by others (mode 0770)",
		"file": "is not a directory",
		"link": "is not a directory",
	} {
		err := makeDirectory(path(name))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("makeDirectory(%s) = %v, want %q", name, err, want)
		}
	}
	if info, err := os.Stat(path("new")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a new directory: %v, %v, want mode 0700", info, err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path("ours"), 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := makeDirectory(path("ours")); err == nil || !strings.Contains(err.Error(), "belongs to uid 12345") {
			t.Errorf("somebody else's directory: %v", err)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(dir, "web-sidecar-proxy")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir, "web-sidecar-proxy")
	if want := fmt.Sprintf("pid %d ", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "web-sidecar-proxy") {
		t.Errorf("a second lock: %v, want an error that says %q", err, want)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	held, err = lock(dir, "web-sidecar-proxy")
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDirName(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"web-sidecar-proxy", "..", ".", "%2E%2E", "%2E", "a/b", "a%2Fb", "../../etc", "web:1", "_nomad-task-1", "a b", "ä", "\x00"} {
		name := dirName(id)
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || filepath.Base(name) != name {
			t.Errorf("dirName(%q) = %q is no name of a directory", id, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("dirName gives %q for %q and %q", name, id, other)
		}
		seen[name] = id
	}
	if got := dirName("web-sidecar-proxy"); got != "web-sidecar-proxy" {
		t.Errorf("dirName = %q", got)
	}
}

func TestDirectory(t *testing.T) {
	base := t.TempDir()
	dir, err := Config{}.directory(base, "web-sidecar-proxy")
	if err != nil || dir != filepath.Join(base, "web-sidecar-proxy") {
		t.Errorf("directory = %q, %v", dir, err)
	}
	if os.Geteuid() != 0 { // root's own default is the machine's
		own := t.TempDir()
		t.Setenv("XDG_RUNTIME_DIR", own)
		dir, err := Config{}.directory("/", "web-sidecar-proxy")
		if want := filepath.Join(own, "sallyport", "web-sidecar-proxy"); err != nil || dir != want {
			t.Errorf("directory beside another user's control plane = %q, %v, want %q", dir, err, want)
		}
	}
}
