package imports_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// exceptions are exported names that no other package of the product uses, and what for: tests of others, or what waits for its use.
var exceptions = map[string]string{
	"bundle.Set.Of": "what tests ask for one trust domain's",

	"snapshot.Build": "what Cache.Build is held to, and what tests of the data plane build with",
}

// pending are packages that no command has yet. What they use is used; what they export waits.
var pending = []string{}

// TestExportedNames finds what is exported for nobody: names of the product's packages that no
// other of them uses. Tests, and packages for tests, do not count.
func TestExportedNames(t *testing.T) {
	rules, _ := parse(t, readDocument(t))
	root := filepath.Join("..", "..")
	for _, p := range compiled(t, root, "./cmd/...") {
		if path := strings.TrimPrefix(p.ImportPath, module); slices.Contains(pending, path) {
			t.Errorf("a command has %s: take it out of pending", path)
		}
	}
	patterns := []string{"./cmd/..."}
	for _, path := range pending {
		patterns = append(patterns, "./"+path)
	}
	packages := compiled(t, root, patterns...)
	unused := unusedNames(t, packages, func(path string) bool {
		_, ok := rules[path]
		return ok && !forTests(path)
	})
	for _, name := range unused {
		if exceptions[name] == "" && !slices.ContainsFunc(pending, func(path string) bool { return strings.HasPrefix(name, path+".") }) {
			t.Errorf("%s is exported, and no other package of the product uses it", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exceptions)) {
		if !slices.Contains(unused, name) {
			t.Errorf("%s is used, or gone: take it out of exceptions", name)
		}
	}
}

// TestExportedNamesFinds looks at two packages as if there were no others: what only those use is
// found, and what they use of each other, or an interface asks for, is not.
func TestExportedNamesFinds(t *testing.T) {
	unused := unusedNames(t, compiled(t, filepath.Join("..", ".."), "./cmd/..."), func(path string) bool {
		return path == "identity" || path == "intention"
	})
	for name, want := range map[string]bool{
		"identity.NewName": true, "identity.RootsSecret": true, "intention.Share": true, "intention.Policy.Decide": true, "intention.Policy": true,
		"identity.Service": false, "identity.Name.IsWildcard": false, "intention.Reason.String": false,
	} {
		if slices.Contains(unused, name) != want {
			t.Errorf("%s is found: %t, want %t", name, !want, want)
		}
	}
}

// forTests reports whether a package is none of the product's.
func forTests(path string) bool {
	return path == "e2e" || strings.HasPrefix(path, "e2e/") || strings.HasPrefix(path, "hack/") ||
		slices.Contains([]string{"decisiontable", "envoytest", "golden", "imports", "meshtest", "rbactest", "testca", "xdstest"}, strings.TrimPrefix(path, "internal/"))
}

// listed is what `go list -export` says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// compiled asks go for packages and all that they need, and has it compile them.
func compiled(t *testing.T, root string, patterns ...string) []listed {
	t.Helper()
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles"}, patterns...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// unusedNames are the exported names of the packages that product accepts, as package.Name or
// package.Type.Method, which none of the others among them uses. A method is used too if it is
// there for an interface.
func unusedNames(t *testing.T, packages []listed, product func(path string) bool) []string {
	t.Helper()
	exports := map[string]string{}
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	files := token.NewFileSet()
	imports := importer.ForCompiler(files, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	declared, used := map[string]bool{}, map[string]bool{}
	for _, p := range packages {
		path, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok || !product(path) {
			continue
		}
		var syntax []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			syntax = append(syntax, f)
		}
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
		pkg, err := (&types.Config{Importer: imports}).Check(p.ImportPath, files, syntax, info)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[types.Type]bool{}
		for _, o := range info.Uses {
			use(used, pkg, o)
		}
		for _, tv := range info.Types {
			useType(used, seen, pkg, tv.Type) // a type is used by who holds a value of it, named or not
		}
	}
	interfaces := map[string][]*types.Interface{}
	var own []*types.Package
	for _, p := range packages {
		if p.ImportPath == "unsafe" || p.Export == "" {
			continue
		}
		pkg, err := imports.Import(p.ImportPath)
		if err != nil {
			t.Fatal(err)
		}
		addInterfaces(interfaces, pkg)
		if path, ok := strings.CutPrefix(p.ImportPath, module); ok && product(path) && pkg.Name() != "main" {
			own = append(own, pkg)
		}
	}
	for _, pkg := range own {
		declare(declared, pkg, interfaces)
	}
	var unused []string
	for name := range declared {
		if !used[name] {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	return unused
}

// declare adds the exported names of pkg but for methods that make its types what an interface asks
// for.
func declare(declared map[string]bool, pkg *types.Package, interfaces map[string][]*types.Interface) {
	for _, name := range pkg.Scope().Names() {
		o := pkg.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		declared[nameOf(o)] = true
		named, ok := o.Type().(*types.Named)
		if _, isType := o.(*types.TypeName); !isType || !ok || types.IsInterface(named) {
			continue
		}
		for m := range named.Methods() {
			if m.Exported() && !implements(named, m.Name(), interfaces) {
				declared[nameOf(m)] = true
			}
		}
	}
}

// addInterfaces notes the interfaces of pkg by method. Those with type parameters are left out.
func addInterfaces(all map[string][]*types.Interface, pkg *types.Package) {
	for _, name := range pkg.Scope().Names() {
		o, ok := pkg.Scope().Lookup(name).(*types.TypeName)
		if !ok {
			continue
		}
		named, ok := o.Type().(*types.Named)
		if !ok || named.TypeParams().Len() > 0 {
			continue
		}
		if i, ok := named.Underlying().(*types.Interface); ok {
			for m := range i.Methods() {
				all[m.Name()] = append(all[m.Name()], i)
			}
		}
	}
}

// implements reports whether one of the interfaces with the method asks for it of named.
func implements(named *types.Named, method string, interfaces map[string][]*types.Interface) bool {
	if slices.Contains([]string{"Error", "Unwrap", "Is", "Equal"}, method) {
		return true // of error, which is in no package, of errors, which gives them no name, and of who compares by reflection
	}
	return slices.ContainsFunc(interfaces[method], func(i *types.Interface) bool {
		return types.Implements(named, i) || types.Implements(types.NewPointer(named), i)
	})
}

// use notes that pkg uses o, which is another package's.
func use(used map[string]bool, pkg *types.Package, o types.Object) {
	if o.Pkg() == nil || o.Pkg() == pkg || !strings.HasPrefix(o.Pkg().Path(), module) {
		return
	}
	if f, ok := o.(*types.Func); ok {
		o = f.Origin()
	}
	used[nameOf(o)] = true
}

// useType notes that pkg uses a type, and those that it is made of.
func useType(used map[string]bool, seen map[types.Type]bool, pkg *types.Package, t types.Type) {
	if seen[t] {
		return
	}
	seen[t] = true
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		use(used, pkg, t.Obj())
		s, ok := t.Underlying().(*types.Struct)
		if !ok || t.Obj().Pkg() == pkg {
			return
		}
		for f := range s.Fields() { // which JSON shows, for one
			if f.Exported() {
				useType(used, seen, pkg, f.Type())
			}
		}
	case interface{ Elem() types.Type }:
		useType(used, seen, pkg, t.Elem())
	case *types.Tuple:
		for v := range t.Variables() {
			useType(used, seen, pkg, v.Type())
		}
	}
}

// nameOf is package.Name, or package.Type.Method.
func nameOf(o types.Object) string {
	path := strings.TrimPrefix(o.Pkg().Path(), module)
	if f, ok := o.(*types.Func); ok {
		if r := f.Signature().Recv(); r != nil {
			t := r.Type()
			if p, ok := t.(*types.Pointer); ok {
				t = p.Elem()
			}
			if named, ok := t.(*types.Named); ok {
				return fmt.Sprintf("%s.%s.%s", path, named.Obj().Name(), o.Name())
			}
		}
	}
	return path + "." + o.Name()
}
