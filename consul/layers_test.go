package consul

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"
)

// layers are the parts of the package, each of which knows those before it and none after it.
var layers = []struct{ name, files string }{
	{"query engine", "config client limiter query staleness metrics"},
	{"readers", "problem registration datacenter discovery chain endpoints exposed proxy foreign application checks intentions mesh"},
	{"tokens", "aclcache policy"},
	{"agent", "doc agent elsewhere watcher bulk seed lastknowngood assembly assembly_proxy assembly_chain assembly_checks assembly_tokens contents status authorizer anonymous certificate kv relay"},
}

// nothing imports nothing: what the package itself declares is all that counts here.
type nothing struct{}

func (nothing) Import(string) (*types.Package, error) { return nil, errors.New("not looked at") }

// TestLayers demands that no part of the package uses what a later one declares.
func TestLayers(t *testing.T) {
	layer := map[string]int{}
	for i, l := range layers {
		for name := range strings.FieldsSeq(l.files) {
			layer[name+".go"] = i
		}
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if _, ok := layer[name]; !ok {
			t.Errorf("%s is in no layer", name)
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) != len(layer) {
		t.Errorf("%d files, and %d in layers", len(files), len(layer))
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: nothing{}, Error: func(error) {}}
	pkg, _ := config.Check("consul", set, files, &info) // with errors, as nothing is imported
	arrows := 0
	for id, o := range info.Uses {
		if o.Pkg() != pkg || !o.Pos().IsValid() {
			continue
		}
		from, to := set.Position(id.Pos()).Filename, set.Position(o.Pos()).Filename
		if layer[from] > layer[to] {
			arrows++
		}
		if layer[from] < layer[to] {
			t.Errorf("%s: %s of %s is used in the part %q, which does not know the part %q", set.Position(id.Pos()), id.Name, to, layers[layer[from]].name, layers[layer[to]].name)
		}
	}
	if arrows < 100 {
		t.Errorf("only %d arrows are seen", arrows)
	}
}
