package files_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
)

var trustDomain = spiffeid.RequireTrustDomainFromString("mesh.test")

// write puts files into a new directory.
func write(t *testing.T, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range contents {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, text)
	}
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// load loads a directory that must be valid.
func load(t *testing.T, config files.Config) catalog.Contents {
	t.Helper()
	config.TrustDomain = trustDomain
	c, err := files.Load(config)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// dump is contents as text, one thing a line.
func dump(c catalog.Contents) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mesh %+v\n", c.Mesh)
	endpoints := c.Endpoints
	for _, s := range c.Services {
		fmt.Fprintf(&b, "service %s %s\n", s.Name, s.Protocol)
		for first := true; len(endpoints) > 0 && (first || endpoints[0].Subset != ""); endpoints, first = endpoints[1:], false {
			if endpoints[0].Name != s.Name || first != (endpoints[0].Subset == "") {
				fmt.Fprintf(&b, "endpoints of %s %s in place of those of %s\n", endpoints[0].Subset, endpoints[0].Name, s.Name)
			}
			if !first {
				fmt.Fprintf(&b, "  subset %s\n", endpoints[0].Subset)
			}
			for _, e := range endpoints[0].List {
				fmt.Fprintf(&b, "  endpoint %+v\n", e)
			}
		}
	}
	for _, chain := range c.Chains {
		fmt.Fprintf(&b, "chain of %s in %s, %s: %s\n", chain.Service, chain.Datacenter, chain.Protocol, chain.Start)
		for _, key := range slices.Sorted(maps.Keys(chain.Nodes)) {
			n := chain.Nodes[key]
			fmt.Fprintf(&b, "  %s\n", key)
			for _, r := range n.Routes {
				fmt.Fprintf(&b, "    route at %s: %s\n", r.Definition.Origin, r.Next)
			}
			for _, s := range n.Splits {
				fmt.Fprintf(&b, "    %v %%: %s\n", s.Weight, s.Next)
			}
			if r := n.Resolver; r != nil {
				fmt.Fprintf(&b, "    %s, then %q, %s\n", r.Target, r.Failover, r.ConnectTimeout)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(chain.Targets)) {
			t := chain.Targets[id]
			fmt.Fprintf(&b, "  target %s: %s %q %t\n", id, t.SNI, t.Filter, t.OnlyPassing)
		}
	}
	for _, p := range c.Proxies {
		fmt.Fprintf(&b, "proxy %s service=%s instance=%s origin=%s\n", p.ID, p.Service, p.Instance, p.Origin)
		fmt.Fprintf(&b, "  inbound %+v\n  bootstrap %+v\n", p.Inbound, p.Bootstrap)
		for _, u := range p.Upstreams {
			fmt.Fprintf(&b, "  upstream %+v\n", u)
		}
		for _, e := range p.Exposed {
			fmt.Fprintf(&b, "  exposed %+v\n", e)
		}
	}
	for _, i := range catalogtest.Intentions(c) {
		fmt.Fprintf(&b, "intention %s origin=%s\n", i, i.Origin)
	}
	return b.String()
}

func makeFIFO(path string) error { return unix.Mkfifo(path, 0o600) }
