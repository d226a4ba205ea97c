// Package golden compares the output of tests with files that were reviewed when they were
// committed. It is for tests.
//
// A test package that uses it has the flag -update, which writes the files anew: go test ./snapshot
// -update; the review of the change is the diff in the commit.
package golden

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// Files are the golden files below a directory. Make one with New.
type Files struct {
	dir    string
	suffix string

	mu   sync.Mutex
	used []string
}

// New returns the files below dir whose names end in suffix (".json"). When the test ends, files
// that it did not ask for fail it, as nothing compares with them any more; with -update they are
// removed. That is left out if only some of its subtests were to run, or it failed or was skipped
// anyway: then it may not have come to ask for all of them.
func New(t *testing.T, dir, suffix string) *Files {
	t.Helper()
	f := &Files{dir: dir, suffix: suffix}
	t.Cleanup(func() {
		if !partial() && !t.Skipped() && !t.Failed() {
			f.orphans(t)
		}
	})
	return f
}

// partial reports whether -run or -skip may have left out subtests.
func partial() bool {
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil && (name == "test.skip" && f.Value.String() != "" || strings.Contains(f.Value.String(), "/")) {
			return true
		}
	}
	return false
}

// Equal fails t if got is not what the file has. With -update it writes the file. name is relative
// to the directory, with suffix. It may be called by parallel subtests.
func (f *Files) Equal(t *testing.T, name string, got []byte) {
	t.Helper()
	if !strings.HasSuffix(name, f.suffix) {
		t.Fatalf("golden file %s: its name has to end in %s, or it cannot be found when it is no longer used", name, f.suffix)
	}
	path := filepath.Join(f.dir, filepath.FromSlash(name))
	f.mu.Lock()
	f.used = append(f.used, path)
	f.mu.Unlock()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v\nRun the test with -update to write it, and review what it wrote.", err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s (-want +got):\n%s\nIf this is meant, run the test with -update.", path, cmp.Diff(lines(want), lines(got)))
	}
}

func lines(b []byte) []string { return strings.Split(string(b), "\n") }

func (f *Files) orphans(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, f.suffix) || slices.Contains(f.used, path) {
			return err
		}
		if *update {
			return os.Remove(path)
		}
		t.Errorf("%s: nothing compares with this file any more; run the test with -update to remove it", path)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
