package snapshot_test

import (
	"bytes"
	"encoding/json"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/golden"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// built is a proxy of a case with its resources for one Envoy.
type built struct {
	golden    string // "tcp/web-sidecar-proxy.json"
	in        snapshot.Input
	resources *snapshot.Resources
}

// cases builds every proxy of every directory of testdata, for the newest Envoy and, where it gets
// something else, for the oldest.
func cases(t testing.TB) []built {
	t.Helper()
	var out []built
	for name, in := range inputs(t) {
		in.Envoy = newest
		now := built{golden: name + ".json", in: in, resources: build(t, in)}
		out = append(out, now)
		in.Envoy = oldest
		old := built{golden: name + ".envoy-1.36.json", in: in, resources: build(t, in)}
		if !bytes.Equal(text(t, now.resources), text(t, old.resources)) {
			out = append(out, old)
		}
	}
	return out
}

// inputs yields every proxy of every directory of testdata, "tcp/web-sidecar-proxy", with what its
// resources are made of; the Envoy is left open.
func inputs(t testing.TB) iter.Seq2[string, snapshot.Input] {
	t.Helper()
	dirs, err := filepath.Glob("testdata/*/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range dirs {
		dirs[i] = filepath.Dir(d)
	}
	dirs = slices.DeleteFunc(slices.Compact(dirs), func(d string) bool { return d == filepath.Join("testdata", "fuzz") })
	if len(dirs) == 0 {
		t.Fatal("no cases in testdata")
	}
	return func(yield func(string, snapshot.Input) bool) {
		for _, dir := range dirs {
			contents := load(t, dir)
			for _, p := range contents.Proxies {
				in := project(t, contents, p.ID)
				in.Generation = 7
				if !yield(filepath.ToSlash(filepath.Join(filepath.Base(dir), string(p.ID))), in) {
					return
				}
			}
		}
	}
}

func load(t testing.TB, dir string) catalog.Contents {
	t.Helper()
	// The goldens lie beside the definitions, and would be read as such.
	only := t.TempDir()
	definitions, err := filepath.Glob(filepath.Join(dir, "*.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range definitions {
		b, err := os.ReadFile(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(only, filepath.Base(d)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	contents, err := files.Load(files.Config{Dir: only, TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain)})
	if err != nil {
		t.Fatalf("%s:\n%v", dir, err)
	}
	switch filepath.Base(dir) {
	case "datacenters":
		elsewhere(&contents)
	case "federated":
		contents.Mesh.Federated = []spiffeid.TrustDomain{tdB, spiffeid.RequireTrustDomainFromString("td-c.example")}
	}
	return contents
}

func project(t testing.TB, c catalog.Contents, id identity.ProxyID) snapshot.Input {
	t.Helper()
	w := (&catalog.View{}).Next(c).Proxy(id)
	if w == nil {
		t.Fatalf("no proxy %s", id)
	}
	return snapshot.Input{ProxyView: w}
}

func TestGolden(t *testing.T) {
	dir := golden.New(t, "testdata", ".json")
	for _, c := range cases(t) {
		t.Run(c.golden, func(t *testing.T) { dir.Equal(t, c.golden, text(t, c.resources)) })
	}
}

// text is r for people: JSON with sorted keys. Versions are part of it, as another version of a
// listener drains its connections.
func text(t testing.TB, r *snapshot.Resources) []byte {
	t.Helper()
	type secret struct {
		Leaf    string            `json:"leaf,omitempty"`
		Version string            `json:"version,omitempty"`
		Domains string            `json:"trust_domains,omitempty"`
		Names   []json.RawMessage `json:"subject_alt_names,omitempty"`
	}
	type entry struct {
		Version  string          `json:"version"`
		Resource json.RawMessage `json:"resource"`
	}
	out := struct {
		Warnings  []string                    `json:"warnings,omitempty"`
		Secrets   map[string]secret           `json:"secrets"`
		Resources map[string]map[string]entry `json:"resources"`
	}{Warnings: r.Warnings, Secrets: map[string]secret{}, Resources: map[string]map[string]entry{}}
	raw := func(m proto.Message) json.RawMessage {
		b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var v any // protojson varies its spaces on purpose
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		var sorted bytes.Buffer
		e := json.NewEncoder(&sorted)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		return sorted.Bytes()
	}
	for _, s := range r.Secrets {
		o := secret{Version: s.Version}
		if !s.Leaf.ID().IsZero() {
			o.Leaf = s.Leaf.String()
		}
		for _, td := range append(slices.Clone(s.Federated), s.TrustDomain) {
			o.Domains = strings.TrimSpace(o.Domains + " " + td.Name())
		}
		for _, m := range sans(t, s) {
			o.Names = append(o.Names, raw(m))
		}
		out.Secrets[s.Name] = o
	}
	for url, byName := range r.ByType {
		short := url[strings.LastIndex(url, ".")+1:]
		out.Resources[short] = map[string]entry{}
		for _, resource := range byName {
			m, err := resource.Resource.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			out.Resources[short][resource.GetName()] = entry{Version: resource.Version, Resource: raw(m)}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// all yields the resources of r in a fixed order.
func all(r *snapshot.Resources) []*discoveryv3.Resource {
	var out []*discoveryv3.Resource
	for _, url := range slices.Sorted(maps.Keys(r.ByType)) {
		out = append(out, r.ByType[url]...)
	}
	return out
}

// TestGoldenCasesHaveProxies: a directory whose files were lost would compare nothing.
func TestGoldenCasesHaveProxies(t *testing.T) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range cases(t) {
		seen[filepath.Dir(c.golden)] = true
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "fuzz" && !seen[e.Name()] {
			t.Errorf("testdata/%s has no proxy", e.Name())
		}
	}
}
