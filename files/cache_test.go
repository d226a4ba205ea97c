package files

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func cacheConfig(t testing.TB) Config {
	t.Helper()
	config, err := Config{Dir: t.TempDir(), TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func put(t testing.TB, config Config, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(config.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readAgain reads the directory as Run does.
func readAgain(t testing.TB, c *cache) []*file {
	t.Helper()
	files, err := scan(c.config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return c.read(files)
}

// TestNotRemembered demands that a file is read again if what it says depends on more than itself.
func TestNotRemembered(t *testing.T) {
	config := cacheConfig(t)
	c := newCache(config)
	for name, text := range map[string]string{
		"user.hcl":    `service { name = "a" port = 1 connect { sidecar_service { proxy { config { sallyport_uid = "root" } } } } }`,
		"mistake.hcl": `service { name = "b" prot = 1 }`,
		"good.hcl":    `service { name = "c" port = 3 }`,
		"gone.hcl":    `service { name = "d" port = 4 }`,
	} {
		put(t, config, name, text)
	}
	first := readAgain(t, c)
	if err := os.Remove(filepath.Join(config.Dir, "gone.hcl")); err != nil {
		t.Fatal(err)
	}
	second := readAgain(t, c)
	var same []string
	for _, f := range second {
		if slices.Contains(first, f) {
			same = append(same, f.name)
		}
	}
	if diff := cmp.Diff([]string{"good.hcl"}, same); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
	user := func(files []*file) *definitions { return files[len(files)-1].definitions[0] }
	if user(first) == user(second) {
		t.Error("a definition that names a user is not read again")
	}
	if got := slices.Sorted(maps.Keys(c.versions)); !slices.Equal(got, []string{"good.hcl", "user.hcl"}) {
		t.Errorf("kept are %v", got)
	}
}

// TestDefinitionRemembered demands that of a file that changed only the definitions are read again
// that did, and each that is written twice is its own.
func TestDefinitionRemembered(t *testing.T) {
	t.Parallel()
	config := cacheConfig(t)
	c := newCache(config)
	read := func(services ...string) []*definitions {
		t.Helper()
		put(t, config, "a.json", `{"services": [`+strings.Join(services, ",")+`]}`)
		return readAgain(t, c)[0].definitions
	}
	const a, b, other = `{"name": "a", "port": 1}`, `{"name": "b", "port": 2}`, `{"name": "b", "port": 3}`
	first := read(a, b)
	second := read(b, a, a, other)
	want := []bool{true, true, false, false}
	for i, d := range second {
		if got := slices.Contains(first, d); got != want[i] {
			t.Errorf("definition %d is the same: %t", i, got)
		}
	}
	if lines := read("\n"+a, b); slices.Contains(second, lines[0]) {
		t.Error("a definition on another line is the same")
	}
}

// TestPolledBytes holds that a poll looks at the bytes of files that changed lately, once more when they did not any more, and
// then at none.
func TestPolledBytes(t *testing.T) {
	t.Parallel()
	config := cacheConfig(t)
	put(t, config, "a.hcl", `service { name = "a" port = 1 }`)
	synctest.Test(t, func(t *testing.T) { // in which it is the year 2000
		c := newCache(config)
		readAgain(t, c)
		look := func() (changed, read bool) {
			c.buffer = nil
			changed = c.changed()
			return changed, c.buffer != nil
		}
		for range 2 {
			if changed, read := look(); changed || !read {
				t.Errorf("changed %t, read %t, of a file that may be new", changed, read)
			}
		}
		put(t, config, "a.hcl", `service { name = "a" port = 2 }`)
		if changed, _ := look(); !changed {
			t.Error("other bytes are not noticed")
		}
		readAgain(t, c)
		info, err := os.Stat(filepath.Join(config.Dir, "a.hcl"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(statusChanged(info)) + granule + time.Second)
		for _, want := range []bool{true, false} {
			if changed, read := look(); changed || read != want {
				t.Errorf("changed %t, read %t, of a file that is old; want read %t", changed, read, want)
			}
		}
	})
}

// TestBytesRead holds which files are read though nothing of them seems changed: those that changed
// lately, as far as anybody can tell, those that depend on more, and all when that is asked for.
func TestBytesRead(t *testing.T) {
	t.Parallel()
	config := cacheConfig(t)
	put(t, config, "a.hcl", `service { name = "a" port = 1 }`)
	synctest.Test(t, func(t *testing.T) { // in which it is the year 2000
		c := newCache(config)
		reads := func() bool {
			c.buffer = nil
			readAgain(t, c)
			return c.buffer != nil
		}
		info, err := os.Stat(filepath.Join(config.Dir, "a.hcl"))
		if err != nil {
			t.Fatal(err)
		}
		if first, second := reads(), reads(); !first || !second {
			t.Error("a file from the future is not read")
		}
		time.Sleep(time.Until(statusChanged(info)) + granule)
		if first, second := reads(), reads(); !first || !second {
			t.Error("a file that has just changed is not read")
		}
		time.Sleep(time.Second)
		if !reads() || reads() {
			t.Error("a file is not read once when it is old enough, or more often")
		}
		if c.readAll = true; !reads() || reads() {
			t.Error("a file is not read when all are to be")
		}
		if err := os.Chtimes(filepath.Join(config.Dir, "a.hcl"), time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
		if !reads() {
			t.Error("a file whose status changed, but not its size and time, is not read")
		}
	})
}
