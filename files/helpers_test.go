package files_test

import (
	"fmt"
	"os"
	"path/filepath"
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
	for i, s := range c.Services {
		if c.Endpoints[i].Name != s.Name {
			fmt.Fprintf(&b, "endpoints of %s in place of those of %s\n", c.Endpoints[i].Name, s.Name)
		}
		fmt.Fprintf(&b, "service %s %s\n", s.Name, s.Protocol)
		for _, e := range c.Endpoints[i].List {
			fmt.Fprintf(&b, "  endpoint %+v\n", e)
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
