package golden

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEqual(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.json", "one\n")
	f := &Files{dir: dir, suffix: ".json"}
	f.Equal(t, "a.json", []byte("one\n"))

	for name, got := range map[string]string{"a.json": "two\n", "missing.json": "one\n", "a.txt": "one\n"} {
		if !fails(func(t *testing.T) { t.Helper(); f.Equal(t, name, []byte(got)) }) {
			t.Errorf("Equal(%s, %q) did not fail", name, got)
		}
	}
}

func TestOrphansFail(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "case/used.json", "x")
	write(t, dir, "case/input.hcl", "x")
	f := &Files{dir: dir, suffix: ".json"}
	f.Equal(t, "case/used.json", []byte("x"))
	if fails(f.orphans) {
		t.Error("failed without an orphan")
	}
	write(t, dir, "case/orphan.json", "x")
	if !fails(f.orphans) {
		t.Error("an orphan did not fail")
	}
}

func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "old.json", "old")
	write(t, dir, "kept.json", "old")
	*update = true
	defer func() { *update = false }()
	f := &Files{dir: dir, suffix: ".json"}
	f.Equal(t, "kept.json", []byte("new"))
	f.orphans(t)
	if b, err := os.ReadFile(filepath.Join(dir, "kept.json")); err != nil || string(b) != "new" {
		t.Errorf("kept.json = %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "old.json")); !os.IsNotExist(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
}

// fails reports whether f fails the test that it is given.
func fails(f func(t *testing.T)) bool {
	var t testing.T
	done := make(chan struct{})
	go func() { // a failing test ends its goroutine
		defer close(done)
		f(&t)
	}()
	<-done
	return t.Failed()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
