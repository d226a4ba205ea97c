package files_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

func intentions(destination string, sources ...string) string {
	var b strings.Builder
	b.WriteString("Kind = \"service-intentions\"\nName = \"" + destination + "\"\n")
	for _, s := range sources {
		name, action, _ := strings.Cut(s, " ")
		b.WriteString("Sources { Name = \"" + name + "\" Action = \"" + action + "\" }\n")
	}
	return b.String()
}

// says waits until the intentions that are in force are these.
func (r *running) says(want ...string) catalog.Contents {
	r.t.Helper()
	deadline := time.After(patience)
	var got []string
	for {
		select {
		case c := <-r.published:
			got = nil
			for _, i := range catalogtest.Intentions(c) {
				text := i.String()
				if i.Held != "" {
					text += " until " + i.Held
				}
				got = append(got, text)
			}
			if cmp.Equal(want, got) {
				return c
			}
		case <-deadline:
			r.t.Fatalf("intentions in force (-want +got):\n%s\nstatus %+v", cmp.Diff(want, got), r.Status())
		}
	}
}

// TestDenyBesideBrokenFile holds that a deny counts while another file is broken, that what is newly allowed counts where the
// destination's own entry names the source and waits else, and that all is well when the file is mended, or gone.
func TestDenyBesideBrokenFile(t *testing.T) {
	t.Parallel()
	logs := &lockedBuffer{}
	dir := write(t, map[string]string{
		"db.hcl":  intentions("db", "web allow", "batch allow"),
		"all.hcl": intentions("*", "job deny"),
		"app.hcl": definition("app"),
	})
	r := run(t, files.Config{Dir: dir, Default: intention.Allow, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	r.says("batch => db (allow)", "web => db (allow)", "job => * (deny)")

	writeFile(t, filepath.Join(dir, "app.hcl"), "service {}\n")
	r.problem("app.hcl:1: service has no name")
	writeFile(t, filepath.Join(dir, "db.hcl"), intentions("db", "web deny", "cron allow"))
	c := r.says("cron => db (allow)", "web => db (deny)", "job => * (deny)")
	if len(c.Proxies) != 1 || c.Proxies[0].Service.Service != "app" {
		t.Errorf("proxies %v, want that of the file that is broken", c.Proxies)
	}
	writeFile(t, filepath.Join(dir, "all.hcl"), intentions("*", "nobody deny"))
	const until = " until app.hcl can be taken"
	r.says("cron => db (allow)", "web => db (deny)", "job => * (deny)"+until, "nobody => * (deny)")
	if s := r.Status(); len(s.NotTaken) != 1 || s.NotTaken[0].File != "app.hcl" || s.NotTaken[0].TakenAt.IsZero() ||
		time.Since(s.NotTaken[0].Since) > patience*10 || s.NotTaken[0].Problem != "app.hcl:1: service has no name" {
		t.Errorf("not taken: %+v", s.NotTaken)
	}
	if n := logs.count(`msg="a part of the catalog is not taken, the rest is" origin=app.hcl:1 err="service has no name"`); n != 1 {
		t.Errorf("the problem was logged %d times", n)
	}
	writeFile(t, filepath.Join(dir, "app.hcl"), definition("app"))
	r.says("cron => db (allow)", "web => db (deny)", "nobody => * (deny)")
	for end := time.Now().Add(patience); len(r.Status().NotTaken) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("status %+v", r.Status())
		}
	}
}

// TestBrokenFileRenamed holds that a broken file that is given another name says what it said last; one that is copied, or
// another one with the same mistake, says nothing.
func TestBrokenFileRenamed(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": intentions("db", "web allow"), "z.hcl": "# nothing\n"})
	r := run(t, files.Config{Dir: dir})
	r.says("web => db (allow)")
	broken := intentions("db", "web deny") + "}"
	writeFile(t, filepath.Join(dir, "a.hcl"), broken)
	r.problem("a.hcl:4")
	move(t, filepath.Join(dir, "a.hcl"), filepath.Join(dir, "b.hcl"))
	writeFile(t, filepath.Join(dir, "c.hcl"), broken)
	r.problem("c.hcl:4")
	writeFile(t, filepath.Join(dir, "d.hcl"), intentions("api", "web allow"))
	r.says("web => api (allow)", "web => db (allow)")
	remove(t, filepath.Join(dir, "c.hcl"))
	remove(t, filepath.Join(dir, "b.hcl"))
	r.says("web => api (allow)")
}

// TestContestedIDs holds that a mistake between files costs neither's intentions, and that of an ID that two files claim the
// one keeps it that has it; if neither has, nobody gets it.
func TestContestedIDs(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": definition("api")})
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	entry := func(text string) string { return "config_entries { bootstrap {\n" + text + "} }\n" }
	writeFile(t, filepath.Join(dir, "b.hcl"), strings.Replace(definition("api"), "8080", "9999", 1)+entry(intentions("api", "web allow")))
	r.problem(`b.hcl:1: the ID "api" is taken (a.hcl:1)`)
	r.says("web => api (allow)")
	for _, file := range []string{"c.hcl", "d.hcl"} {
		writeFile(t, filepath.Join(dir, file), definition("new"))
	}
	r.problem(`c.hcl:1: the ID "new" is taken (d.hcl:1)`)
	writeFile(t, filepath.Join(dir, "e.hcl"), definition("other"))
	c := r.services("api", "other")
	if len(c.Proxies) != 2 || c.Proxies[0].Inbound.LocalPort != 8080 {
		t.Errorf("proxies %+v", c.Proxies)
	}
	if s := r.Status(); len(s.NotTaken) != 0 || len(s.Problems) != 6 { // of each the service and its sidecar
		t.Errorf("status %+v", s)
	}
	remove(t, filepath.Join(dir, "a.hcl"))
	if c = r.services("api", "other"); c.Proxies[0].Inbound.LocalPort != 9999 {
		t.Errorf("proxies %+v", c.Proxies)
	}
}

// TestContestedMove holds that who claimed an ID in vain does not get it when its holder moves to a file that cannot be taken.
func TestContestedMove(t *testing.T) {
	t.Parallel()
	in := func(port string) string { return strings.Replace(definition("api"), "8080", port, 1) }
	dir := write(t, map[string]string{"a.hcl": definition("api"), "x.hcl": "# nothing\n"})
	r := run(t, files.Config{Dir: dir})
	r.services("api")
	writeFile(t, filepath.Join(dir, "b.hcl"), in("9999"))
	r.problem(`b.hcl:1: the ID "api" is taken (a.hcl:1)`)
	writeFile(t, filepath.Join(dir, "c.hcl"), "services {\n")
	r.problem("c.hcl:1")
	remove(t, filepath.Join(dir, "a.hcl"))
	writeFile(t, filepath.Join(dir, "d.hcl"), definition("other")) // so that something is published
	c := r.services("api", "other")
	if c.Proxies[0].Inbound.LocalPort != 8080 {
		t.Fatalf("the ID went to %s", c.Proxies[0].Origin)
	}
	r.problem(`b.hcl:1: the ID "api" is taken (a.hcl:1)`)
	writeFile(t, filepath.Join(dir, "a.hcl"), in("8081")) // it did not move after all
	for c.Proxies[0].Inbound.LocalPort != 8081 {
		c = r.services("api", "other")
	}
	remove(t, filepath.Join(dir, "a.hcl"))
	remove(t, filepath.Join(dir, "c.hcl"))
	for c.Proxies[0].Inbound.LocalPort != 9999 {
		c = r.services("api", "other")
	}
}

// TestStrict holds that a Source that is strict takes all files or none.
func TestStrict(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": intentions("db", "web allow"), "b.hcl": definition("app")})
	r := run(t, files.Config{Dir: dir, Strict: true})
	r.last = dump(r.says("web => db (allow)"))
	writeFile(t, filepath.Join(dir, "b.hcl"), "service {}\n")
	r.refused("b.hcl:1")
	writeFile(t, filepath.Join(dir, "a.hcl"), intentions("db", "web deny"))
	writeFile(t, filepath.Join(dir, "c.hcl"), "service {}\n")
	r.refused("c.hcl:1")
	writeFile(t, filepath.Join(dir, "b.hcl"), definition("app"))
	remove(t, filepath.Join(dir, "c.hcl"))
	r.says("web => db (deny)")
}
