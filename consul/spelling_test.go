package consul

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// spell has the entry of the service api spelled API, as `consul config write` may have had it.
func (f *fake) spell(t *testing.T) {
	t.Helper()
	const was, is = `"DestinationName": "api"`, `"DestinationName": "API"`
	f.set("/v1/connect/intentions/match?api", edit(t, "match-api.json", was, is))
	list := f.intentions()
	for i := range list {
		list[i] = json.RawMessage(strings.Replace(string(list[i]), was, is, 1))
	}
	f.set(listPath, list)
}

// What is said of a destination holds for the service whose name differs by letter case alone,
// whether the intentions are read for each destination or together, and whether they come from
// Consul or from the last-known-good file.
func TestSpellings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	same := func(what string, got, want catalog.Contents) {
		t.Helper()
		for _, d := range got.Intentions {
			for _, i := range d.Intentions {
				if i.Destination.Service == "api" && i.Origin != "service-intentions/API" {
					t.Errorf("%s: %s is of %s", what, i, i.Origin)
				}
			}
		}
		if diff := cmp.Diff(catalogtest.Intentions(want), catalogtest.Intentions(got), cmpopts.EquateComparable(spiffeid.TrustDomain{}), cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Origin" }, cmp.Ignore())); diff != "" {
			t.Errorf("%s (-spelled alike +not):\n%s", what, diff)
		}
	}
	var want catalog.Contents
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(time.Second)
		if want = p.must(t); actions(want, "api") == "" {
			t.Fatal("nothing is said of api")
		}
	})
	bubble(t, func(c *Config) { c.LKGFile = file }, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.spell(t)
		p, stop := running(t, a)
		after(10 * time.Second)
		same("each alone", p.must(t), want)
		stop()
	})
	bubble(t, func(c *Config) { c.LKGFile = file }, func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		after(3 * time.Second)
		same("from the file", p.must(t), want)
		f.mesh()
		f.refuse("/v1/connect/intentions/match?api", 500)
		f.revive()
		after(5 * time.Second)
		same("former ones", p.must(t), want)
	})
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		f.spell(t)
		p, _ := running(t, a)
		after(time.Second)
		same("together", p.must(t), want)
		// A list from which something is left out takes nothing away, nor does the answer about one.
		f.script(listPath, []any{}, filtered)
		f.script("/v1/connect/intentions/match?api", map[string]any{"api": []any{}}, filtered)
		after(time.Minute)
		same("filtered", p.must(t), want)
	})
}

// Names are compared in lower case as Consul's servers make it: a Kelvin sign is a k, a long s is none.
func TestFoldedAsInConsul(t *testing.T) {
	const source = `{"SourceName": "web", "Action": "deny", "SourceType": "consul", "DestinationName": `
	for entry, holds := range map[string]bool{"kiosk": true, "KIOSK": true, "Kios\u212a": true, "kio\u017fk": false, "kiosk-2": false} {
		text, err := json.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		for _, asked := range []string{"kiosk", "Kiosk"} {
			m, err := decodeIntentions(asked)([]byte(`{"` + asked + `": [` + source + string(text) + `}]}`))
			if err != nil || (m.own != nil) != holds {
				t.Errorf("%q for %s: %v, %v", entry, asked, m.own, err)
			}
			if m.own != nil && (m.own.Name.Service != asked || m.own.Intentions[0].Destination != m.own.Name || len(m.own.Intentions) != 1) {
				t.Errorf("%q for %s: %+v", entry, asked, m.own)
			}
		}
	}
}
