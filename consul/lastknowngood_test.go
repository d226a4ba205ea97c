package consul

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// What is the same, pointer by pointer, is written once.
func TestSavedOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	s := newSaver(file, slog.New(slog.DiscardHandler))
	c := catalog.Contents{Mesh: catalog.Mesh{Datacenters: []string{"dc1"}}, Services: []*catalog.Service{{}}}
	write := func(c catalog.Contents) string {
		t.Helper()
		s.put(c)
		s.flush()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := write(c)
	again := c
	again.Mesh.Datacenters, again.Services = []string{"dc1"}, slices.Clone(c.Services)
	if write(again) != first {
		t.Error("what has not changed is written again")
	}
	again.Services = []*catalog.Service{{}}
	if write(again) == first {
		t.Error("another service is not written")
	}
}

// A last-known-good file answers while Consul is away; what comes from Consul takes its place bit by bit.
func TestSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	config := func(c *Config) { c.LKGFile = file }
	var before catalog.Contents
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, stop := running(t, a)
		after(10 * time.Second)
		before = p.must(t)
		stop()
	})
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(b), "own-token") || strings.Contains(string(b), "PRIVATE") {
		t.Fatalf("%s, %v", b, err)
	}
	t.Run("Consul is away", func(t *testing.T) {
		bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
			f.kill()
			p, _ := running(t, a)
			after(time.Second)
			if _, ok := p.last(); ok {
				t.Error("published before the agent had a chance")
			}
			after(2 * time.Second)
			store := &catalog.Store{}
			store.Publish(before)
			v, _ := store.Views.Load()
			store.Publish(p.must(t))
			if w, _ := store.Views.Load(); v != w {
				t.Errorf("what was saved differs: %+v", p.must(t))
			}
			if s := a.Status(); !s.FromFile || s.StaleSince.IsZero() || s.Connected || s.TrustDomain != testTrustDomain {
				t.Errorf("Status() = %+v", s)
			}
			// It comes back, and does not know one thing yet.
			f.mesh()
			f.refuse("/v1/connect/intentions/match?api", 500)
			f.refuse("/v1/health/connect/api", 500)
			f.revive()
			after(5 * time.Second)
			if got := p.must(t); ids(got) != ids(before) || endpointsOf(got, "api") != endpointsOf(before, "api") || len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) {
				t.Errorf("in between: %s, %s", ids(got), endpointsOf(got, "api"))
			}
			if s := a.Status(); !s.FromFile || !s.Connected {
				t.Errorf("Status() = %+v", s)
			}
			f.set("/v1/connect/intentions/match?api", map[string]any{"api": []any{}})
			f.set("/v1/health/connect/api", []any{})
			after(25 * time.Second)
			if got := p.must(t); ids(got) != ids(before) || endpointsOf(got, "api") != "" || len(catalogtest.Intentions(got)) != 0 { // what was said of all is older
				t.Errorf("at last: %s, %s, %v", ids(got), endpointsOf(got, "api"), got.Intentions)
			}
			if s := a.Status(); s.FromFile {
				t.Errorf("Status() = %+v", s)
			}
		})
	})
	t.Run("a service that nobody dialled", func(t *testing.T) {
		bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			f.refuse("/v1/health/connect/web", 500)
			f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"LocalServiceSocketPath": "/run/api.sock",`,
				`"LocalServiceSocketPath": "/run/api.sock", "Upstreams": [{"DestinationName": "web", "LocalBindPort": 5000}],`))
			p, _ := running(t, a)
			after(10 * time.Second)
			if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" {
				t.Errorf("proxies %q: what the file does not know is not empty", got)
			}
			f.file("/v1/health/connect/web", "health-web.json")
			after(10 * time.Second)
			if got := ids(p.must(t)); got != "api-1-sidecar-proxy web, web-sidecar-proxy api" {
				t.Errorf("proxies %q", got)
			}
		})
	})
	t.Run("another mesh", func(t *testing.T) {
		bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			roots := testRoots(t, testAuthority(t))
			roots.TrustDomain = "other.consul"
			f.set("/v1/agent/connect/ca/roots", roots)
			f.refuse("/v1/connect/intentions/match?api", 500)
			p, _ := running(t, a)
			after(10 * time.Second)
			if got := p.must(t); ids(got) != "web-sidecar-proxy api" || got.Mesh.TrustDomain.Name() != "other.consul" {
				t.Errorf("%s of %s", ids(got), got.Mesh.TrustDomain)
			}
		})
	})
	for name, text := range map[string]string{"empty": "", "cut": string(b[:len(b)/2]), "flipped": strings.Replace(string(b), `"Action":0`, `"Action":1`, 1), "of another format": `{"format":1}`} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "known.json")
			if text == string(b) {
				t.Fatal("nothing is wrong with it")
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			bubble(t, func(c *Config) { c.LKGFile = file }, func(t *testing.T, f *fake, a *Agent) {
				f.kill()
				p, _ := running(t, a)
				after(time.Minute)
				if c, ok := p.last(); ok {
					t.Errorf("published %+v", c)
				}
				if _, err := os.Stat(file + ".bad"); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(file); err == nil {
					t.Error("it is still there")
				}
			})
		})
	}
}
