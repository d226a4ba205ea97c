package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestServiceTokens(t *testing.T) {
	good, err := serveConfig{ServiceTokens: "web=/run/web.token, api=/run/a=b"}.serviceTokens()
	if want := map[string]string{"web": "/run/web.token", "api": "/run/a=b"}; err != nil || !maps.Equal(good, want) {
		t.Errorf("%v, %v", good, err)
	}
	for text, want := range map[string]string{
		"web": "is not SERVICE=FILE", "=/run/web.token": "is not SERVICE=FILE", "web=": "is not SERVICE=FILE",
		"web=/a,web=/b": "web has two files", "web=token": "not an absolute path", "a/b=/c": "not a SPIFFE path segment",
	} {
		if got, err := (serveConfig{ServiceTokens: text}).serviceTokens(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
		}
		if err := (serveConfig{Consul: true, ServiceTokens: text}).check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not refused at the start: %v", text, err)
		}
	}
}

func TestReadServiceToken(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if got, err := readServiceToken(write("good", " 1234\n")); got != "1234" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{write("empty", "\n"), write("long", strings.Repeat("secret", 2000)), pipe, dir, filepath.Join(dir, "none")} {
		if got, err := readServiceToken(file); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}
