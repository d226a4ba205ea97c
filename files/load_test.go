package files_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

var update = flag.Bool("update", false, "write the goldens")

// TestGolden loads each directory of testdata/good and compares what it comes to with the file beside it.
func TestGolden(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("testdata/good/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("testdata/good: %v, %d cases", err, len(dirs))
	}
	cases := map[string]bool{}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		cases[filepath.Base(dir)] = true
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			got := dump(load(t, files.Config{Dir: dir}))
			golden := filepath.Clean(dir) + ".golden"
			if *update {
				writeFile(t, golden, got)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", dir, diff)
			}
		})
	}
	goldens, err := filepath.Glob("testdata/good/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range goldens {
		if !cases[strings.TrimSuffix(filepath.Base(g), ".golden")] {
			t.Errorf("%s belongs to no case", g)
		}
	}
}

// TestFormats holds that the three spellings of one mesh mean the same.
func TestFormats(t *testing.T) {
	t.Parallel()
	var want string
	for _, format := range []string{"hcl", "json", "yaml"} {
		c := load(t, files.Config{Dir: filepath.Join("testdata", "same", format)})
		clearOrigins(&c)
		got := dump(c)
		if want == "" {
			want = got
			if len(c.Proxies) < 2 || len(catalogtest.Intentions(c)) < 2 || len(c.Proxies[1].Upstreams) == 0 {
				t.Fatalf("the case is too small to show anything:\n%s", got)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("hcl and %s differ (-hcl +%s):\n%s", format, format, diff)
		}
	}
}

func clearOrigins(c *catalog.Contents) {
	for i := range c.Proxies {
		c.Proxies[i].Origin, c.Proxies[i].Inbound.LocalOrigin = "", ""
		for j := range c.Proxies[i].Upstreams {
			c.Proxies[i].Upstreams[j].Origin = ""
		}
	}
	for _, d := range c.Intentions {
		for i := range d.Intentions {
			d.Intentions[i].Origin = ""
		}
	}
	for _, chain := range c.Chains {
		for _, n := range chain.Nodes {
			for _, r := range n.Routes {
				r.Definition.Origin = ""
			}
		}
	}
}

// TestOrder holds that neither the names of files nor the order of what is in them decide anything.
func TestOrder(t *testing.T) {
	t.Parallel()
	web := `service { name = "web" port = 1 connect { sidecar_service {} } }`
	api := `service { name = "api" port = 2 connect { sidecar_service {} } }`
	a := load(t, files.Config{Dir: write(t, map[string]string{"1.hcl": web, "2.hcl": api})})
	b := load(t, files.Config{Dir: write(t, map[string]string{"1.hcl": api, "2.hcl": web})})
	clearOrigins(&a)
	clearOrigins(&b)
	if diff := cmp.Diff(dump(a), dump(b)); diff != "" {
		t.Errorf("swapped files differ:\n%s", diff)
	}
}

// TestDocumentation holds that the examples of docs/files.md are a mesh.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	for i, block := range strings.Split(string(text), "```") {
		if format, example, ok := strings.Cut(block, "\n"); ok && i%2 == 1 {
			examples[fmt.Sprintf("example%d.%s", i, format)] = example
		}
	}
	c := load(t, files.Config{Dir: write(t, examples)})
	if len(examples) != 5 || len(c.Proxies) != 2 || len(catalogtest.Intentions(c)) != 1 {
		t.Errorf("%d examples became %s", len(examples), dump(c))
	}
}
