package svidfile

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestOpenDirectory(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    string
	}{
		"others may write": {func(t *testing.T, dir string) {
			mkdir(t, dir)
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "may be written to by others"},
		"a file": {func(t *testing.T, dir string) { writeFile(t, dir, "") }, "is not a directory"},
		"a link": {func(t *testing.T, dir string) {
			mkdir(t, dir+"2")
			if err := os.Symlink(dir+"2", dir); err != nil {
				t.Fatal(err)
			}
		}, "is not a directory"},
		"no link in it": {func(t *testing.T, dir string) { mkdir(t, filepath.Join(dir, current)) }, "is not a symbolic link"},
		"another writer": {func(t *testing.T, dir string) {
			d, err := openDirectory(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.close)
		}, "another process writes there"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := outDir(t)
			tt.prepare(t, dir)
			if _, err := openDirectory(dir, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestGroup(t *testing.T) {
	d, err := openDirectory(outDir(t), strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	a := newAuthority(t)
	m, err := materialOf(a.leaf(t, time.Hour), a.roots(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.write(m, time.Now()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(d.path, current, keyName)); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v: want mode 0640", info, err)
	}
	if !m.equal(d.read()) {
		t.Error("what is read is not what was written")
	}
}

// TestSwitch has a reader follow the link, once, while the files change all the time: certificate and key always belong together.
func TestSwitch(t *testing.T) {
	d, err := openDirectory(outDir(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	a := newAuthority(t)
	var all []*material
	for range 8 {
		m, err := materialOf(a.leaf(t, time.Hour), a.roots(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	if err := d.write(all[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	stop, read := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { read <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			root, err := os.OpenRoot(filepath.Join(d.path, current))
			if err != nil {
				t.Errorf("the link leads nowhere: %v", err)
				return
			}
			svid, err1 := root.ReadFile(svidName)
			key, err2 := root.ReadFile(keyName)
			_ = root.Close()
			if err1 != nil || err2 != nil {
				continue // two changes since the link was followed: those files are gone, and not mixed
			}
			n++
			if _, err := tls.X509KeyPair(svid, key); err != nil {
				t.Errorf("after %d good ones: %v", n, err)
				return
			}
		}
	}()
	for n := range 200 {
		if err := d.write(all[n%len(all)], time.Now()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if n := <-read; n < 20 {
		t.Errorf("%d reads are too few to tell", n)
	}
}

// TestWriteFails leaves the files of before, and nothing beside them.
func TestWriteFails(t *testing.T) {
	d, err := openDirectory(outDir(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	a := newAuthority(t)
	first, err := materialOf(a.leaf(t, time.Hour), a.roots(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.write(first, time.Now()); err != nil {
		t.Fatal(err)
	}
	// The link cannot be replaced: its temporary name is that of a directory with something in it.
	mkdir(t, filepath.Join(d.path, nextTmp, "x"))
	second, err := materialOf(a.leaf(t, time.Hour), a.roots(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.write(second, time.Now()); err == nil || !strings.Contains(err.Error(), "those of before stay") {
		t.Errorf("error %v", err)
	}
	entries, _ := os.ReadDir(d.path)
	if !first.equal(d.read()) || len(entries) != 3 {
		t.Errorf("the first ones are there: %t; %v", first.equal(d.read()), entries)
	}
	if err := os.RemoveAll(filepath.Join(d.path, nextTmp)); err != nil {
		t.Fatal(err)
	}
	if err := d.write(second, time.Now()); err != nil || !second.equal(d.read()) {
		t.Errorf("not written when it can be: %v", err)
	}
}
