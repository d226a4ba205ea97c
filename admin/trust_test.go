package admin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckDir: what others may replace, or what lies in such a directory, is not trusted, whatever
// way leads there.
func TestCheckDir(t *testing.T) {
	const other = 12345
	root := os.Geteuid() == 0
	mkdir := func(mode os.FileMode, owner int, path ...string) string {
		t.Helper()
		dir := filepath.Join(path...)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if owner >= 0 {
			if err := os.Chown(dir, owner, -1); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	link := func(to string, path ...string) string {
		t.Helper()
		name := filepath.Join(path...)
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	base := t.TempDir()
	own := mkdir(0o755, -1, base, "own")
	open := mkdir(0o777, -1, base, "open")
	group := mkdir(0o775, -1, base, "group")
	sticky := mkdir(0o777|os.ModeSticky, -1, base, "sticky")
	tests := map[string]struct{ dir, want string }{
		"ours":                            {own, ""},
		"in ours":                         {mkdir(0o700, -1, own, "a"), ""},
		"open":                            {open, "may be written to by others (mode 0777): chmod go-w " + open},
		"in open":                         {mkdir(0o700, -1, open, "a"), "lies in " + open + ", which others may write to (mode 0777)"},
		"far below open":                  {mkdir(0o700, -1, mkdir(0o700, -1, open, "b"), "c"), "lies in " + open},
		"in one of the user's own group":  {mkdir(0o700, -1, group, "a"), ""},
		"everybody's":                     {sticky, "is for everybody's files (mode 1777): choose one of your own in it"},
		"in everybody's":                  {mkdir(0o700, -1, sticky, "a"), ""},
		"a link":                          {link(own, base, "link"), "is not a directory"},
		"behind a link":                   {filepath.Join(link(own, base, "way"), "a"), ""},
		"behind a link from everybody's":  {filepath.Join(link(own, sticky, "way"), "a"), ""},
		"behind a link from open":         {filepath.Join(link(own, open, "way"), "a"), "lies in " + open},
		"behind a link that goes up":      {filepath.Join(link("../own", open, "up"), "a"), "lies in " + open},
		"behind a link to one in open":    {filepath.Join(link(filepath.Join(open, "b"), base, "into"), "c"), "lies in " + open},
		"behind a circle":                 {filepath.Join(link("circle", base, "circle"), "a"), "too many levels of symbolic links"},
		"with a step back":                {open + "/../own/a", ""},
		"under everybody's, not our name": {filepath.Join(sticky, "none"), "no such file"},
	}
	if root {
		theirs := mkdir(0o755, other, base, "theirs")
		tests["another user's"] = struct{ dir, want string }{theirs, "belongs to uid 12345, not to 0: chown it"}
		tests["in another user's"] = struct{ dir, want string }{mkdir(0o700, 0, theirs, "a"), "lies in " + theirs + ", which belongs to uid 12345"}
		tests["another user's in everybody's"] = struct{ dir, want string }{mkdir(0o700, 0, mkdir(0o755, other, sticky, "theirs"), "a"), "belongs to uid 12345"}
		way := link(own, sticky, "theirway")
		if err := os.Lchown(way, other, -1); err != nil {
			t.Fatal(err)
		}
		tests["behind another user's link in everybody's"] = struct{ dir, want string }{filepath.Join(way, "a"), "lies in " + way + ", which belongs to uid 12345"}
		shared := mkdir(0o775, -1, base, "shared")
		if err := os.Chown(shared, -1, other); err != nil {
			t.Fatal(err)
		}
		tests["in one of a group's"] = struct{ dir, want string }{mkdir(0o700, -1, shared, "a"), "lies in " + shared + ", which others may write to (mode 0775)"}
		defer func() {
			if err := CheckDir(theirs, other); err != nil {
				t.Errorf("of a user who is trusted: %v", err)
			}
			if err := CheckDir(filepath.Join(theirs, "a"), other); err != nil {
				t.Errorf("in one of a user who is trusted: %v", err)
			}
		}()
	}
	for name, test := range tests {
		err := CheckDir(test.dir)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		u, ok := errors.AsType[*Untrusted](err)
		if err != nil && !ok && !errors.Is(err, fs.ErrNotExist) && !strings.Contains(test.want, "levels") {
			t.Errorf("%s: the error is no *Untrusted: %v", name, err)
		}
		if ok && (u.Dir != test.dir || u.Remedy == "") {
			t.Errorf("%s: %+v", name, u)
		}
	}
	t.Chdir(own)
	if err := CheckDir("a"); err != nil {
		t.Errorf("a path that is not full: %v", err)
	}
	t.Chdir(open)
	if err := CheckDir("b"); err == nil {
		t.Error("a path that is not full, in an open directory: no error")
	}
}
