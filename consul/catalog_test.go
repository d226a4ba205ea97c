package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// edit is the JSON of a file of testdata with some of its text replaced.
func edit(t *testing.T, name string, pairs ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(s, pairs[i]) {
			t.Fatalf("%s does not contain %s", name, pairs[i])
		}
		s = strings.ReplaceAll(s, pairs[i], pairs[i+1])
	}
	if !json.Valid([]byte(s)) {
		t.Fatalf("%s is no JSON any more: %s", name, s)
	}
	return []byte(s)
}

var filtered = map[string]string{"X-Consul-Results-Filtered-By-Acls": "true"}

// An answer that ACLs filtered, or that has no index, takes nothing away; a whole one does.
func TestNotAuthoritative(t *testing.T) {
	for name, header := range map[string]map[string]string{"filtered": filtered, "no index": {"X-Consul-Index": ""}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				p, _ := running(t, a)
				after(time.Second)
				before := p.must(t)
				f.script("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1", "Datacenter": "dc1"}, "Services": []any{}}, header)
				f.script("/v1/health/connect/api", []any{}, header)
				f.script("/v1/connect/intentions/match?api", map[string]any{"api": []any{}}, header)
				after(30 * time.Second)
				if got := p.must(t); ids(got) != ids(before) || endpointsOf(got, "api") != endpointsOf(before, "api") || len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) {
					t.Errorf("after it: %s, %s, %v", ids(got), endpointsOf(got, "api"), got.Intentions)
				}
				if got := strings.Join(a.Status().Filtered, ", "); name == "filtered" && got != "endpoints of api, service-intentions/api, services of node n1" {
					t.Errorf("Filtered = %s", got)
				}
				// What it says anew is taken in.
				f.script("/v1/connect/intentions/match?api", edit(t, "match-api.json", `"Action": "allow"`, `"Action": "deny"`), header)
				after(10 * time.Second)
				for _, i := range catalogtest.Intentions(p.must(t)) {
					if i.Source.Peer == "" && i.Action == intention.Allow {
						t.Errorf("still there: %s", i)
					}
				}
				f.set("/v1/health/connect/api", []any{})
				f.set("/v1/connect/intentions/match?api", map[string]any{"api": []any{}})
				after(10 * time.Second)
				if got := p.must(t); endpointsOf(got, "api") != "" || len(catalogtest.Intentions(got)) != 0 { // what was said of all is older
					t.Errorf("after the whole: %s, %v", endpointsOf(got, "api"), got.Intentions)
				}
				f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": []any{}})
				after(10 * time.Second)
				if got := p.must(t); ids(got) != "" {
					t.Errorf("after the whole: %s", ids(got))
				}
			})
		})
	}
}

// A first answer that lacks some intentions could lack those that deny.
func TestFilteredIntentionsAreUnknown(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		b, err := os.ReadFile("testdata/match-api.json")
		if err != nil {
			t.Fatal(err)
		}
		f.script("/v1/connect/intentions/match?api", b, filtered)
		p, _ := running(t, a)
		after(time.Minute)
		if got := ids(p.must(t)); got != "web-sidecar-proxy api" {
			t.Errorf("proxies %q", got)
		}
	})
}

// What went well once stays when Consul answers nonsense, nothing, or no.
func TestLastKnownGood(t *testing.T) {
	for _, code := range []int{403, 500, 503, 404, 200} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				p, _ := running(t, a)
				after(time.Second)
				before := p.must(t)
				for _, path := range []string{
					"/v1/agent/self", "/v1/catalog/datacenters", "/v1/agent/connect/ca/roots", "/v1/catalog/node-services/n1", "/v1/health/connect/api",
					"/v1/discovery-chain/api", "/v1/discovery-chain/web", "/v1/connect/intentions/match?api", "/v1/connect/intentions/match?web",
				} {
					if code == 200 {
						f.set(path, []byte("null"))
					} else {
						f.refuse(path, code)
					}
				}
				after(5 * time.Minute)
				got := p.must(t)
				if ids(got) != ids(before) || endpointsOf(got, "api") != endpointsOf(before, "api") || len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) || got.Mesh.Default != before.Mesh.Default {
					t.Errorf("after it: %s, %s, %v", ids(got), endpointsOf(got, "api"), got.Intentions)
				}
				s := a.Status()
				if s.StaleSince.IsZero() || len(s.Problems) < 7 {
					t.Errorf("Status() = %+v", s)
				}
				f.mesh()
				after(65 * time.Second)
				if s := a.Status(); !s.StaleSince.IsZero() || len(s.Problems) != 2 {
					t.Errorf("after it went well again: %+v", s)
				}
			})
		})
	}
}

func TestStale(t *testing.T) {
	for name, header := range map[string]map[string]string{
		"no leader":         {"X-Consul-Knownleader": "false"},
		"long ago":          {"X-Consul-Lastcontact": "30000"},
		"of an agent alone": {"Age": "40"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			bubble(t, func(c *Config) { c.Registerer = registry }, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				p, _ := running(t, a)
				after(time.Second)
				if got := testutil.ToFloat64(gauge(t, a)); got != 0 {
					t.Errorf("staleness %v, want 0", got)
				}
				f.script("/v1/health/connect/api", []byte("[]"), header)
				after(time.Second)
				if got := testutil.ToFloat64(gauge(t, a)); got < 1 {
					t.Errorf("staleness %v", got)
				}
				if got := endpointsOf(p.must(t), "api"); got != "" {
					t.Errorf("a stale answer is not taken: %s", got)
				}
				f.set("/v1/health/connect/api", []byte("[]"))
				after(time.Second)
				if got := testutil.ToFloat64(gauge(t, a)); got != 0 {
					t.Errorf("staleness %v, want 0", got)
				}
			})
			families, err := registry.Gather()
			if err != nil || len(families) != 3 {
				t.Errorf("%d metrics, %v", len(families), err)
			}
		})
	}
}

// Answers of the streaming backend say of the leader nothing but false.
func TestStreamingIsNotStale(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.script("/v1/health/connect/api", []byte("[]"), map[string]string{"X-Consul-Knownleader": "false", "X-Consul-Query-Backend": "streaming"})
		running(t, a)
		after(time.Second)
		if s := a.Status(); !s.StaleSince.IsZero() {
			t.Errorf("stale since %s", s.StaleSince)
		}
	})
}

func gauge(t *testing.T, a *Agent) prometheus.Collector {
	t.Helper()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x", Help: "x"}, a.staleness)
}

func TestDefaultPolicy(t *testing.T) {
	allow := map[string]string{"X-Consul-Default-Acl-Policy": "allow"}
	none := map[string]string{"X-Consul-Default-Acl-Policy": ""}
	for name, c := range map[string]struct {
		policy string // of the agent's configuration; "403": cannot be read
		header map[string]string
		want   intention.Action
		text   string
	}{
		"acl default deny":           {want: intention.Deny},
		"acl default allow":          {header: allow, want: intention.Allow},
		"intentions allow":           {policy: "allow", want: intention.Allow},
		"intentions deny":            {policy: "deny", header: allow, want: intention.Deny},
		"neither is said":            {header: none, want: intention.Deny, text: "neither default_intention_policy"},
		"unreadable, and ACLs allow": {policy: "403", header: allow, want: intention.Deny, text: "cannot be read (it needs agent:read)"},
		"unreadable, and ACLs deny":  {policy: "403", want: intention.Deny},
		"something else":             {policy: "maybe", header: allow, want: intention.Deny},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c *Config) { c.Node = "n1" }, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				if c.header != nil {
					for path, s := range f.answers { // nobody asks yet
						f.script(path, s.body, c.header)
					}
				}
				f.script("/v1/config/mesh/mesh", map[string]any{"Kind": "mesh"}, c.header)
				if c.policy == "403" {
					f.refuse("/v1/agent/self", 403)
					f.answers["/v1/agent/self"].header = c.header
				} else {
					f.script("/v1/agent/self", edit(t, "self.json", `"DefaultIntentionPolicy": ""`, `"DefaultIntentionPolicy": "`+c.policy+`"`), c.header)
				}
				p, _ := running(t, a)
				after(time.Second)
				if got := p.must(t).Mesh.Default; got != c.want {
					t.Errorf("default %s, want %s", got, c.want)
				}
				if !strings.Contains(problems(a), c.text) {
					t.Errorf("problems\n%s", problems(a))
				}
			})
		})
	}
}

// Without agent:read the agent does not say what its node is called, and its own services are polled.
func TestNodeless(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.refuse("/v1/agent/self", 403)
		var list struct{ Services []map[string]any }
		if err := json.Unmarshal(edit(t, "node-services.json"), &list); err != nil {
			t.Fatal(err)
		}
		own := map[string]any{}
		for _, s := range list.Services {
			s["Datacenter"] = "dc1"
			own[s["ID"].(string)] = s
		}
		f.set("/v1/agent/services", own)
		p, _ := running(t, a)
		after(2 * time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" {
			t.Errorf("proxies %q", got)
		}
		delete(own, "web-sidecar-proxy")
		f.set("/v1/agent/services", own)
		after(7 * time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy" {
			t.Errorf("proxies %q", got)
		}
		// With the right the node is watched.
		f.file("/v1/agent/self", "self.json")
		after(2 * time.Minute)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" || a.Status().Node != "n1" {
			t.Errorf("proxies %q, node %q", got, a.Status().Node)
		}
	})
}

// Watches are shared, and end with the last proxy that needs them.
func TestWatchesAreShared(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		services := []any{}
		for i := range 20 {
			services = append(services, map[string]any{
				"Kind": "connect-proxy", "ID": fmt.Sprintf("web-%d-proxy", i), "Service": "web-proxy", "Port": 20000 + i,
				"Proxy": map[string]any{
					"DestinationServiceName": "web", "LocalServicePort": 8080,
					"Upstreams": []any{map[string]any{"DestinationName": "api", "LocalBindPort": 5000}},
				},
			})
		}
		f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": services})
		p, _ := running(t, a)
		after(10 * time.Second)
		if n := len(p.must(t).Proxies); n != 20 {
			t.Fatalf("%d proxies", n)
		}
		if n := a.Status().Queries; n != 6+4 { // chains of web and api, endpoints of api, intentions of web
			t.Errorf("%d queries", n)
		}
		for _, path := range []string{"/v1/health/connect/api", "/v1/discovery-chain/api", "/v1/connect/intentions/match?web"} {
			if n := len(f.of(path)); n != 2 {
				t.Errorf("%d requests for %s", n, path)
			}
		}
		f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": services[:1]})
		after(time.Second)
		if n := a.Status().Queries; n != 10 || len(p.must(t).Proxies) != 1 {
			t.Errorf("%d queries, %s", n, ids(p.must(t)))
		}
		f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": []any{}})
		after(time.Second)
		if n := a.Status().Queries; n != 6 || len(p.must(t).Services) != 0 {
			t.Errorf("%d queries", n)
		}
		if n, _ := f.counts(); n > 6 {
			t.Errorf("%d requests wait at the agent", n)
		}
	})
}

// critical is the endpoints of api with every instance critical.
func critical(t *testing.T) []byte {
	t.Helper()
	return edit(t, "health-api.json", `"Status": "passing"`, `"Status": "critical"`, `"Checks": []`, `"Checks": [{"CheckID": "x", "Status": "critical"}]`)
}

// The intentions for all destinations come with each of them, and the newest answer counts.
func TestWildcardDestination(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/connect/intentions/match?web", edit(t, "match-web.json", `"Action": "deny"`, `"Action": "allow"`))
		f.set("/v1/connect/intentions/match?api", edit(t, "match-api.json", `"Action": "deny"`, `"Action": "allow"`))
		p, _ := running(t, a)
		after(time.Second)
		wildcards := func() string {
			var out []string
			for _, i := range catalogtest.Intentions(p.must(t)) {
				if i.Destination.IsWildcard() {
					out = append(out, i.Action.String())
				}
			}
			return strings.Join(out, " ")
		}
		if got := wildcards(); got != "allow" {
			t.Errorf("wildcards: %s", got)
		}
		f.refuse("/v1/connect/intentions/match?api", 500) // stays with what it had
		f.set("/v1/connect/intentions/match?web", map[string]any{"web": []any{}})
		after(5 * time.Second)
		if got := wildcards(); got != "" {
			t.Errorf("wildcards: %s", got)
		}
		f.file("/v1/connect/intentions/match?web", "match-web.json")
		after(5 * time.Second)
		if got := wildcards(); got != "deny" {
			t.Errorf("wildcards: %s", got)
		}
	})
}

// A stop ends everything at once, whatever is asked.
func TestStop(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.hook("/v1/agent/connect/ca/roots", func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
		_, stop := running(t, a)
		after(time.Second)
		before := time.Now()
		stop()
		if d := time.Since(before); d > time.Second {
			t.Errorf("it took %s", d)
		}
		if err := a.Run(context.Background(), nil); err == nil {
			t.Error("a second Run is allowed")
		}
		synctest.Wait()
	})
}
