package claim_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// script is a source that publishes what it is given.
type script chan catalog.Contents

func (s script) Run(ctx context.Context, publish func(catalog.Contents)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s:
			publish(c)
		}
	}
}

// running is a Registry that runs.
type running struct {
	*claim.Registry
	source script
	end    func()

	mu        sync.Mutex
	published []catalog.Contents
}

func run(t *testing.T, c claim.Config) *running {
	t.Helper()
	r := &running{Registry: claim.New(c), source: make(script)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, r.source, func(c catalog.Contents) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.published = append(r.published, c)
		})
	}()
	r.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return r
}

// give has the source publish proxies; what is left of them is returned.
func (r *running) give(proxies ...*catalog.Proxy) (out []string) {
	r.source <- contents(proxies...)
	synctest.Wait()
	return r.left()
}

func (r *running) left() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.published[len(r.published)-1].Proxies {
		out = append(out, left(p))
	}
	return out
}

func equal(t *testing.T, when string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// TestRemembered: a start changes nobody's address, whoever comes first, unless the holder stays away.
func TestRemembered(t *testing.T) {
	web := func() *catalog.Proxy { return proxy("web", 20001, upstream("db", "127.0.0.1", 5000)) }
	evil := func() *catalog.Proxy {
		return proxy("evil", 20000, upstream("x", "0.0.0.0", 5000), application("127.0.0.1", 5001))
	}
	late := func() *catalog.Proxy {
		return proxy("late", 20002, upstream("y", "127.0.0.1", 5001))
	}
	synctest.Test(t, func(t *testing.T) {
		config := claim.Config{File: filepath.Join(t.TempDir(), "claims.json"), Reserve: 30 * time.Second}
		r := run(t, config)
		equal(t, "at first", r.give(web()), "web: db")
		equal(t, "then", r.give(evil(), web()), "evil: ", "web: db")
		equal(t, "late", r.give(evil(), late(), web()), "evil: ", "late: ", "web: db")
		r.end()
		if info, err := os.Stat(config.File); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the file: %v, %v", info, err)
		}

		r = run(t, config)
		equal(t, "started anew, web waits", r.give(evil(), late()), "evil: ", "late: ")
		equal(t, "started anew, web is there", r.give(evil(), late(), web()), "evil: ", "late: ", "web: db")
		r.end()

		r = run(t, config)
		equal(t, "started anew, web stays away", r.give(evil()), "evil: ")
		time.Sleep(29 * time.Second)
		r.mu.Lock()
		n := len(r.published)
		r.mu.Unlock()
		if n != 1 {
			t.Error("something was published again though nothing changed")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		equal(t, "after a while", r.left(), "evil: x")
		equal(t, "web comes back", r.give(evil(), web()), "evil: x", "web: ")
		r.end()

		config.Reserve = 0
		r = run(t, config)
		equal(t, "all is known at once", r.give(late(), web()), "late: y", "web: db")
		r.end()

		// A file that makes no sense is moved aside.
		if err := os.WriteFile(config.File, []byte(`{"version": 1, "proxies": {"web"`), 0o600); err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		config.Logger = slog.New(slog.NewTextHandler(&log, nil))
		r = run(t, config)
		equal(t, "without memory", r.give(evil(), web()), "evil: x", "web: ")
		r.end()
		if _, err := os.Stat(config.File + ".bad"); err != nil || !strings.Contains(log.String(), "is not known any more") {
			t.Errorf("the file: %v, the log: %s", err, log.String())
		}
	})
}

// TestSomebodyListens: a socket on which somebody else listens is not replaced, until nobody does. A
// proxy's own is its own, also after a start, and though its registration was gone meanwhile.
func TestSomebodyListens(t *testing.T) {
	dir, err := os.MkdirTemp("", "claim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mine, foreign := filepath.Join(dir, "mine"), filepath.Join(dir, "foreign")
	listen := func(path string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	web := func() *catalog.Proxy { return proxy("web", 20001, socket("db", mine), socket("x", foreign)) }
	synctest.Test(t, func(t *testing.T) {
		config := claim.Config{File: filepath.Join(t.TempDir(), "claims.json"), Paths: claim.Paths{Allowed: []string{dir}}}
		r := run(t, config)
		equal(t, "at first", r.give(proxy("web", 20001, socket("db", mine))), "web: db")
		r.end()
		envoy, somebody := listen(mine), listen(foreign)
		for range 2 {
			r = run(t, config)
			equal(t, "started anew", r.give(web()), "web: db")
			if got := first(r.Registry); !strings.Contains(got, "somebody else listens on "+foreign) {
				t.Errorf("refused: %q", got)
			}
			equal(t, "gone", r.give())
			equal(t, "back", r.give(web()), "web: db")
			r.end()
		}
		r = run(t, config)
		equal(t, "another", r.give(proxy("other", 20002, socket("db", mine))), "other: ")
		envoy.Close()
		time.Sleep(40 * time.Second)
		synctest.Wait()
		equal(t, "nobody listens", r.left(), "other: db")
		r.end()
		somebody.Close()
	})
}

func TestNames(t *testing.T) {
	c := contents(proxy("", 1), proxy("a\x1b[2J", 20000), proxy("web", 20001, upstream(strings.Repeat("n", 220), "127.0.0.1", 5000), upstream("db", "127.0.0.1", 5001)), proxy(strings.Repeat("x", 513), 20002))
	c.Mesh = catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul"), Datacenter: "dc1"}
	r := claim.New(claim.Config{})
	var got []string
	for _, p := range r.Admit(c).Proxies {
		got = append(got, left(p))
	}
	equal(t, "what is left", got, "web: db")
	refusals := r.Refusals()
	if len(refusals) != 4 {
		t.Fatalf("refusals: %v", refusals)
	}
	unfit := 0
	for _, x := range refusals {
		switch {
		case strings.ContainsAny(x.String(), "\x1b") || len(x.String()) > 700:
			t.Errorf("not for a terminal: %q", x)
		case x.Proxy == identity.ProxyID("web"):
			if !strings.Contains(x.Text, "its server name would have") {
				t.Errorf("of the long name: %s", x)
			}
		default:
			unfit++
		}
	}
	if unfit != 3 {
		t.Errorf("refusals: %v", refusals)
	}
}
