package main

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
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

// TestWarnOfTokens: a file that is not there yet is told at the start, with what to do, and one that is there is not.
func TestWarnOfTokens(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(good, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	p := &controlPlane{cfg: serveConfig{ServiceTokens: "web=" + good + ",api=" + good + "-no"}, log: slog.New(slog.NewTextHandler(&log, nil))}
	p.warnOfTokens()
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "service=api file="+good+"-no") || !strings.Contains(got, "write an ACL token") {
		t.Errorf("log: %s", got)
	}
}

// TestUnknownNames: a selector of a user that this machine has not is told once for each service, with where it is written.
func TestUnknownNames(t *testing.T) {
	register := func(id, service, origin, text string) catalog.Registration {
		return catalog.Registration{ID: id, Service: identity.NewName(service), Origin: origin, Meta: map[string]string{catalog.MetaSelectors: text}}
	}
	v := catalogtest.Mesh{Registrations: []catalog.Registration{
		register("a", "web", "web.hcl:3", "unix:user:nosuch-user"), register("b", "web", "web.hcl:9", "unix:user:nosuch-user"), register("c", "api", "", "unix:uid:4000000"),
	}}.View()
	want := []string{`web.hcl:3: the service "web": "unix:user:nosuch-user" names a user that is not on this machine, so it names no process here: create it, or correct sallyport_selectors`}
	if diff := cmp.Diff(want, unknownNames(v)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
