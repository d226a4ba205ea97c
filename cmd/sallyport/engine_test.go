package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestLockData(t *testing.T) {
	dir := t.TempDir()
	release, err := lockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockData(dir); err == nil || !strings.Contains(err.Error(), "another sallyport uses it") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second lock: %v, want it refused by name", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if release, err = lockData(dir); err != nil {
		t.Fatalf("a lock after the release: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, err := lockData(filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is not there was locked")
	}
}
