package files_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds each wait. A change is promised within a second; a busy machine gets more.
const patience = 10 * time.Second

// running is a Source that runs, and what it published.
type running struct {
	*files.Source
	t         *testing.T
	published chan catalog.Contents
	last      string // the contents that services found
}

func run(t *testing.T, config files.Config) *running {
	t.Helper()
	config.TrustDomain = trustDomain
	s, err := files.New(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Source: s, t: t, published: make(chan catalog.Contents, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(c catalog.Contents) { r.published <- c }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	return r
}

// services waits for contents with exactly these services.
func (r *running) services(want ...string) catalog.Contents {
	r.t.Helper()
	deadline := time.After(patience)
	last := "nothing"
	for {
		select {
		case c := <-r.published:
			var got []string
			for _, s := range c.Services {
				got = append(got, s.Name.Service)
			}
			if last = strings.Join(got, " "); last == strings.Join(want, " ") {
				r.last = dump(c)
				return c
			}
		case <-deadline:
			r.t.Fatalf("published last: %s; want %s; status %+v", last, strings.Join(want, " "), r.Status())
		}
	}
}

// problem waits until a problem is known that contains text.
func (r *running) problem(text string) {
	r.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if strings.Contains(strings.Join(r.Status().Problems, "\n"), text) {
			break
		}
		if time.Now().After(end) {
			r.t.Fatalf("problems %q, want one with %q", r.Status().Problems, text)
		}
	}
}

// refused waits for the problem, and holds that nothing else was published meanwhile.
func (r *running) refused(text string) {
	r.t.Helper()
	r.problem(text)
	for len(r.published) > 0 {
		if got := dump(<-r.published); got != r.last {
			r.t.Fatalf("published %s though it is refused", got)
		}
	}
}

func definition(name string) string {
	return "services {\n  name = \"" + name + "\"\n  port = 8080\n  connect {\n    sidecar_service {}\n  }\n}\n"
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": definition("api")})
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	writeFile(t, filepath.Join(dir, ".a.tmp"), definition("web"))
	move(t, filepath.Join(dir, ".a.tmp"), filepath.Join(dir, "a.hcl"))
	r.services("web")
	writeFile(t, filepath.Join(dir, "b.hcl"), definition("db"))
	r.services("db", "web")
	if s := r.Status(); s.Files != 2 || s.LastSuccess.IsZero() || len(s.Problems) != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestWrittenInParts(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": definition("api")})
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	f, err := os.Create(filepath.Join(dir, "a.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.refused("a.hcl:1: the file is empty")
	text := definition("web")
	for _, part := range []struct{ text, problem string }{
		{text[:30], "is not closed"},
		{text[30:60], "is not closed"},
	} {
		if _, err := f.WriteString(part.text); err != nil {
			t.Fatal(err)
		}
		r.refused(part.problem)
	}
	if _, err := f.WriteString(text[60:]); err != nil {
		t.Fatal(err)
	}
	r.services("web")
}

func TestDeleted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "catalog")
	mkdir(t, dir)
	writeFile(t, filepath.Join(dir, "a.hcl"), definition("api"))
	writeFile(t, filepath.Join(dir, "b.hcl"), definition("web"))
	r := run(t, files.Config{Dir: dir})
	r.services("api", "web")
	remove(t, filepath.Join(dir, "b.hcl"))
	r.services("api")
	remove(t, filepath.Join(dir, "a.hcl"))
	r.refused("no definitions")
	remove(t, dir)
	r.refused("no such file or directory")
	mkdir(t, dir)
	writeFile(t, filepath.Join(dir, "c.hcl"), definition("db"))
	r.services("db")
	// The new directory is watched, not the one that was deleted.
	writeFile(t, filepath.Join(dir, "c.hcl"), definition("web"))
	r.services("web")
}

func TestDirectoryReplaced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "catalog")
	for name, service := range map[string]string{"catalog": "api", "new": "web"} {
		mkdir(t, filepath.Join(root, name))
		writeFile(t, filepath.Join(root, name, "a.hcl"), definition(service))
	}
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	move(t, dir, filepath.Join(root, "old"))
	move(t, filepath.Join(root, "new"), dir)
	r.services("web")
	writeFile(t, filepath.Join(root, "old", "a.hcl"), definition("nobody"))
	writeFile(t, filepath.Join(dir, "a.hcl"), definition("db"))
	r.services("db")
}

// TestSymlinkSwap changes files as Kubernetes changes a mounted ConfigMap: a symlink to the directory with all files is replaced by rename.
func TestSymlinkSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for version, services := range map[string][2]string{"..1": {"api", "web"}, "..2": {"db", "mail"}} {
		mkdir(t, filepath.Join(dir, version))
		writeFile(t, filepath.Join(dir, version, "a.hcl"), definition(services[0]))
		writeFile(t, filepath.Join(dir, version, "b.hcl"), definition(services[1]))
	}
	link(t, "..1", filepath.Join(dir, "..data"))
	link(t, "..data/a.hcl", filepath.Join(dir, "a.hcl"))
	link(t, "..data/b.hcl", filepath.Join(dir, "b.hcl"))
	r := run(t, files.Config{Dir: dir})
	r.services("api", "web")
	link(t, "..2", filepath.Join(dir, "..data_tmp"))
	move(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	r.services("db", "mail")
	remove(t, filepath.Join(dir, "..1"))
	writeFile(t, filepath.Join(dir, "..2", "b.hcl"), definition("web"))
	r.services("db", "web")
}

// TestDirectorySymlinkSwap replaces a symlink on the way to the directory.
func TestDirectorySymlinkSwap(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for version, service := range map[string]string{"1": "api", "2": "web"} {
		mkdir(t, filepath.Join(root, version, "mesh"))
		writeFile(t, filepath.Join(root, version, "mesh", "a.hcl"), definition(service))
	}
	link(t, "1", filepath.Join(root, "current"))
	r := run(t, files.Config{Dir: filepath.Join(root, "current", "mesh")})
	r.services("api")
	link(t, "2", filepath.Join(root, "next"))
	move(t, filepath.Join(root, "next"), filepath.Join(root, "current"))
	r.services("web")
	writeFile(t, filepath.Join(root, "2", "mesh", "a.hcl"), definition("db"))
	r.services("db")
}

func TestSymlinkTargetChanged(t *testing.T) {
	t.Parallel()
	elsewhere, dir := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(elsewhere, "x"), definition("api"))
	link(t, filepath.Join(elsewhere, "x"), filepath.Join(dir, "a.hcl"))
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	writeFile(t, filepath.Join(elsewhere, "x"), definition("web"))
	r.services("web")
}

// TestInvalidAtStart holds that nothing is published before there is something valid.
func TestInvalidAtStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	var logs lockedBuffer
	r := run(t, files.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	r.refused("no such file or directory")
	for end := time.Now().Add(patience); logs.count("there was no valid one before") == 0; time.Sleep(time.Millisecond) { // it is logged after
		if time.Now().After(end) || logs.count("the last valid one stays") > 0 {
			t.Fatal("the log does not say that there was no valid catalog")
		}
	}
	mkdir(t, dir)
	writeFile(t, filepath.Join(dir, "a.hcl"), "service {}\n")
	r.refused("a.hcl:1: service has no name")
	if s := r.Status(); !s.LastSuccess.IsZero() {
		t.Errorf("status %+v, want no success", s)
	}
	writeFile(t, filepath.Join(dir, "a.hcl"), definition("web"))
	r.services("web")
}

// lockedBuffer is a buffer that a logger and a test share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// TestTold holds what logs and metrics say: each problem once, and again when it came back.
func TestTold(t *testing.T) {
	t.Parallel()
	logs, registry := &lockedBuffer{}, prometheus.NewRegistry()
	dir := write(t, map[string]string{"a.hcl": definition("web")})
	r := run(t, files.Config{Dir: dir, Registerer: registry, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	r.services("web")

	loads := func(result string) (n float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "sallyport_catalog_loads_total" && m.GetLabel()[0].GetValue() == result {
					n = m.GetCounter().GetValue()
				}
			}
		}
		return n
	}
	reload := func(result string, times int) {
		t.Helper()
		for range times {
			before := loads(result)
			r.Reload()
			for end := time.Now().Add(patience); loads(result) == before; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("Reload does not read: %v loads", before)
				}
			}
		}
	}
	for round := 1; round <= 2; round++ {
		writeFile(t, filepath.Join(dir, "a.hcl"), "service {}\n")
		r.refused("a.hcl:1")
		reload("part", 3)
		if n := logs.count(`origin=a.hcl:1 err="service has no name"`); n != round {
			t.Errorf("round %d: the problem was logged %d times", round, n)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
			# HELP sallyport_catalog_problems Mistakes for which something of the catalog's directory is not taken; 0: all of it is.
			# TYPE sallyport_catalog_problems gauge
			sallyport_catalog_problems 1
		`), "sallyport_catalog_problems"); err != nil {
			t.Error(err)
		}
		writeFile(t, filepath.Join(dir, "a.hcl"), definition("web"))
		r.services("web")
		reload("ok", 2)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sallyport_catalog_last_success_timestamp_seconds" {
			at := f.GetMetric()[0].GetGauge().GetValue()
			if d := float64(time.Now().UnixNano())/1e9 - at; d < 0 || d > patience.Seconds() {
				t.Errorf("last success %v s ago", d)
			}
			return
		}
	}
	t.Error("no sallyport_catalog_last_success_timestamp_seconds")
}

// TestWarnings holds that what is odd but taken is told.
func TestWarnings(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": "service {\nname = \"web\"\nport = 1\ncheck {\nhttp = \"http://localhost\" interval = \"10s\"\n}\nconnect { sidecar_service { proxy {\n" +
		"upstreams {\ndestination_name = \"aip\"\nlocal_bind_port = 2\n}\n}}}}\n"})
	r := run(t, files.Config{Dir: dir})
	r.services("aip", "web")
	want := "a.hcl:4: checks are not run here: without a status this one counts as passing\n" +
		"a.hcl:8: upstream aip: no service of that name has a proxy here, or is native, so nothing answers"
	if got := strings.Join(r.Status().Warnings, "\n"); got != want {
		t.Errorf("warnings:\n%s\nwant:\n%s", got, want)
	}
}
