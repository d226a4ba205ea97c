package imports_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/sallyport/sallyport/"
	document = "docs/design.md"
)

// rule is one row of the table: what a package may import.
type rule struct{ own, others []string }

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestImportRules(t *testing.T) {
	rules, names := parse(t, readDocument(t))
	packages := list(t, filepath.Join("..", ".."))
	for _, broken := range check(rules, names, packages) {
		t.Error(broken)
	}
}

func readDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCheckFinds breaks each rule in a small project and demands that it is found: a test that
// finds nothing would pass.
func TestCheckFinds(t *testing.T) {
	rules := map[string]rule{
		"a":             {others: []string{"x"}},
		"b":             {own: []string{"a"}},
		"cmd/sallyport": {own: []string{"*"}, others: []string{"*", "command-line"}},
		"e2e":           {own: []string{"*"}, others: []string{"*"}},
	}
	names := map[string][]string{"x": {"example.com/x"}, "y": {"example.com/y"}, "command-line": {"github.com/spf13"}}
	sound := func() []pkg {
		return []pkg{
			{ImportPath: module + "a", Imports: []string{"fmt", "net/http", "example.com/x", "example.com/x/sub"}},
			{ImportPath: module + "b", Imports: []string{module + "a"}, XTestImports: []string{"example.com/y"}},
			{ImportPath: module + "cmd/sallyport", Imports: []string{module + "a", module + "b", "github.com/spf13/viper"}},
			{ImportPath: module + "e2e", Imports: []string{module + "a", "example.com/x"}},
		}
	}
	if broken := check(rules, names, sound()); len(broken) > 0 {
		t.Fatalf("a sound project: %v", broken)
	}
	tests := map[string]func([]pkg) []pkg{
		"a imports b":                    func(p []pkg) []pkg { p[0].Imports = append(p[0].Imports, module+"b"); return p },
		"a imports example.com/y":        func(p []pkg) []pkg { p[0].Imports = append(p[0].Imports, "example.com/y"); return p },
		"a imports example.com/xx":       func(p []pkg) []pkg { p[0].Imports = append(p[0].Imports, "example.com/xx"); return p },
		"c is not":                       func(p []pkg) []pkg { return append(p, pkg{ImportPath: module + "c"}) },
		"there is no package a":          func(p []pkg) []pkg { return p[1:] },
		"b does not import a":            func(p []pkg) []pkg { p[1].Imports = nil; return p },
		"b imports cmd/sallyport":        func(p []pkg) []pkg { p[1].TestImports = []string{module + "cmd/sallyport"}; return p },
		"a imports e2e":                  func(p []pkg) []pkg { p[0].XTestImports = []string{module + "e2e"}; return p },
		"cmd/sallyport imports e2e":      func(p []pkg) []pkg { p[2].Imports = append(p[2].Imports, module+"e2e"); return p },
		"b imports github.com/spf13":     func(p []pkg) []pkg { p[1].XTestImports = []string{"github.com/spf13/cobra"}; return p },
		"e2e imports github.com/spf13":   func(p []pkg) []pkg { p[3].Imports = append(p[3].Imports, "github.com/spf13/viper"); return p },
		"imports github.com/hashicorp/c": func(p []pkg) []pkg { p[2].Imports = append(p[2].Imports, "github.com/hashicorp/consul/api"); return p },
	}
	for want, spoil := range tests {
		broken := check(rules, names, spoil(sound()))
		if len(broken) != 1 || !strings.Contains(broken[0], want) {
			t.Errorf("%s: found %q", want, broken)
		}
	}
}

// check returns what of the packages breaks the rules, and what of the rules is not so any more, a
// sentence each.
func check(rules map[string]rule, names map[string][]string, packages []pkg) []string {
	var broken []string
	say := func(parts ...string) { broken = append(broken, strings.Join(parts, "")) }
	seen := map[string]bool{}
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		r, ok := rules[name]
		if !ok {
			say(name, " is not in the import rules of ", document, ": give it a row")
			continue
		}
		used := map[string]bool{}
		for _, i := range p.Imports {
			own, isOwn := strings.CutPrefix(i, module)
			used[own] = true
			switch {
			case forEverybody(name, i) != "": // said below
			case isOwn && !slices.Contains(r.own, own) && !slices.Contains(r.own, "*"):
				say(name, " imports ", own, ", which its row in ", document, " does not name")
			case !isOwn && external(i) && !slices.Contains(r.others, "*") && !covered(i, r.others, names):
				say(name, " imports ", i, ", which its row in ", document, " does not name")
			}
		}
		for _, own := range r.own {
			if own != "*" && !used[own] {
				say(name, " does not import ", own, " any more: take it out of its row in ", document)
			}
		}
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if why := forEverybody(name, i); why != "" {
				say(why)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if !seen[name] {
			say("there is no package ", name, ", but a row for it in ", document)
		}
	}
	return broken
}

// forEverybody says what is wrong with an import anywhere, in tests too; empty if nothing is.
func forEverybody(name, imported string) string {
	own := strings.TrimPrefix(imported, module)
	switch {
	case name != own && own != imported && (own == "e2e" || strings.HasPrefix(own, "e2e/") || strings.HasPrefix(own, "cmd/")):
		return name + " imports " + own + ": nothing does"
	case under(imported, "github.com/spf13") && !strings.HasPrefix(name, "cmd/"):
		return name + " imports " + imported + ": only the command line does"
	case under(imported, "github.com/hashicorp/consul") && name != "consul":
		return name + " imports " + imported + ": only consul does"
	}
	return ""
}

// external reports whether an import path is of a module: the first element of its path has a dot,
// and none of the standard library's has.
func external(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

func covered(path string, allowed []string, names map[string][]string) bool {
	return slices.ContainsFunc(allowed, func(name string) bool {
		return slices.ContainsFunc(names[name], func(prefix string) bool { return under(path, prefix) })
	})
}

func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// parse reads the two tables of the document.
func parse(t *testing.T, text string) (map[string]rule, map[string][]string) {
	t.Helper()
	names := map[string][]string{}
	for _, row := range block(t, text, "names", 2) {
		if names[row[0]] != nil {
			t.Errorf("%s: %s is there twice", document, row[0])
		}
		names[row[0]] = strings.Fields(row[1])
	}
	rules := map[string]rule{}
	for _, row := range block(t, text, "imports", 3)[1:] { // without the heading
		if _, twice := rules[row[0]]; twice {
			t.Errorf("%s: %s is there twice", document, row[0])
		}
		r := rule{own: fields(row[1]), others: fields(row[2])}
		for _, name := range r.others {
			if name != "*" && names[name] == nil {
				t.Errorf("%s: nothing says what %s stands for", document, name)
			}
		}
		rules[row[0]] = r
	}
	return rules, names
}

func fields(cell string) []string {
	if cell == "-" {
		return nil
	}
	return strings.Fields(cell)
}

// block returns the rows of the fenced block of that language, cut into cells.
func block(t *testing.T, text, language string, cells int) [][]string {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n```"+language+"\n")
	if !ok {
		t.Fatalf("%s has no block %q", document, language)
	}
	text, _, _ = strings.Cut(text, "\n```")
	var rows [][]string
	for line := range strings.Lines(text) {
		row := strings.Split(line, "|")
		if len(row) != cells {
			t.Fatalf("%s: the row %q has %d cells, want %d", document, line, len(row), cells)
		}
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	if len(rows) < 2 {
		t.Fatalf("%s: the block %q has %d rows", document, language, len(rows))
	}
	return rows
}

// list asks go for all packages, those of end-to-end tests too.
func list(t *testing.T, root string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags", "e2e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []pkg
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
