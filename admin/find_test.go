package admin

import (
	"net"
	"os"
	"path/filepath"
	"strings"
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
		if c, err := find(true, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", dir, c, err, want)
		}
		if c, err := find(true, dir, own); err != nil || c.Dir() != own {
			t.Errorf("%s, then a good one: %v, %v", dir, c, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(own, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if c, err := find(true, own); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
			t.Errorf("another user's: %v, %v", c, err)
		}
	}
}
