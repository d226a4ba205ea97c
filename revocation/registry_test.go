package revocation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/revocation"
)

const web = "spiffe://example.org/ns/default/dc/dc1/svc/web"

// published is what a Registry published last.
type published struct {
	mu    sync.Mutex
	times int
	last  catalog.Contents
}

func open(t *testing.T, file string) (*revocation.Registry, *published, func(catalog.Contents)) {
	t.Helper()
	return openLogged(t, file, io.Discard)
}

func catalogContents() catalog.Contents { return catalog.Contents{Whole: true} }

func openLogged(t *testing.T, file string, log io.Writer) (*revocation.Registry, *published, func(catalog.Contents)) {
	t.Helper()
	r, err := revocation.Open(revocation.Config{File: file, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	p := &published{}
	return r, p, r.Publisher(func(c catalog.Contents) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.times, p.last = p.times+1, c
	})
}

// count is how often something was published.
func (p *published) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times
}

// serials are the revocations of p.
func (p *published) serials() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.last.Revoked.All() {
		all = append(all, r.Serial+r.ID)
	}
	return all
}

// TestPublished: contents come with what is revoked, not before that is known, and again when it changes.
func TestPublished(t *testing.T) {
	t.Parallel()
	r, p, publish := open(t, filepath.Join(t.TempDir(), "revoked"))
	publish(catalog.Contents{Whole: true})
	if p.times != 0 || r.Status().Known {
		t.Fatal("published before it is known what is revoked")
	}
	r.Take([]intention.Revocation{{Serial: "1"}})
	if p.times != 1 || !p.last.Whole || !slices.Equal(p.serials(), []string{"1"}) {
		t.Fatalf("published %d times, %v", p.times, p.serials())
	}
	r.Take([]intention.Revocation{{Serial: "1"}})
	if p.times != 1 {
		t.Error("the same is published again")
	}
	publish(catalog.Contents{})
	if p.times != 2 || p.last.Whole || !slices.Equal(p.serials(), []string{"1"}) {
		t.Errorf("published %d times, %v", p.times, p.serials())
	}
	r.Take(nil)
	if p.times != 3 || p.last.Revoked != nil {
		t.Errorf("undone: published %d times, %v", p.times, p.serials())
	}
}

// TestUnreadable: what was read last holds, over restarts too; who never knew anything serves nothing, unless it is
// somebody's word that it may not know.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "revoked")
	broken, denied := errors.New("revoked.yaml:3: is broken"), fmt.Errorf("%w: 403", revocation.ErrNotAllowed)

	r, p, publish := open(t, file)
	publish(catalog.Contents{})
	r.Fail(broken)
	if p.times != 0 || r.Status().Known || r.Status().Problem != broken.Error() {
		t.Fatalf("nothing was ever read: published %d times, %+v", p.times, r.Status())
	}
	r.Take([]intention.Revocation{{ID: web, Reason: "stolen"}})
	r.Fail(denied)
	if !slices.Equal(p.serials(), []string{web}) || r.Status().Problem == "" {
		t.Fatalf("lost: %v, %+v", p.serials(), r.Status())
	}

	r, p, publish = open(t, file)
	publish(catalog.Contents{})
	r.Fail(denied)
	if !slices.Equal(p.serials(), []string{web}) || !r.Status().Since.IsZero() {
		t.Fatalf("after a restart: %v, %+v", p.serials(), r.Status())
	}
	r.Take(nil)
	if p.last.Revoked != nil || r.Status().Problem != "" {
		t.Errorf("what is read is not in force: %v, %+v", p.serials(), r.Status())
	}

	r, p, publish = open(t, filepath.Join(t.TempDir(), "revoked"))
	publish(catalog.Contents{})
	r.Fail(denied)
	if p.times != 1 || p.last.Revoked != nil || r.Status().Problem == "" {
		t.Errorf("it may not be read, and never was: published %d times, %+v", p.times, r.Status())
	}

	if err := os.WriteFile(file, []byte("revoked: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, p, publish = open(t, file)
	publish(catalog.Contents{})
	r.Fail(denied)
	if p.times != 0 || !strings.Contains(r.Status().Problem, "damaged") {
		t.Errorf("a file that somebody wrote by hand is believed: %+v", r.Status())
	}
}

// TestEnds: a revocation ends at its time, and not before.
func TestEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, p, publish := open(t, filepath.Join(t.TempDir(), "revoked"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		publish(catalog.Contents{})
		now := time.Now()
		r.Take([]intention.Revocation{{Serial: "1", Until: now.Add(time.Hour)}, {Serial: "2"}, {Serial: "3", Until: now.Add(-time.Hour)}, {Serial: "4", Until: now.Add(2 * time.Hour)}})
		for _, at := range []struct {
			after time.Duration
			want  []string
		}{{0, []string{"1", "2", "4"}}, {time.Hour - time.Second, []string{"1", "2", "4"}}, {time.Second, []string{"2", "4"}}, {time.Hour, []string{"2"}}} {
			time.Sleep(at.after)
			synctest.Wait()
			if got := p.serials(); !slices.Equal(got, at.want) {
				t.Errorf("at %v: %v, want %v", time.Since(now), got, at.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDirectory: a change is read, an error keeps what was, and a directory that is not there any more is an error.
func TestDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "revoked.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "web.hcl"), []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, p, publish := open(t, filepath.Join(t.TempDir(), "revoked"))
	d := &revocation.Directory{Path: dir, Registry: r}
	publish(catalog.Contents{})
	if err := d.Read(); err != nil || p.times != 1 {
		t.Fatalf("without a file: %v, published %d times", err, p.times)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %v, %+v", what, r.Revoked().All(), r.Status())
			}
		}
	}
	write("revoked:\n- serial: \"1\"\n")
	until("a change", func() bool { return r.Revoked().Len() == 1 })
	write("revoked:\n- serial: 1x\n")
	until("a mistake", func() bool { return strings.Contains(r.Status().Problem, "revoked.yaml:2") })
	if r.Revoked().Len() != 1 {
		t.Error("a mistake takes what was in force")
	}
	write("revoked:\n- serial: \"1\"\n- serial: \"2\"\n")
	until("mended", func() bool { return r.Revoked().Len() == 2 && r.Status().Problem == "" })
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	until("away", func() bool { return r.Status().Problem != "" })
	if r.Revoked().Len() != 2 {
		t.Error("a directory that is away takes what was in force")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
