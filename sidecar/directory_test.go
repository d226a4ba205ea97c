package sidecar

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/unixsocket"
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
	for _, dir := range []string{os.TempDir(), path("wide")} { // that would be bad advice
		if err := makeDirectory(dir); err == nil || strings.Contains(err.Error(), "chmod") || strings.Contains(err.Error(), "chown") || !strings.Contains(err.Error(), "a new one in it, with -o") {
			t.Errorf("makeDirectory(%s): %v", dir, err)
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

// A sidecar that ends takes its files with it, and leaves what is not its own. One that starts
// meanwhile finds a directory.
func TestRemoveFiles(t *testing.T) {
	base, err := os.MkdirTemp("", "ends-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	for _, id := range []string{"web-sidecar-proxy", nomadID} {
		dir, err := Config{}.directory(base, id)
		if err != nil {
			t.Fatal(err)
		}
		held, err := claim(dir, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{tokenPath(dir), bootstrapPath(dir), adminPath(dir)} {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		late, err := os.OpenFile(lockPath(dir), os.O_RDWR, 0o600) // a second one, that has not come far
		if err != nil {
			t.Fatal(err)
		}
		removeFiles(dir, id)
		if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
			t.Errorf("%s: %v is left, %v", id, left, err)
		}
		if !removed(late) {
			t.Error("a lock whose file is gone is taken for one")
		}
		next, err := claim(dir, id)
		if err != nil {
			t.Fatalf("a start afterwards: %v", err)
		}
		if _, err := claim(dir, id); err == nil || !strings.Contains(err.Error(), "already running") {
			t.Errorf("another one beside it: %v", err)
		}
		mine := filepath.Join(dir, "notes")
		if err := os.WriteFile(mine, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		removeFiles(dir, id)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: %v is left, %v; want the notes", id, left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{held, late, next} {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// nomadID is one of a Nomad job's sidecar.
const nomadID = "_nomad-task-5e2c1d34-7b1c-4f1e-9d5a-0f8a9c3d2b17-group-api-count-api-9001-sidecar-proxy"

// The directory of an ID that is too long for a socket's path has a short name, and the readable
// one leads to it. What a release without short names left there goes on.
func TestLongID(t *testing.T) {
	base, err := os.MkdirTemp("", "long-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	readable := filepath.Join(base, nomadID)
	if err := os.Mkdir(readable, 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := lock(readable, nomadID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second start
		dir, err := Config{}.directory(base, nomadID)
		if err != nil || dir == readable || len(adminPath(dir)) > unixsocket.MaxPath {
			t.Fatalf("directory = %q, %v", dir, err)
		}
		if socket, ok := AdminSocket(base, nomadID); !ok || socket != adminPath(dir) {
			t.Errorf("admin socket %q, %t", socket, ok)
		}
		if err := makeDirectory(dir); err != nil {
			t.Error(err)
		}
		if _, err := lock(dir, nomadID); err == nil {
			t.Error("a second sidecar beside one that an older release has started")
		}
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tokenPath(readable), nil, 0o600); err != nil {
		t.Errorf("what runs from the old path: %v", err)
	}
	if to, err := os.Readlink(readable); err != nil || to != dirName(base, nomadID) {
		t.Errorf("the readable name leads to %q, %v", to, err)
	}
}

func TestDirName(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"web-sidecar-proxy", "..", ".", "%2E%2E", "%2E", "a/b", "a%2Fb", "../../etc", "web:1", "_nomad-task-1", "a b", "ä", "\x00", "sidecar,0011223344556677", nomadID, nomadID + "2", strings.Repeat("ä", 200)} {
		name := dirName("/run/sallyport", id)
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || filepath.Base(name) != name {
			t.Errorf("dirName(%q) = %q is no name of a directory", id, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("dirName gives %q for %q and %q", name, id, other)
		}
		seen[name] = id
	}
	if got := dirName("/run/sallyport", "web-sidecar-proxy"); got != "web-sidecar-proxy" {
		t.Errorf("dirName = %q", got)
	}
}

func TestDirectory(t *testing.T) {
	base := t.TempDir()
	dir, err := Config{}.directory(base, "web-sidecar-proxy")
	if err != nil || dir != filepath.Join(base, "web-sidecar-proxy") {
		t.Errorf("directory = %q, %v", dir, err)
	}
	if os.Geteuid() == 0 {
		if dir := ownRuntimeDir(); dir == admin.SystemDir {
			t.Errorf("beside another user's control plane root's sidecars are in that one's directory, %s", dir)
		}
	} else {
		own := t.TempDir()
		t.Setenv("XDG_RUNTIME_DIR", own)
		dir, err := Config{}.directory("/", "web-sidecar-proxy")
		if want := filepath.Join(own, "sallyport", "web-sidecar-proxy"); err != nil || dir != want {
			t.Errorf("directory beside another user's control plane = %q, %v, want %q", dir, err, want)
		}
	}
}
