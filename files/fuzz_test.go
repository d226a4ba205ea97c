package files

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func FuzzHCL(f *testing.F)  { fuzz(f, "hcl") }
func FuzzJSON(f *testing.F) { fuzz(f, "json") }
func FuzzYAML(f *testing.F) { fuzz(f, "yaml") }

// fuzz holds that no file panics, that every mistake has its line, that the outcome depends on the file alone, and that what
// is accepted keeps what catalog demands.
func fuzz(f *testing.F, format string) {
	f.Helper()
	seeds := []string{"", "{}", "[", "a", "service {\n name = \"web\" port = 1 connect { sidecar_service {} } }", "a = <<-X\n b\n  X\n", "a: &a [*a]", "\"\\u", `"\ud800"`}
	for _, pattern := range []string{"testdata/good/*/*." + format, "testdata/same/" + format + "/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range paths {
			src, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			seeds = append(seeds, string(src))
		}
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	config, err := Config{Dir: "x", TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	readOne := func(src []byte) (c catalog.Contents, problems Errors) {
		f := decode(&config, maphash.MakeSeed(), "f."+format, src, nil)
		o := (&assembler{config: config}).assemble([]*file{f})
		return o.contents, o.problems
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, problems := readOne(src)
		lines := 1
		for _, b := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // all of which YAML counts
			lines += bytes.Count(src, []byte(b))
		}
		for _, p := range problems {
			if p.File != "f."+format || p.Line < 1 || p.Line > lines+1 || p.Text == "" {
				t.Errorf("problem %+v of a file with %d lines", p, lines)
			}
		}
		again, problemsAgain := readOne(bytes.Clone(src))
		if !reflect.DeepEqual(problems, problemsAgain) || len(problems) == 0 && !reflect.DeepEqual(c, again) {
			t.Errorf("two readings differ:\n%v\n%v\n%+v\n%+v", problems, problemsAgain, c, again)
		}
		if len(problems) > 0 {
			return
		}
		new(catalog.View).Next(c)
		for _, p := range c.Proxies {
			if _, err := netip.ParseAddr(p.Inbound.Address); err != nil || p.Inbound.Port == 0 || p.Service.Check() != nil || p.ID == "" || p.Origin == "" {
				t.Errorf("proxy %+v", p)
			}
			if (p.Inbound.LocalSocket == "") == (p.Inbound.LocalPort == 0) {
				t.Errorf("proxy with no way to its application, or two: %+v", p.Inbound)
			}
			for _, u := range p.Upstreams {
				if (u.BindSocket == "") == (u.BindPort == 0) || u.Destination.Check() != nil {
					t.Errorf("upstream %+v", u)
				}
			}
		}
		for _, s := range c.Services {
			if s.Name.Check() != nil {
				t.Errorf("service %+v", s)
			}
		}
		services := c.Services
		for _, s := range c.Endpoints {
			if s.Subset == "" && len(services) > 0 {
				services = services[1:]
			}
			if at := len(c.Services) - len(services) - 1; at < 0 || s.Name != c.Services[at].Name {
				t.Errorf("endpoints of %s %s", s.Name, s.Subset)
			}
			for _, e := range s.List {
				if e.Address == "" || e.Port == 0 || e.Weight < 1 || e.Weight > 128 {
					t.Errorf("endpoint %+v", e)
				}
			}
		}
		for _, chain := range c.Chains {
			if chain.Default || chain.Nodes[chain.Start] == nil || len(chain.Targets) == 0 {
				t.Errorf("chain %+v", chain)
			}
			for id, to := range chain.Targets {
				if !slices.ContainsFunc(c.Endpoints, func(e *catalog.Endpoints) bool { return e.Name == to.Service && e.Subset == to.Subset }) {
					t.Errorf("target %s has no endpoints", id)
				}
			}
		}
		for _, i := range catalogtest.Intentions(c) {
			if i.Origin == "" || !i.Destination.IsWildcard() && i.Destination.Check() != nil || !i.Source.IsWildcard() && i.Source.Check() != nil {
				t.Errorf("intention %+v", i)
			}
		}
	})
}
