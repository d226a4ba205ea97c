package consul

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// crowded has an Agent watch what it can for all names at once.
func crowded(c *Config) { c.MaxQueries = 3 }

const (
	listPath     = "/v1/connect/intentions"
	defaultsPath = "/v1/config/service-defaults"
	routersPath  = "/v1/config/service-router"
)

// together scripts what mesh says, as lists.
func (f *fake) together() {
	f.mesh()
	for _, kind := range entryKinds {
		f.set("/v1/config/"+kind, []any{})
	}
	f.set(defaultsPath, []any{map[string]any{"Kind": "service-defaults", "Name": "Web", "ModifyIndex": 5}})
	f.set(listPath, f.intentions())
}

// intentions are those of testdata, each once.
func (f *fake) intentions() []json.RawMessage {
	list := []json.RawMessage{}
	for _, name := range []string{"api", "web"} {
		b, err := os.ReadFile(filepath.Join("testdata", "match-"+name+".json"))
		if err != nil {
			f.t.Fatal(err)
		}
		m, err := decodeJSON[map[string][]json.RawMessage](b)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, i := range m[name] {
			if !slices.ContainsFunc(list, func(o json.RawMessage) bool { return string(o) == string(i) }) {
				list = append(list, i)
			}
		}
	}
	// Of a destination that is not this node's: should it come all the same, it is nobody's business here.
	return append(list, json.RawMessage(`{"SourceName": "web", "DestinationName": "elsewhere", "SourceType": "consul", "Action": "allow"}`))
}

// Whether things are watched each alone or all together, the same is known.
func TestTogetherIsTheSame(t *testing.T) {
	var each, together catalog.Contents
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(time.Second)
		each = p.must(t)
	})
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		var filter string
		f.hook(listPath, func(_ http.ResponseWriter, r *http.Request) bool {
			filter = r.URL.Query().Get("filter")
			if !r.URL.Query().Has("consistent") {
				t.Errorf("%s is not asked for a consistent answer", r.URL)
			}
			return false
		})
		p, _ := running(t, a)
		after(time.Second)
		together = p.must(t)
		if want := "DestinationName matches `^(?i:\\*|api|web)$`"; filter != want {
			t.Errorf("filter %s, want %s", filter, want)
		}
		if s := a.Status(); len(s.Filtered) > 0 || !s.StaleSince.IsZero() || !s.Settled || len(s.Problems) != 2 {
			t.Errorf("Status() = %+v", s)
		}
		for _, r := range f.all() {
			if strings.HasPrefix(r.path, "/v1/connect/intentions/match") || strings.HasPrefix(r.path, "/v1/discovery-chain/") && r.index > 0 {
				t.Errorf("asked for %s with the index %d", r.path, r.index)
			}
		}
		// Nothing is asked while nothing changes.
		before := len(f.all())
		after(3 * time.Minute)
		polls := len(f.of("/v1/agent/self")) + len(f.of("/v1/catalog/datacenters")) + len(f.of("/v1/internal/acl/authorize"))
		if n := len(f.all()) - before; n > polls {
			t.Errorf("%d requests within 3 idle minutes, of which %d are polls", n, polls)
		}
	})
	if diff := cmp.Diff(each, together, cmpopts.EquateComparable(spiffeid.TrustDomain{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(catalog.Contents{}, "Seen")); diff != "" {
		t.Errorf("contents (-each alone +together):\n%s", diff)
	}
}

// actions are the actions of what is said of a destination, by source.
func actions(c catalog.Contents, destination string) string {
	var out []string
	for _, i := range catalogtest.Intentions(c) {
		if i.Destination.Service == destination && i.Source.Peer == "" {
			out = append(out, fmt.Sprintf("%s %s", i.Source.Service, i.Action))
		}
	}
	return strings.Join(out, ", ")
}

func TestIntentionsTogether(t *testing.T) {
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		p, _ := running(t, a)
		after(time.Second)
		all := f.intentions()
		changed := func(old, now string) []json.RawMessage {
			out := slices.Clone(all)
			for i := range out {
				out[i] = json.RawMessage(strings.Replace(string(out[i]), old, now, 1))
			}
			return out
		}
		if got := actions(p.must(t), "api"); got != "admin deny, web allow" {
			t.Fatalf("api: %s", got)
		}
		f.set(listPath, changed(`"Action": "allow"`, `"Action": "deny"`))
		after(50 * time.Millisecond)
		if got := actions(p.must(t), "api"); got != "admin deny, web deny" {
			t.Errorf("api, after a deny: %s", got)
		}
		// What the wildcard says is taken away at once, too.
		f.set(listPath, slices.DeleteFunc(slices.Clone(all), func(i json.RawMessage) bool { return strings.Contains(string(i), `"DestinationName": "*"`) }))
		after(time.Second)
		if got := actions(p.must(t), "*"); got != "" {
			t.Errorf("*: %s", got)
		}
		// An empty list is one that says nothing of anybody; no list at all is none.
		f.set(listPath, []any{})
		after(time.Second)
		if got := p.must(t); len(catalogtest.Intentions(got)) != 0 || ids(got) != "api-1-sidecar-proxy, web-sidecar-proxy api" {
			t.Errorf("%s, %v", ids(got), got.Intentions)
		}
	})
}

// A list that does not say all there is, or none, takes nothing away, and then each destination is asked for alone.
func TestIntentionsApart(t *testing.T) {
	for name, spoil := range map[string]func(f *fake){
		"filtered":  func(f *fake) { f.script(listPath, []any{}, filtered) },
		"no index":  func(f *fake) { f.script(listPath, []any{}, map[string]string{"X-Consul-Index": ""}) },
		"null":      func(f *fake) { f.set(listPath, []byte("null")) },
		"too long":  func(f *fake) { f.set(listPath, []byte(`["`+strings.Repeat("x", 2<<20)+`"]`)) },
		"no filter": func(f *fake) { f.refuse(listPath, http.StatusBadRequest) },
		"gone":      func(f *fake) { f.refuse(listPath, http.StatusNotFound) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c *Config) { crowded(c); c.MaxBody = 1 << 20 }, func(t *testing.T, f *fake, a *Agent) {
				f.together()
				p, _ := running(t, a)
				after(time.Second)
				before := p.must(t)
				spoil(f)
				after(3 * time.Second)
				if len(f.of("/v1/connect/intentions/match?api")) == 0 {
					t.Error("api was not asked for alone")
				}
				if got := p.must(t); len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) || ids(got) != ids(before) {
					t.Errorf("%s, %v", ids(got), got.Intentions)
				}
				if s := a.Status(); len(s.Filtered) > 0 || !s.StaleSince.IsZero() {
					t.Errorf("Status() = %+v", s)
				}
				f.set("/v1/connect/intentions/match?api", map[string]any{"api": []any{}})
				after(10 * time.Second)
				if got := actions(p.must(t), "api"); got != "" {
					t.Errorf("api: %s", got)
				}
				f.set(listPath, f.intentions())
				f.file("/v1/connect/intentions/match?api", "match-api.json")
				after(perNameFor + time.Minute)
				if s := a.Status(); len(s.Filtered) > 0 || !s.StaleSince.IsZero() {
					t.Errorf("Status() = %+v", s)
				}
				if got := p.must(t); len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) {
					t.Errorf("at last: %v", got.Intentions)
				}
				n := len(f.of("/v1/connect/intentions/match?api"))
				f.set(listPath, []any{})
				f.set("/v1/connect/intentions/match?api", map[string]any{"api": []any{}})
				after(10 * time.Second)
				if len(catalogtest.Intentions(p.must(t))) != 0 || len(f.of("/v1/connect/intentions/match?api")) != n {
					t.Error("after a while they are not watched together again")
				}
			})
		})
	}
	// A first one is not taken for the truth, nor is a 403 a reason to ask for each.
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		f.script(listPath, []any{}, filtered)
		f.refuse("/v1/connect/intentions/match?api", http.StatusForbidden)
		p, _ := running(t, a)
		after(10 * time.Second)
		if got := ids(p.must(t)); got != "web-sidecar-proxy api" {
			t.Errorf("proxies %s", got)
		}
	})
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		f.refuse(listPath, http.StatusForbidden)
		p, _ := running(t, a)
		after(10 * time.Second)
		if got := ids(p.must(t)); got != "" || len(f.of("/v1/connect/intentions/match?api")) > 0 {
			t.Errorf("proxies %q", got)
		}
		if !strings.Contains(problems(a), "intentions: cannot be read") || a.Status().StaleSince.IsZero() {
			t.Errorf("problems are\n%s", problems(a))
		}
	})
}

// Chains are asked for again when what they are made of was written, and watched when that is more than defaults.
func TestChainsTogether(t *testing.T) {
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		p, _ := running(t, a)
		after(time.Second)
		asked := func() map[string]int {
			m := map[string]int{}
			for _, s := range []string{"web", "api"} {
				m[s] = len(f.of("/v1/discovery-chain/" + s))
			}
			return m
		}
		protocol := func(name string) catalog.Protocol {
			for _, s := range p.must(t).Services {
				if s.Name.Service == name {
					return s.Protocol
				}
			}
			return 255
		}
		if got, want := asked(), map[string]int{"web": 1, "api": 1}; !maps.Equal(got, want) {
			t.Fatalf("asked %v, want %v", got, want)
		}
		// Of web alone something was written.
		f.set("/v1/discovery-chain/web", edit(t, "chain-web.json", `"Protocol": "http"`, `"Protocol": "grpc"`))
		after(time.Minute)
		f.set(defaultsPath, []any{map[string]any{"Name": "Web", "ModifyIndex": 9}, map[string]any{"Name": "other", "ModifyIndex": 10}})
		after(50 * time.Millisecond)
		if got, want := asked(), map[string]int{"web": 2, "api": 1}; !maps.Equal(got, want) || protocol("web") != catalog.GRPC {
			t.Errorf("asked %v, want %v; web is %s", got, want, protocol("web"))
		}
		// proxy-defaults concern all.
		f.set("/v1/config/proxy-defaults/global", edit(t, "proxy-defaults.json", `"ModifyIndex": 20`, `"ModifyIndex": 77`))
		after(time.Second)
		if got, want := asked(), map[string]int{"web": 3, "api": 2}; !maps.Equal(got, want) {
			t.Errorf("after proxy-defaults: asked %v, want %v", got, want)
		}
		// A router: from now on Consul says when the chain changes.
		f.set(routersPath, []any{map[string]any{"Name": "api", "ModifyIndex": 12}})
		after(time.Second)
		if all := f.of("/v1/discovery-chain/api"); all[len(all)-1].index == 0 {
			t.Errorf("the chain of a service with a router is not watched: %v", all)
		}
		redirected := chainOf("api", "other.dc1")
		redirected["Chain"].(object)["Protocol"] = "tcp"
		f.set("/v1/discovery-chain/api", redirected)
		f.set("/v1/health/connect/other", []any{at(3, "passing")})
		after(time.Second)
		if got := p.must(t); ids(got) != "api-1-sidecar-proxy, web-sidecar-proxy api" || chainsOf(got) != "api/dc1/tcp: other.dc1" || partsOf(got) != "other 10.0.0.1:3/1/true" {
			t.Errorf("proxies %s, chains %s, endpoints %s, problems\n%s", ids(got), chainsOf(got), partsOf(got), problems(a))
		}
		// And gone again.
		f.file("/v1/discovery-chain/api", "chain-api.json")
		f.set(routersPath, []any{})
		after(time.Second)
		n := asked()["api"]
		after(5 * time.Minute)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" || asked()["api"] != n {
			t.Errorf("proxies %s, asked %d, then %d times", got, n, asked()["api"])
		}
	})
	// An agent that comes back may be another one, in which the same numbers mean something else.
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		p, _ := running(t, a)
		after(time.Second)
		f.kill()
		after(time.Minute)
		f.set("/v1/discovery-chain/web", edit(t, "chain-web.json", `"Protocol": "http"`, `"Protocol": "grpc"`))
		f.revive()
		after(5 * time.Second)
		for _, s := range p.must(t).Services {
			if s.Name.Service == "web" && s.Protocol != catalog.GRPC {
				t.Errorf("web is %s", s.Protocol)
			}
		}
	})
	// Where lists are not understood, each is watched alone; where they are only not there yet, nothing is asked.
	for code, want := range map[int]string{http.StatusBadRequest: "api-1-sidecar-proxy, web-sidecar-proxy api", http.StatusInternalServerError: ""} {
		bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
			f.together()
			f.refuse(routersPath, code)
			p, _ := running(t, a)
			after(3 * time.Second)
			if got := ids(p.must(t)); got != want {
				t.Errorf("%d: proxies %q, want %q", code, got, want)
			}
		})
	}
}

// A node that gets more to watch, or less, goes from one manner to the other without forgetting anything.
func TestCrowdComesAndGoes(t *testing.T) {
	bubble(t, func(c *Config) { c.MaxQueries = 5 }, func(t *testing.T, f *fake, a *Agent) { // mesh has 5: two chains, two destinations, one upstream
		f.together()
		p, _ := running(t, a)
		after(time.Second)
		before := p.must(t)
		if n := len(f.of(listPath)); n != 0 {
			t.Errorf("%d lists while there is room for all", n)
		}
		shop := `{"Kind": "connect-proxy", "ID": "shop-sidecar-proxy", "Service": "shop-sidecar-proxy", "Port": 21009, "Proxy": {"DestinationServiceName": "shop", "LocalServicePort": 1}},`
		f.set("/v1/discovery-chain/shop", []byte(strings.ReplaceAll(string(edit(t, "chain-api.json", `"api"`, `"shop"`)), "api.", "shop.")))
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"Services": [`, `"Services": [`+shop))
		after(time.Second)
		if n := len(f.of(listPath)); n == 0 || !strings.Contains(ids(p.must(t)), "shop-sidecar-proxy") {
			t.Errorf("%d lists, proxies %s", n, ids(p.must(t)))
		}
		if !p.every(func(c catalog.Contents) bool {
			return strings.Contains(ids(c), "web-sidecar-proxy api") && actions(c, "api") == "admin deny, web allow" || len(c.Proxies) == 0
		}) {
			t.Error("something was forgotten meanwhile")
		}
		f.file("/v1/catalog/node-services/n1", "node-services.json")
		after(time.Second)
		if n := len(f.of(listPath)); ids(p.must(t)) != ids(before) {
			t.Errorf("%d lists, proxies %s", n, ids(p.must(t)))
		}
		f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": []any{}})
		after(time.Second)
		f.file("/v1/catalog/node-services/n1", "node-services.json")
		after(time.Second)
		n := len(f.of("/v1/connect/intentions/match?api"))
		f.set(listPath, []any{})
		f.set("/v1/connect/intentions/match?api", map[string]any{"api": []any{}})
		after(time.Second)
		if got := actions(p.must(t), "api"); got != "" || len(f.of("/v1/connect/intentions/match?api")) == n {
			t.Errorf("with room again each is watched alone: api %s", got)
		}
	})
}

func TestIntentionFilter(t *testing.T) {
	if got, want := intentionFilter([]string{"a.b", "c-d"}).Get("filter"), "DestinationName matches `^(?i:\\*|a\\.b|c-d)$`"; got != want {
		t.Errorf("filter %s, want %s", got, want)
	}
	var many []string
	for i := range 30_000 {
		many = append(many, fmt.Sprintf("service-%d", i))
	}
	if got := intentionFilter(many); got != nil {
		t.Error("a filter that no server takes")
	}
	for name, want := range map[string]bool{"api": true, "a.b-c_D9": true, "a|b": false, "a`": false, "": false, "*": false, "a\n": false} {
		if got := filterable.MatchString(name); got != want {
			t.Errorf("filterable(%q) = %v", name, got)
		}
	}
}

// What is read of a list is what is read of each intention, also for the second time.
func TestDecodeIntentionList(t *testing.T) {
	decode := decodeIntentionList()
	one := `{"SourceName": "web", "DestinationName": "api", "SourceType": "consul", "Action": "allow"}`
	two := `{"SourceName": "web", "DestinationName": "*", "SourceType": "consul", "Action": "deny"}`
	odd := `{"SourceName": "we/b", "DestinationName": "api", "SourceType": "consul", "Action": "allow"}`
	for range 2 {
		by, err := decode([]byte("[" + one + "," + two + "," + odd + "]"))
		if err != nil || len(by) != 2 || len(by["api"].Intentions) != 1 || by["api"].Intentions[0].Action != intention.Allow || len(by["*"].Intentions) != 1 || by["*"].Intentions[0].Action != intention.Deny {
			t.Fatalf("%v, %v", by, err)
		}
	}
	by, err := decode([]byte("[]"))
	if err != nil || len(by) != 0 {
		t.Errorf("%v, %v", by, err)
	}
	for _, bad := range []string{"null", "{}", "[1]", ""} {
		if _, err := decode([]byte(bad)); err == nil {
			t.Errorf("%q is no list of intentions", bad)
		}
	}
}
