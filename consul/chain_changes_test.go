package consul

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

// chainsOf are the chains of contents and where they lead: "api/http: other.dc1".
func chainsOf(c catalog.Contents) string {
	var out []string
	for _, k := range c.Chains {
		out = append(out, fmt.Sprintf("%s/%s/%s: %s", k.Service.Service, k.Datacenter, k.Protocol, strings.Join(slices.Sorted(maps.Keys(k.Targets)), " ")))
	}
	return strings.Join(out, "; ")
}

// partsOf are the endpoints of contents: "api&v1 10.0.0.1:1/1/true".
func partsOf(c catalog.Contents) string {
	var out []string
	for _, e := range c.Endpoints {
		out = append(out, group{name: e.Name, datacenter: e.Datacenter, subset: e.Subset}.published()+" "+addresses(e.List))
	}
	return strings.Join(out, "; ")
}

// at is an instance that answers at a port, with its checks' status.
func at(port int, status string) object {
	return object{"Node": object{"Node": "n1", "Address": "10.0.0.1"}, "Service": object{"ID": fmt.Sprint("i", port), "Port": port}, "Checks": []object{{"Status": status}}}
}

const (
	filterV1 = "&Service.Meta.version == v1"
	filterV2 = "&Service.Meta.version == v2"
	both     = "api-1-sidecar-proxy, web-sidecar-proxy api"
)

// A chain is published with the endpoints of its targets, once they are known: until then the one before holds, and its endpoints.
func TestChainChanges(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
		f.set("/v1/health/connect/api", []any{at(1, "passing")})
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "warning")})
		f.set("/v1/health/connect/api"+filterV2, []any{at(2, "passing")})
		f.set("/v1/health/connect/other", []any{at(3, "passing")})
		p, _ := running(t, a)
		expect := func(what, chains, endpoints string) {
			t.Helper()
			if got := p.must(t); chainsOf(got) != chains || partsOf(got) != endpoints || ids(got) != both {
				t.Errorf("%s: proxies %s, chains %s\nendpoints %s\nwant chains %s\nendpoints %s\n%s", what, ids(got), chainsOf(got), partsOf(got), chains, endpoints, problems(a))
			}
		}
		after(time.Second)
		expect("the default one", "", "api 10.0.0.1:1/1/true")
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"v1.api.dc1"}, []string{"v2.api.dc1", "other.dc1"}))
		after(time.Second)
		split := "api/dc1/http: other.dc1 v1.api.dc1 v2.api.dc1"
		expect("split", split, "api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true; other 10.0.0.1:3/1/true")
		before := p.must(t)
		f.set("/v1/health/connect/api"+filterV2, []any{at(2, "passing"), at(22, "critical")})
		after(time.Second)
		expect("an instance of a subset", split, "api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true 10.0.0.1:22/1/false; other 10.0.0.1:3/1/true")
		if now := p.must(t); now.Chains[0] != before.Chains[0] || now.Endpoints[0] != before.Endpoints[0] || now.Endpoints[1] == before.Endpoints[1] || now.Proxies[1] != before.Proxies[1] {
			t.Error("more changed than the endpoints of one subset")
		}
		// What nobody is led to any more is not asked for.
		n := len(f.of("/v1/health/connect/api"))
		f.set("/v1/health/connect/api", []any{})
		after(time.Second)
		if got := len(f.of("/v1/health/connect/api")); got != n {
			t.Errorf("the whole of api was asked for %d times more", got-n)
		}
		// Instances with a warning are none of a subset with OnlyPassing.
		passing := splitOf("api", []string{"v1.api.dc1"}, []string{"v2.api.dc1", "other.dc1"})
		targetIn(passing, "v1.api.dc1")["Subset"] = object{"Filter": "Service.Meta.version == v1", "OnlyPassing": true}
		f.set("/v1/discovery-chain/api", passing)
		after(time.Second)
		expect("OnlyPassing", split, "api?subset=v1 10.0.0.1:1/1/false; api?subset=v2 10.0.0.1:2/1/true 10.0.0.1:22/1/false; other 10.0.0.1:3/1/true")
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "passing")})
		after(time.Second)
		expect("passing", split, "api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true 10.0.0.1:22/1/false; other 10.0.0.1:3/1/true")
		// Another filter: until it has been answered the endpoints of before stay.
		other := splitOf("api", []string{"v1.api.dc1"}, []string{"other.dc1"})
		targetIn(other, "v1.api.dc1")["Subset"] = object{"Filter": "Service.Tags contains canary"}
		const canary = "/v1/health/connect/api&Service.Tags contains canary"
		release := make(chan struct{})
		f.set(canary, []any{at(4, "passing")})
		f.hook(canary, func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return false
		})
		f.set("/v1/discovery-chain/api", other)
		after(3 * time.Second)
		expect("not known yet", split, "api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true 10.0.0.1:22/1/false; other 10.0.0.1:3/1/true")
		close(release)
		after(time.Second)
		expect("another filter", "api/dc1/http: other.dc1 v1.api.dc1", "api?subset=v1 10.0.0.1:4/1/true; other 10.0.0.1:3/1/true")
		if strings.Contains(problems(a), "chain") {
			t.Errorf("problems\n%s", problems(a))
		}
		// The default one again.
		f.set("/v1/health/connect/api", []any{at(5, "passing")})
		f.file("/v1/discovery-chain/api", "chain-api.json")
		after(time.Second)
		expect("the default one again", "", "api 10.0.0.1:5/1/true")
		if !p.every(func(c catalog.Contents) bool {
			return !strings.Contains(partsOf(c)+";", " ;") && strings.HasSuffix(both, ids(c))
		}) {
			t.Error("endpoints or upstreams were gone for a while")
		}
		for name := range a.known.endpoints {
			if name != "api" {
				t.Errorf("%s is still asked for", name)
			}
		}
	})
}

// What cannot be known of a chain holds back its change for a moment, and what is known is not held back by that; a chain of whose targets none is known
// changes nothing.
func TestChainWaits(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
		f.set("/v1/health/connect/api", []any{at(1, "passing")})
		f.refuse("/v1/health/connect/api"+filterV1, http.StatusInternalServerError) // as where the filter is none
		p, _ := running(t, a)
		after(time.Second)
		f.set("/v1/discovery-chain/api", chainOf("api", "v1.api.dc1", "api.dc1"))
		after(3 * time.Second)
		if got := chainsOf(p.must(t)); got != "" {
			t.Errorf("not waited for: %s", got)
		}
		after(5 * time.Second)
		if got := p.must(t); chainsOf(got) != "api/dc1/http: api.dc1 v1.api.dc1" || partsOf(got) != "api 10.0.0.1:1/1/true; api?subset=v1 " {
			t.Errorf("chains %s, endpoints %s", chainsOf(got), partsOf(got))
		}
		for _, want := range []string{
			"discovery chain of api: the endpoints of api?filter=Service.Meta.version == v1 are not known yet: it goes on without them",
			"endpoints of api?filter=Service.Meta.version == v1: cannot be read: ",
		} {
			if !strings.Contains(problems(a), want) {
				t.Errorf("problems\n%s\nwant %s", problems(a), want)
			}
		}
		// What was waited for once is not waited for again.
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"v1.api.dc1"}, []string{"api.dc1"}))
		after(100 * time.Millisecond)
		if got := p.must(t); got.Chains[0].Nodes["splitter:api"] == nil {
			t.Errorf("%v", got.Chains[0])
		}
		f.set("/v1/discovery-chain/api", chainOf("api", "v1.api.dc1"))
		after(10 * time.Second)
		if got := chainsOf(p.must(t)); got != "api/dc1/http: api.dc1 v1.api.dc1" {
			t.Errorf("a chain of which no endpoints are known: %s", got)
		}
		if want := "discovery chain of api: of the endpoints that it leads to now none are known yet: what it was before holds"; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		f.set("/v1/health/connect/api"+filterV1, []any{at(6, "passing")})
		after(10 * time.Second)
		if got := p.must(t); chainsOf(got) != "api/dc1/http: v1.api.dc1" || partsOf(got) != "api?subset=v1 10.0.0.1:6/1/true" {
			t.Errorf("chains %s, endpoints %s", chainsOf(got), partsOf(got))
		}
	})
}

// A target in a datacenter that Consul does not know has no endpoints, and nothing waits for them.
func TestChainElsewhere(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
		f.set("/v1/health/connect/api", []any{at(1, "passing")})
		f.refuse("/v1/health/connect/api?dc2", http.StatusInternalServerError)
		p, _ := running(t, a)
		after(time.Second)
		f.set("/v1/discovery-chain/api", chainOf("api", "api.dc1", "api.dc2"))
		after(100 * time.Millisecond)
		if got := p.must(t); partsOf(got) != "api 10.0.0.1:1/1/true; api?dc=dc2 " || len(got.Chains) != 1 {
			t.Errorf("chains %s, endpoints %s", chainsOf(got), partsOf(got))
		}
		if want := `discovery chain of api: the datacenter "dc2" is not known to Consul: its target there has no endpoints`; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		if n := len(f.of("/v1/health/connect/api?dc2")); n > 0 || !a.Status().StaleSince.IsZero() {
			t.Errorf("asked %d times for what is in no datacenter; stale since %v", n, a.Status().StaleSince)
		}
		f.set("/v1/catalog/datacenters", []string{"dc1", "dc2"})
		f.set("/v1/health/connect/api?dc2", farInstances("passing"))
		after(2 * time.Minute)
		if got := p.must(t); partsOf(got) != "api 10.0.0.1:1/1/true; api?dc=dc2 "+farAddress {
			t.Errorf("endpoints %s", partsOf(got))
		}
		if !p.every(func(c catalog.Contents) bool { return strings.HasSuffix(both, ids(c)) }) {
			t.Error("the upstream was gone for a while")
		}
		f.set("/v1/discovery-chain/api", func() object {
			c := chainOf("api", "api.dc1", "api.dc2")
			targetIn(c, "api.dc2")["MeshGateway"] = object{"Mode": "local"}
			return c
		}())
		after(time.Second)
		if got := p.must(t); partsOf(got) != "api 10.0.0.1:1/1/true" || len(got.Chains) != 1 || len(got.Chains[0].Targets) != 2 {
			t.Errorf("by a gateway: chains %s, endpoints %s", chainsOf(got), partsOf(got))
		}
		if want := "discovery chain of api: the target api.dc2 is dialled through mesh gateways (mode local), which are not supported yet: it has no endpoints"; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
	})
}

// An upstream that speaks something else than the service does has the chain that Consul compiles for that.
func TestChainOverridden(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh() // web speaks tcp to api
		f.set("/v1/health/connect/api", []any{at(1, "passing")})
		f.set("/v1/health/connect/other", []any{at(3, "passing")})
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"v1.api.dc1"}, []string{"other.dc1"}))
		tcp := chainOf("api", "api.dc1", "other.dc1")
		tcp["Chain"].(object)["Protocol"], tcp["Chain"].(object)["CustomizationHash"] = "tcp", "96f2c150"
		f.set("/v1/discovery-chain/api&tcp", tcp)
		p, _ := running(t, a)
		after(time.Second)
		got := p.must(t)
		if chainsOf(got) != "api/dc1/tcp: api.dc1 other.dc1" || partsOf(got) != "api 10.0.0.1:1/1/true; other 10.0.0.1:3/1/true" || ids(got) != both {
			t.Errorf("proxies %s, chains %s, endpoints %s\n%s", ids(got), chainsOf(got), partsOf(got), problems(a))
		}
		v := new(catalog.View).Next(got)
		if u := v.Proxy("web-sidecar-proxy").Upstreams[0]; u.Chain == nil || u.Chain.Customization != "96f2c150" || u.Service.Protocol != catalog.HTTP || len(u.Chain.Endpoints["other.dc1"].List) != 1 {
			t.Errorf("%+v", u)
		}
		// It waits at the agent as any other.
		n := len(f.of("/v1/discovery-chain/api&tcp"))
		after(time.Minute)
		if now := len(f.of("/v1/discovery-chain/api&tcp")); n != 2 || now != n {
			t.Errorf("asked %d times, and then %d", n, now)
		}
		f.set("/v1/discovery-chain/api&tcp", func() object {
			c := chainOf("api", "other.dc1")
			c["Chain"].(object)["Protocol"] = "tcp"
			return c
		}())
		after(time.Second)
		if got := p.must(t); chainsOf(got) != "api/dc1/tcp: other.dc1" {
			t.Errorf("chains %s", chainsOf(got))
		}
		// The default chain is that whatever is spoken.
		f.set("/v1/discovery-chain/api", edit(t, "chain-api.json", `"Protocol": "tcp"`, `"Protocol": "http"`))
		after(time.Second)
		if got := p.must(t); chainsOf(got) != "" || got.Proxies[1].Upstreams[0].Protocol != (catalog.OptionalProtocol{Set: true}) || a.known.chains["api?protocol=tcp"] != nil {
			t.Errorf("chains %s, %+v", chainsOf(got), got.Proxies[1].Upstreams[0])
		}
	})
}

// A chain that is not the default one any more comes into force for those who speak something else when theirs is known, and until then what they dial
// stays; another one is not held back by that for longer than a moment.
func TestChainOverriddenLater(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh() // web speaks tcp to api
		f.set("/v1/discovery-chain/api", edit(t, "chain-api.json", `"Protocol": "tcp"`, `"Protocol": "http"`))
		f.set("/v1/health/connect/api", []any{at(1, "passing")})
		f.set("/v1/health/connect/other", []any{at(3, "passing")})
		tcp := chainOf("api", "other.dc1")
		tcp["Chain"].(object)["Protocol"] = "tcp"
		release := make(chan struct{})
		f.set("/v1/discovery-chain/api&tcp", tcp)
		f.hook("/v1/discovery-chain/api&tcp", func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return false
		})
		p, _ := running(t, a)
		after(time.Second)
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"api.dc1"}, []string{"other.dc1"}))
		after(3 * time.Second)
		if got := p.must(t); ids(got) != both || chainsOf(got) != "" || partsOf(got) != "api 10.0.0.1:1/1/true" {
			t.Errorf("not known yet: proxies %s, chains %s, endpoints %s", ids(got), chainsOf(got), partsOf(got))
		}
		close(release)
		after(time.Second)
		if got := p.must(t); ids(got) != both || chainsOf(got) != "api/dc1/tcp: other.dc1" || partsOf(got) != "other 10.0.0.1:3/1/true" {
			t.Errorf("known: proxies %s, chains %s, endpoints %s", ids(got), chainsOf(got), partsOf(got))
		}
		if !p.every(func(c catalog.Contents) bool { return strings.HasSuffix(both, ids(c)) }) {
			t.Error("the upstream was gone for a while")
		}
	})
}

// The mode of mesh gateways that those who dial say goes before the chain's, if they all say the same.
func TestChainByGateway(t *testing.T) {
	for name, c := range map[string]struct {
		first, second string // modes of two proxies' upstreams
		want          string // the endpoints
		ids           string
		problem       string
	}{
		"none":   {"none", "none", "api 10.0.0.1:1/1/true; api?dc=dc2 " + farAddress, "a-proxy api, b-proxy api", ""},
		"local":  {"local", "local", "api 10.0.0.1:1/1/true", "a-proxy api, b-proxy api", "discovery chain of api: the target api.dc2 is dialled through mesh gateways (mode local), which are not supported yet: it has no endpoints"},
		"differ": {"none", "local", "api 10.0.0.1:1/1/true; api?dc=dc2 " + farAddress, "a-proxy api, b-proxy", "upstream api: service b-proxy: it is dialled through mesh gateways (mode local), which are not supported yet: its listener is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				f.set("/v1/catalog/datacenters", []string{"dc1", "dc2"})
				var list []any
				for name, mode := range map[string]string{"a": c.first, "b": c.second} {
					list = append(list, object{"Kind": "connect-proxy", "ID": name + "-proxy", "Service": name + "-proxy", "Port": 21000, "Proxy": object{
						"DestinationServiceName": "web", "LocalServicePort": 80,
						"Upstreams": []object{{"DestinationName": "api", "LocalBindPort": 5000, "MeshGateway": object{"Mode": mode}}},
					}})
				}
				f.set("/v1/catalog/node-services/n1", object{"Node": object{"Node": "n1", "Datacenter": "dc1"}, "Services": list})
				f.set("/v1/discovery-chain/api", chainOf("api", "api.dc1", "api.dc2"))
				f.set("/v1/health/connect/api", []any{at(1, "passing")})
				f.set("/v1/health/connect/api?dc2", farInstances("passing"))
				p, _ := running(t, a)
				after(time.Second)
				if got := p.must(t); partsOf(got) != c.want || ids(got) != c.ids {
					t.Errorf("proxies %s, endpoints %s", ids(got), partsOf(got))
				}
				if c.problem != "" && !strings.Contains(problems(a), c.problem) || c.problem == "" && strings.Contains(problems(a), "gateway") {
					t.Errorf("problems\n%s", problems(a))
				}
			})
		})
	}
}

// Several subsets are watched where queries take turns and chains are asked for when entries were written, as elsewhere.
func TestChainTogether(t *testing.T) {
	bubble(t, crowded, func(t *testing.T, f *fake, a *Agent) {
		f.together()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`))
		f.set("/v1/config/service-splitter", []any{object{"Name": "Api", "ModifyIndex": 7}})
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"v1.api.dc1"}, []string{"v2.api.dc1"}, []string{"other.dc1"}))
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "passing")})
		f.set("/v1/health/connect/api"+filterV2, []any{at(2, "passing")})
		f.set("/v1/health/connect/other", []any{at(3, "passing")})
		p, _ := running(t, a)
		after(5 * time.Second)
		if got := p.must(t); ids(got) != both || partsOf(got) != "api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true; other 10.0.0.1:3/1/true" {
			t.Errorf("proxies %s, endpoints %s, problems\n%s", ids(got), partsOf(got), problems(a))
		}
		// What another service's entries change, the agent tells.
		if all := f.of("/v1/discovery-chain/api"); all[len(all)-1].index == 0 {
			t.Errorf("the chain is not watched: %v", all)
		}
		f.set("/v1/discovery-chain/api", splitOf("api", []string{"v1.api.dc1"}, []string{"other.dc1"}))
		f.set("/v1/health/connect/other", []any{at(4, "passing")})
		after(10 * time.Second)
		if got := p.must(t); partsOf(got) != "api?subset=v1 10.0.0.1:1/1/true; other 10.0.0.1:4/1/true" {
			t.Errorf("endpoints %s", partsOf(got))
		}
		if s := a.Status(); !s.StaleSince.IsZero() {
			t.Errorf("Status() = %+v", s)
		}
	})
}

// The last-known-good file has chains and the endpoints of subsets, and one of before has none.
func TestSavedChains(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	config := func(c *Config) { c.LKGFile = file }
	script := func(t *testing.T, f *fake) {
		t.Helper()
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "passing")})
		f.set("/v1/health/connect/api"+filterV2, []any{at(2, "passing")})
		f.set("/v1/discovery-chain/api", edit(t, "chain-routed.json"))
		f.set("/v1/health/connect/api-old", []any{at(3, "passing")})
		f.set("/v1/catalog/datacenters", []string{"dc1", "dc2"})
		f.set("/v1/health/connect/api?dc2"+filterV1, farInstances("passing"))
	}
	var before catalog.Contents
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		script(t, f)
		p, stop := running(t, a)
		after(10 * time.Second)
		before = p.must(t)
		stop()
	})
	const endpoints = "api-old 10.0.0.1:3/1/true; api?dc=dc2&subset=v1 10.9.0.1:21000/1/true; api?subset=v1 10.0.0.1:1/1/true; api?subset=v2 10.0.0.1:2/1/true"
	if got := sortedParts(before); got != endpoints || len(before.Chains) != 1 {
		t.Fatalf("chains %s, endpoints %s", chainsOf(before), got)
	}
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		same := func(what string) {
			t.Helper()
			got := p.must(t)
			if diff := cmp.Diff(before.Chains, got.Chains); diff != "" || sortedParts(got) != endpoints || ids(got) != ids(before) {
				t.Errorf("%s: proxies %s, endpoints %s, chains (-saved +now):\n%s\n%s", what, ids(got), sortedParts(got), diff, problems(a))
			}
			if s := a.Status(); !s.FromFile {
				t.Errorf("%s: nothing is said of the file", what)
			}
		}
		after(5 * time.Second)
		same("Consul is away")
		script(t, f)
		f.refuse("/v1/discovery-chain/api", http.StatusInternalServerError)
		f.revive()
		after(10 * time.Second)
		same("it answers, but not about the chain")
		f.refuse("/v1/health/connect/api"+filterV1, http.StatusInternalServerError)
		f.refuse("/v1/health/connect/api?dc2"+filterV1, http.StatusInternalServerError)
		f.set("/v1/discovery-chain/api", edit(t, "chain-routed.json"))
		after(20 * time.Second)
		same("and not about two of its targets")
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "passing")})
		f.set("/v1/health/connect/api?dc2"+filterV1, farInstances("passing"))
		after(30 * time.Second)
		p.every(func(c catalog.Contents) bool {
			if len(c.Chains) != 1 || sortedParts(c) != endpoints {
				t.Errorf("in between: chains %s, endpoints %s", chainsOf(c), sortedParts(c))
			}
			return true
		})
		if a.Status().FromFile {
			t.Errorf("it is still said to be the file's: %s", problems(a))
		}
	})
}

func sortedParts(c catalog.Contents) string {
	parts := strings.Split(partsOf(c), "; ")
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// A subset of which every instance turns critical when the agent comes back keeps its last healthy endpoints for a moment, as a service does.
func TestHoldSubset(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"protocol": "tcp"`, `"protocol": "http"`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
		f.set("/v1/discovery-chain/api", chainOf("api", "v1.api.dc1"))
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "passing")})
		p, _ := running(t, a)
		after(time.Minute)
		f.kill()
		after(20 * time.Second)
		f.set("/v1/health/connect/api"+filterV1, []any{at(1, "critical")})
		f.revive()
		after(8 * time.Second)
		if got := partsOf(p.must(t)); got != "api?subset=v1 10.0.0.1:1/1/true" {
			t.Errorf("not held: %s", got)
		}
		after(20 * time.Second)
		if got := partsOf(p.must(t)); got != "api?subset=v1 10.0.0.1:1/1/false" {
			t.Errorf("held for ever: %s", got)
		}
	})
}
