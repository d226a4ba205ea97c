package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenData(t *testing.T) {
	dir := t.TempDir()
	release, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openData(dir); err == nil || !strings.Contains(err.Error(), "another sallyport uses it") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second lock: %v, want it refused by name", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if release, err = openData(dir); err != nil {
		t.Fatalf("a lock after the release: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openData(dir); err == nil || !strings.Contains(err.Error(), "chmod go-w "+dir) {
		t.Errorf("a directory that anybody may write to: %v", err)
	}
	if _, err := openData(filepath.Join(dir, "inside")); err == nil || !strings.Contains(err.Error(), "lies in "+dir) || !strings.Contains(err.Error(), "choose another with --data") {
		t.Errorf("in a directory that anybody may write to: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, "made", "here")
	if release, err = openData(made); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("it was made as %v, %v", info, err)
	}
}

// TestDataError: a disk that is full, or is not to be written to, is said with what to do, and other errors stay as they are.
func TestDataError(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("root.pem: %w", &fs.PathError{Op: "write", Path: "/data/ca/root.pem", Err: unix.ENOSPC})
	if err := dataError(full); !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(err.Error(), "make room there, or choose another directory with --data") {
		t.Errorf("of a full disk: %v", err)
	}
	other := errors.New("the CA is another's")
	if err := dataError(other); !errors.Is(err, other) || err.Error() != other.Error() {
		t.Errorf("of another error: %v", err)
	}
}
