//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

type entry = map[string]any

// serveSeen answers with its name, the path and the header x-leg that it was asked with.
func serveSeen(t *testing.T, name string) *meshtest.Server {
	t.Helper()
	s, err := meshtest.ServeHTTP("127.0.0.1:0", "", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			select {
			case <-r.Context().Done():
			case <-time.After(2 * time.Second):
			}
		}
		fmt.Fprintf(w, "%s %s %s", name, r.URL.Path, r.Header.Get("X-Leg"))
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// versionOf registers one of several instances of a service with Consul, under an ID of its own and with a version in its meta.
func versionOf(m *meshtest.Mesh, c *meshtest.Consul, service, version string, local *meshtest.Server) {
	port := m.Port()
	c.Register(entry{
		"ID": service + "-" + version, "Name": service, "Address": "127.0.0.1", "Port": local.Port(), "Meta": entry{"version": version},
		"Connect": entry{"SidecarService": entry{
			"Address": "127.0.0.1", "Port": port,
			"Checks": []entry{{"Name": "listens", "TCP": fmt.Sprintf("127.0.0.1:%d", port), "Interval": "1s"}},
		}},
	})
}

// asksChain asks once, with headers "name: value", and returns the status and what was said: "200 v1 /x ".
func asksChain(client *http.Client, addr, path string, headers ...string) string {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return err.Error()
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return strconv.Itoa(resp.StatusCode)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

// chainMesh is a mesh beside Consul whose service api has the versions v1 and v2, beside them old, db and spare, and two callers: "web-ours" has a sidecar
// of sallyport, "web-theirs" one under Consul's own control plane.
func chainMesh(t *testing.T, c *meshtest.Consul) *meshtest.Mesh {
	t.Helper()
	m := besideConsul(t, c)
	for _, s := range []string{"api", "old"} {
		c.PutConfig(entry{"Kind": "service-defaults", "Name": s, "Protocol": "http"})
	}
	versionOf(m, c, "api", "v1", serveSeen(t, "v1"))
	versionOf(m, c, "api", "v2", serveSeen(t, "v2"))
	m.Add(meshtest.Service{Name: "old", Local: serveSeen(t, "old"), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "db "), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "spare", Local: serveEcho(t, "spare "), CheckInterval: "1s"})
	both := meshtest.Intentions{"web-ours": "allow", "web-theirs": "allow"}
	for _, s := range []string{"api", "old", "db", "spare"} {
		m.Intend(s, both)
	}
	for _, s := range []string{"web-ours", "web-theirs"} {
		m.Add(meshtest.Service{Name: s, Upstreams: []string{"api", "db"}, CheckInterval: "1s"})
	}
	return m
}

// TestConsulChains: routers, splitters, resolvers with subsets, redirects and failover are served as Consul serves them: the same requests of two
// sidecars, of sallyport and under Consul's own control plane, are answered by the same instances, while they are changed under load.
func TestConsulChains(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := chainMesh(t, c)
	m.Serve()
	m.Sidecars("api-v1", "api-v2", "old", "db", "spare")
	ours := m.Sidecar("web-ours")
	theirs := c.Envoy(m, "web-theirs", time.Second)
	c.AwaitChecks()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	t.Cleanup(client.CloseIdleConnections)
	callers := []string{ours.Name, theirs.Name}

	// expect waits until each question is answered as it should be, whoever asks, five times in a row.
	expect := func(what string, answers map[string]string) {
		t.Helper()
		took := meshtest.Await(t, what, func() error {
			for range 5 {
				for _, caller := range callers {
					for question, want := range answers {
						path, header, _ := strings.Cut(question, " ")
						var headers []string
						if header != "" {
							headers = []string{header}
						}
						got := asksChain(client, m.Upstream(caller, "api"), path, headers...)
						either := want == "200 v1|v2" && (strings.HasPrefix(got, "200 v1") || strings.HasPrefix(got, "200 v2"))
						if got != want && !either {
							return fmt.Errorf("%s asks for %s: %s, want %s", caller, question, got, want)
						}
					}
				}
			}
			return nil
		})
		figure(t, "state=%q reached_ms=%.0f", what, millis(took))
	}
	speaks := func(what, want string) {
		t.Helper()
		meshtest.Await(t, what, func() error {
			for _, caller := range callers {
				if a := meshtest.EchoPlain(m.Upstream(caller, "db"), "hello there"); a.Err != nil || !strings.HasPrefix(a.Body, want) {
					return fmt.Errorf("%s: %s %q", caller, a, a.Body)
				}
			}
			return nil
		})
	}
	expect("no entries", map[string]string{"/x": "200 v1|v2"})
	speaks("db", "db ")

	load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream(ours.Name, "api") + "/load", KeepAlive: 40, Fresh: 5})
	resolver := entry{"Kind": "service-resolver", "Name": "api", "DefaultSubset": "v1", "Subsets": entry{
		"v1": entry{"Filter": "Service.Meta.version == v1"}, "v2": entry{"Filter": "Service.Meta.version == v2", "OnlyPassing": true},
	}}
	c.PutConfig(resolver)
	expect("a default subset", map[string]string{"/x": "200 v1 /x"})

	c.PutConfig(entry{"Kind": "service-router", "Name": "api", "Routes": []entry{
		{"Match": entry{"HTTP": entry{"PathPrefix": "/new/"}}, "Destination": entry{"ServiceSubset": "v2", "PrefixRewrite": "/"}},
		{"Match": entry{"HTTP": entry{"Header": []entry{{"Name": "x-canary", "Exact": "yes"}}}}, "Destination": entry{"ServiceSubset": "v2"}},
		{"Match": entry{"HTTP": entry{"PathExact": "/old"}}, "Destination": entry{"Service": "old", "RequestHeaders": entry{"Set": entry{"x-leg": "to-old"}}}},
		{"Match": entry{"HTTP": entry{"PathRegex": "/s.ow"}}, "Destination": entry{"RequestTimeout": "200ms"}},
	}})
	expect("a router", map[string]string{
		"/x": "200 v1 /x", "/new/a": "200 v2 /a", "/y x-canary: yes": "200 v2 /y", "/y x-canary: no": "200 v1 /y", "/old": "200 old /old to-old", "/old/er": "200 v1 /old/er", "/slow": "504",
	})

	splits := func(first float64) entry {
		return entry{"Kind": "service-splitter", "Name": "api", "Splits": []entry{
			{"Weight": first, "ServiceSubset": "v1", "RequestHeaders": entry{"Set": entry{"x-leg": "one"}}}, {"Weight": 100 - first, "ServiceSubset": "v2"},
		}}
	}
	requests := 400
	if os.Getenv(longVariable) != "" {
		requests = 5000
	}
	for _, first := range []float64{90, 25, 0} {
		c.PutConfig(splits(first))
		meshtest.Await(t, "the split is seen by both", func() error {
			for _, caller := range callers {
				if err := split(client, m.Upstream(caller, "api"), 200, first); err != nil {
					return fmt.Errorf("%s: %w", caller, err)
				}
			}
			return nil
		})
		for _, caller := range callers {
			if err := split(client, m.Upstream(caller, "api"), requests, first); err != nil {
				t.Errorf("%s: %v", caller, err)
			}
		}
	}
	expect("routes beside a split", map[string]string{"/x": "200 v2 /x", "/old": "200 old /old to-old", "/new/a": "200 v2 /a"})

	resolver["Failover"] = entry{"v2": entry{"Targets": []entry{{"ServiceSubset": "v1"}, {"Service": "old"}}}}
	c.PutConfig(resolver)
	expect("a failover that is not needed", map[string]string{"/x": "200 v2 /x"})
	critical := func(id string, on bool) {
		c.Must("PUT", fmt.Sprintf("/v1/agent/service/maintenance/%s-sidecar-proxy?enable=%t", id, on), nil, nil)
	}
	critical("api-v2", true)
	expect("the first target is sick", map[string]string{"/x": "200 v1 /x"})
	critical("api-v1", true)
	expect("and the second", map[string]string{"/x": "200 old /x"})
	critical("api-v2", false)
	expect("the first is well", map[string]string{"/x": "200 v2 /x"})
	critical("api-v1", false)

	c.DeleteConfig("service-router", "api")
	c.DeleteConfig("service-splitter", "api")
	expect("the resolver alone", map[string]string{"/x": "200 v1 /x", "/old": "200 v1 /old"})
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "api", "Redirect": entry{"Service": "old"}})
	expect("a redirect", map[string]string{"/x": "200 old /x"})
	c.DeleteConfig("service-resolver", "api")
	expect("no entries again", map[string]string{"/x": "200 v1|v2"})
	unscathed(t, "changes of all kinds", load.Stop())

	// tcp
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "db", "Redirect": entry{"Service": "spare"}})
	speaks("a redirect of tcp", "spare ")
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "db", "Failover": entry{"*": entry{"Service": "spare"}}})
	speaks("a failover of tcp", "db ")
	critical("db", true)
	speaks("the failover is needed", "spare ")
	critical("db", false)
	speaks("db is back", "db ")
	if s := ours.Stats()["listener_manager.listener_modified"]; s != 0 {
		t.Errorf("%d listeners were modified", s)
	}

	client.Transport = &http.Transport{DisableKeepAlives: true} // a connection of tcp stays where it is
	// Who speaks tcp to an http service dials it by the chain that Consul compiles for that: without its router.
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "api", "Redirect": entry{"Service": "old"}})
	c.PutConfig(entry{"Kind": "service-router", "Name": "api", "Routes": []entry{{"Match": entry{"HTTP": entry{"PathPrefix": "/"}}, "Destination": entry{"Service": "old", "PrefixRewrite": "/routed"}}}})
	expect("a router that rewrites", map[string]string{"/x": "200 old /routedx"})
	for _, caller := range callers {
		c.PutConfig(entry{"Kind": "service-defaults", "Name": caller, "UpstreamConfig": entry{"Overrides": []entry{{"Name": "api", "Protocol": "tcp", "ConnectTimeoutMs": 3000}}}})
	}
	expect("tcp in the place of http", map[string]string{"/x": "200 old /x"})
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "api"})
	c.DeleteConfig("service-router", "api")
	expect("the redirect is gone", map[string]string{"/x": "200 v1|v2"})
	c.PutConfig(entry{"Kind": "service-resolver", "Name": "api", "Redirect": entry{"Service": "old"}})
	expect("the redirect is back", map[string]string{"/x": "200 old /x"})
}

// split is an error if the shares of v1 and v2 are further from percent for v1 than four standard deviations.
func split(client *http.Client, addr string, requests int, percent float64) error {
	seen := map[string]int{}
	for range requests {
		seen[asksChain(client, addr, "/split")]++
	}
	v1 := seen["200 v1 /split one"]
	p := percent / 100
	if off := math.Abs(float64(v1) - p*float64(requests)); off > 4*math.Sqrt(p*(1-p)*float64(requests)) || v1+seen["200 v2 /split"] != requests {
		return fmt.Errorf("%d of %d requests are v1's, want %v %%: %v", v1, requests, percent, seen)
	}
	return nil
}

// TestConsulUnservable: what Consul takes and no Envoy does is left out alone, and its requests are answered 503 and by nobody else.
func TestConsulUnservable(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := besideConsul(t, c)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveSeen(t, "api"), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}, CheckInterval: "1s"})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web")
	c.PutConfig(entry{"Kind": "service-router", "Name": "api", "Routes": []entry{
		{"Match": entry{"HTTP": entry{"PathExact": "/fine"}}},
		{"Match": entry{"HTTP": entry{"PathPrefix": "/header"}}, "Destination": entry{"RequestHeaders": entry{"Set": entry{"x-a": "50%"}}}},
		{"Match": entry{"HTTP": entry{"PathPrefix": "/host"}}, "Destination": entry{"RequestHeaders": entry{"Set": entry{"host": "x"}}}},
		{"Match": entry{"HTTP": entry{"PathPrefix": "/before"}}},
		{"Match": entry{"HTTP": entry{"PathRegex": "/(", "Methods": []string{"PUT"}}}},
		{"Match": entry{"HTTP": entry{"PathExact": "/after"}}},
	}})
	client := &http.Client{Timeout: 5 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	meshtest.Await(t, "the routes that can be are served", func() error {
		for path, want := range map[string]string{
			"/fine": "200 api /fine", "/header": "503", "/headers": "503", "/host": "503", "/before": "200 api /before", "/after": "200 api /after", "/x": "200 api /x",
		} {
			if got := asksChain(client, m.Upstream("web", "api"), path); got != want {
				return fmt.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		return nil
	})
	out := m.MustRun("status")
	for _, want := range []string{"Route[1]", "Route[2]", "Route[4]"} {
		if !strings.Contains(out, want) {
			t.Errorf("the status says nothing of %s:\n%s", want, out)
		}
	}
	if p, err := m.Proxy("web"); err != nil || p.LastNACK != nil || !p.InSync {
		t.Errorf("%v, %v", p, err)
	}
}

// TestConsulChainDatacenters: a failover to another datacenter, and a redirect there, by entries that hold in both; and one to a datacenter that there is not.
func TestConsulChainDatacenters(t *testing.T) {
	t.Parallel()
	first, second := federated(t)
	here, there := besideConsul(t, second), besideConsul(t, first)
	there.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveSeen(t, "dc1"), CheckInterval: "1s"})
	here.Add(meshtest.Service{Name: "api", Local: serveSeen(t, "dc2"), CheckInterval: "1s"})
	for _, s := range []string{"web-ours", "web-theirs"} {
		here.Add(meshtest.Service{Name: s, Upstreams: []string{"api"}, CheckInterval: "1s"})
	}
	there.Intend("api", meshtest.Intentions{"web-ours": "allow", "web-theirs": "allow"})
	there.Launch()
	here.Serve()
	there.AwaitServe()
	there.Sidecar("api")
	here.Sidecar("api")
	ours := here.Sidecar("web-ours")
	theirs := second.Envoy(here, "web-theirs", time.Second)
	first.AwaitChecks()
	client := &http.Client{Timeout: 5 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	expect := func(what, want string) {
		t.Helper()
		var took [2]time.Duration
		for i, caller := range []string{ours.Name, theirs.Name} {
			took[i] = meshtest.Await(t, what, func() error {
				for range 3 {
					if got := asksChain(client, here.Upstream(caller, "api"), "/x"); got != want {
						return fmt.Errorf("%s: %s, want %s", caller, got, want)
					}
				}
				return nil
			})
		}
		figure(t, "state=%q ours_ms=%.0f theirs_later_ms=%.0f", what, millis(took[0]), millis(took[1]))
	}
	expect("no entries", "200 dc2 /x")
	there.Intend("api", meshtest.Intentions{"web-ours": "allow", "web-theirs": "allow"})
	resolver := func(more entry) entry {
		e := entry{"Kind": "service-resolver", "Name": "api"}
		maps.Copy(e, more)
		return e
	}
	first.PutConfig(resolver(entry{"Failover": entry{"*": entry{"Datacenters": []string{"dc9", "dc1"}}}}))
	meshtest.Await(t, "the status speaks of the datacenter that there is not", func() error {
		s := strings.Join(strings.Fields(here.MustRun("status")), " ")
		if !strings.Contains(s, `discovery chain of api: the datacenter "dc9" is not known to Consul: its target there has no endpoints`) || strings.Contains(s, "not up to date") {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	expect("a failover that is not needed", "200 dc2 /x")
	second.Must("PUT", "/v1/agent/service/maintenance/api-sidecar-proxy?enable=true", nil, nil)
	expect("the service here is sick", "200 dc1 /x")
	second.Must("PUT", "/v1/agent/service/maintenance/api-sidecar-proxy?enable=false", nil, nil)
	expect("it is well", "200 dc2 /x")
	first.PutConfig(resolver(entry{"Redirect": entry{"Datacenter": "dc1"}}))
	expect("a redirect to another datacenter", "200 dc1 /x")
	first.DeleteConfig("service-resolver", "api")
	expect("no entries again", "200 dc2 /x")
}
