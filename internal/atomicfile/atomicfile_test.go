package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

func TestWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		write     func(string, []byte) error
		old, want string // empty: no file
		err       error
	}{
		"new file":         {atomicfile.Replace, "", "new", nil},
		"file is replaced": {atomicfile.Replace, "old", "new", nil},
		"file is created":  {atomicfile.Create, "", "new", nil},
		"file is there":    {atomicfile.Create, "old", "old", fs.ErrExist},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if tt.old != "" {
				if err := os.WriteFile(path, []byte(tt.old), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := tt.write(path, []byte("new")); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != tt.want {
				t.Errorf("content %q (%v), want %q", got, err, tt.want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
			}
			alone(t, path)
		})
	}
}

func TestReplaceFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Replace(path, nil); err == nil {
		t.Error("a directory that is not empty was replaced")
	}
	alone(t, path)
	if err := atomicfile.Replace(filepath.Join(dir, "missing", "file"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v in a directory that is not there", err)
	}
}

// alone fails the test if anything is beside path.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v (%v) beside %s, want nothing", entries, err, path)
	}
}
