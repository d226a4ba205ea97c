package files_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
)

// until runs a source of config until f is done with it, and waits for its end: the record is on the disk then.
func until(t *testing.T, config files.Config, f func(*running)) {
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
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	f(r)
}

// TestRestart holds that a restart goes on from what was in force: with files that are broken, with what vanished meanwhile,
// and without the directory. What changed while nobody looked counts, as ever.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "catalog")
	mkdir(t, dir)
	config := files.Config{Dir: dir, RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded")}
	writeFile(t, filepath.Join(dir, "app.hcl"), definition("app"))
	writeFile(t, filepath.Join(dir, "other.hcl"), definition("other"))
	writeFile(t, filepath.Join(dir, "all.hcl"), intentions("*", "job allow"))
	writeFile(t, filepath.Join(dir, "db.hcl"), intentions("db", "web allow", "batch allow"))
	var at time.Time
	until(t, config, func(r *running) {
		r.says("batch => db (allow)", "web => db (allow)", "job => * (allow)")
		writeFile(t, filepath.Join(dir, "app.hcl"), "service {")
		r.problem("app.hcl:1")
		at = r.Status().NotTaken[0].TakenAt
		remove(t, filepath.Join(dir, "other.hcl"))
		writeFile(t, filepath.Join(dir, "all.hcl"), intentions("*", "job deny", "cron allow"))
		r.says("batch => db (allow)", "web => db (allow)", "cron => * (deny) until app.hcl can be taken", "job => * (deny)")
	})
	if info, err := os.Stat(config.RecordFile); err != nil || info.Mode() != 0o600 {
		t.Errorf("record: %v, %v", info.Mode(), err)
	}
	writeFile(t, filepath.Join(dir, "db.hcl"), intentions("db", "web deny", "batch allow"))
	until(t, config, func(r *running) {
		c := r.says("batch => db (allow)", "web => db (deny)", "cron => * (deny) until app.hcl can be taken", "job => * (deny)")
		if len(c.Proxies) != 2 || c.Proxies[0].Service.Service != "app" || c.Proxies[1].Service.Service != "other" {
			t.Errorf("proxies %v", c.Proxies)
		}
		if n := r.Status().NotTaken; len(n) != 1 || !n[0].TakenAt.Equal(at) {
			t.Errorf("not taken %+v, want what was taken at %s", n, at)
		}
	})
	remove(t, dir)
	until(t, config, func(r *running) {
		c := r.says("batch => db (allow)", "web => db (deny)", "cron => * (deny) until app.hcl can be taken", "job => * (deny)")
		if len(c.Proxies) != 2 {
			t.Errorf("proxies %v", c.Proxies)
		}
		r.problem("no such file")
		mkdir(t, dir)
		writeFile(t, filepath.Join(dir, "app.hcl"), definition("app"))
		if c = r.services("app"); len(c.Intentions) > 0 {
			t.Errorf("intentions %v, and all that is there was taken", c.Intentions)
		}
	})
}

// TestRecordLost holds that a record that is lost, is not as it was written, is of another directory, or allows more than was
// in force, is as none: what is broken holds back everything then, as at the first start, and what is not is served.
func TestRecordLost(t *testing.T) {
	t.Parallel()
	record := func(config files.Config) []byte {
		b, err := os.ReadFile(config.RecordFile)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tt := range map[string]struct {
		happens func(*testing.T, *files.Config)
		log     string
	}{
		"removed": {func(t *testing.T, c *files.Config) { remove(t, c.RecordFile) }, ""},
		"text altered": {func(t *testing.T, c *files.Config) {
			writeFile(t, c.RecordFile, string(bytes.Replace(record(*c), []byte("allow"), []byte("deny "), 1)))
		}, "it is not as it was written"},
		"rest altered": {func(t *testing.T, c *files.Config) {
			writeFile(t, c.RecordFile, string(bytes.Replace(record(*c), []byte(`"derived":true`), []byte(`"derived":null`), 1)))
		}, "it is not as it was written"},
		"time altered": {func(t *testing.T, c *files.Config) {
			b := record(*c)
			i := bytes.IndexByte(b, '-')
			b[i-2] ^= 1
			writeFile(t, c.RecordFile, string(b))
		}, "it is not as it was written"},
		"cut short": {func(t *testing.T, c *files.Config) {
			b := record(*c)
			writeFile(t, c.RecordFile, string(b[:len(b)-70]))
		}, "it is not as it was written"},
		"longer": {func(t *testing.T, c *files.Config) { writeFile(t, c.RecordFile, string(record(*c))+"\n") }, "it is not as it was written"},
		"empty":  {func(t *testing.T, c *files.Config) { writeFile(t, c.RecordFile, "") }, "it is not as it was written"},
		"of another directory": {func(t *testing.T, c *files.Config) {
			old := c.Dir
			c.Dir = filepath.Join(t.TempDir(), "moved")
			move(t, old, c.Dir)
		}, "it is of the directory"},
		"noted that it allows more": {func(t *testing.T, c *files.Config) { writeFile(t, c.UnrecordedFile, "") }, "access was taken away that it does not know of"},
		"a mistake now":             {func(_ *testing.T, c *files.Config) { c.Datacenter = "dc2" }, "is not this one (dc2)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs := &lockedBuffer{}
			config := files.Config{
				Dir:    write(t, map[string]string{"app.hcl": `service { name = "app" port = 1 connect { sidecar_service { proxy { upstreams { destination_name = "db" local_bind_port = 2 datacenter = "dc1" } } } } }`, "db.hcl": intentions("db", "web allow")}),
				Logger: slog.New(slog.NewTextHandler(logs, nil)), RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded"),
			}
			until(t, config, func(r *running) { r.says("web => db (allow)") })
			tt.happens(t, &config)
			app := filepath.Join(config.Dir, "app.hcl")
			writeFile(t, app, "service {")
			until(t, config, func(r *running) {
				r.problem("app.hcl:1")
				if n := len(r.published); n > 0 {
					t.Errorf("%s was published though nothing is known", dump(<-r.published))
				}
				if tt.log != "" && logs.count(tt.log) != 1 || (tt.log != "") != (logs.count("what was in force of the catalog is not known") == 1) {
					t.Errorf("the log does not say %q", tt.log)
				}
				writeFile(t, app, definition("new"))
				r.says("web => db (allow)")
			})
			if _, err := os.Stat(config.UnrecordedFile); err == nil {
				t.Error("it is noted still that not all is recorded")
			}
			writeFile(t, app, "service {")
			until(t, config, func(r *running) {
				if c := r.says("web => db (allow)"); len(c.Proxies) != 1 || c.Proxies[0].Service.Service != "new" {
					t.Errorf("proxies %v", c.Proxies)
				}
			})
		})
	}
}

// TestRecordFails holds that a disk that takes no record keeps no denial from being published, but what is newly
// allowed, and that the status says so.
func TestRecordFails(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"db.hcl": intentions("db", "web allow"), "app.hcl": definition("app")})
	config := files.Config{Dir: dir, RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded")}
	until(t, config, func(r *running) { r.says("web => db (allow)") })
	until(t, config, func(r *running) {
		r.says("web => db (allow)")
		remove(t, config.RecordFile)
		mkdir(t, filepath.Join(config.RecordFile, "in the way"))
		writeFile(t, filepath.Join(dir, "db.hcl"), intentions("db", "web deny", "batch allow"))
		for end := time.Now().Add(patience); !strings.Contains(strings.Join(r.Status().Warnings, "\n"), "who is newly let in waits for that"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("status %+v", r.Status())
			}
		}
		for end := time.Now().Add(patience); ; {
			if c := r.one(end); !strings.Contains(dump(c), "web => db (allow)") {
				if !strings.Contains(dump(c), "batch => db (deny)") {
					t.Errorf("published is %s", dump(c))
				}
				break
			}
		}
		if _, err := os.Stat(config.UnrecordedFile); err != nil {
			t.Errorf("it is not noted that the record allows more than is in force: %v", err)
		}
		remove(t, config.RecordFile)
		r.says("batch => db (allow)", "web => db (deny)")
	})
	if _, err := os.Stat(config.UnrecordedFile); err == nil {
		t.Error("it is noted still that not all is recorded")
	}
}

// one is what is published next.
func (r *running) one(end time.Time) catalog.Contents {
	r.t.Helper()
	select {
	case c := <-r.published:
		return c
	case <-time.After(time.Until(end)):
		r.t.Fatalf("nothing is published; status %+v", r.Status())
	}
	return catalog.Contents{}
}

// TestRestartWithAnotherDefault holds that a start with a default that allows opens nothing while a file is broken that may have
// the denies which that asks for, and that all counts when it is mended.
func TestRestartWithAnotherDefault(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"app.hcl": definition("app"), "db.hcl": intentions("db", "web allow"), "x.hcl": "# nothing\n"})
	config := files.Config{Dir: dir, RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded")}
	until(t, config, func(r *running) {
		r.says("web => db (allow)")
		writeFile(t, filepath.Join(dir, "x.hcl"), "service {")
		r.problem("x.hcl:1")
	})
	config.Default = intention.Allow
	for range 2 { // the second start goes on from a record that has the new default
		until(t, config, func(r *running) {
			r.says("web => db (allow)", "* => * (deny) until x.hcl can be taken")
			r.problem("x.hcl:1")
		})
	}
	until(t, config, func(r *running) {
		r.says("web => db (allow)", "* => * (deny) until x.hcl can be taken")
		writeFile(t, filepath.Join(dir, "x.hcl"), intentions("app", "job deny"))
		r.says("job => app (deny)", "web => db (allow)")
	})
	config.Default = intention.Deny
	until(t, config, func(r *running) { r.says("job => app (deny)", "web => db (allow)") })
}
