package admin

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A directory that somebody else could have made is not trusted, though somebody answers in it.
func TestFindTrusts(t *testing.T) {
	base, err := os.MkdirTemp("", "find-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	answering := func(name string) string {
		dir := filepath.Join(base, name)
		if err := MakeDir(dir); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", Socket(dir))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return dir
	}
	own, open := answering("own"), answering("open")
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{open: "may be written to by others", link: "is not a directory", filepath.Join(base, "none"): "no such socket"} {
		if c, err := find(nil, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", dir, c, err, want)
		}
		if c, err := find(nil, dir, own); err != nil || c.Dir() != own {
			t.Errorf("%s, then a good one: %v, %v", dir, c, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(own, 65534, -1); err != nil {
			t.Fatal(err)
		}
		c, err := find(nil, own)
		if err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") || !strings.Contains(err.Error(), "cannot be asked") || strings.Contains(err.Error(), "chown") {
			t.Errorf("another user's: %v, %v", c, err)
		}
		if c, err := find([]int{7}, own); err == nil {
			t.Errorf("another user's, though a third is trusted: %v", c)
		}
		if _, err := find([]int{65534}, own); err != nil {
			t.Errorf("another user's who is trusted: %v", err)
		}
	}
}

// What may not be looked at may well run.
func TestFindWithoutPermission(t *testing.T) {
	if err := fmt.Errorf("directory: %w", &fs.PathError{Op: "lstat", Path: "/x", Err: syscall.EACCES}); !strings.Contains(reason(err), "ask as root") {
		t.Errorf("reason = %s", reason(err))
	}
	if os.Geteuid() == 0 {
		t.Log("NOTE: root may look at everything: TestAnotherUser of the end-to-end tests does it as somebody else")
		return
	}
	dir, err := os.MkdirTemp("", "find-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700); _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := find(nil, filepath.Join(dir, "run")); err == nil || !strings.Contains(err.Error(), "cannot be asked") {
		t.Errorf("in a directory that is closed: %v", err)
	}
}
