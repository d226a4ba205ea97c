package consul

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Which upstreams there are by their datacenters, and what they are called.
func TestUpstreamDatacenters(t *testing.T) {
	const gateway = `it is dialled through mesh gateways (mode local), which are not supported yet: its listener is not there`
	for name, c := range map[string]struct {
		proxy     string // fields of the proxy
		upstreams []string
		want      string // of the upstreams
		targets   string
		problem   string
	}{
		"another":                    {"", []string{`"Datacenter": "dc2"`}, "api?dc=dc2", "api?dc=dc2", ""},
		"its own, spelled out":       {"", []string{`"Datacenter": "dc1"`}, "api?dc=dc1", "api", ""},
		"all of them":                {"", []string{`"Datacenter": ""`, `"Datacenter": "dc1"`, `"Datacenter": "dc2"`}, "api api?dc=dc1 api?dc=dc2", "api api api?dc=dc2", ""},
		"one of them twice":          {"", []string{`"Datacenter": "dc2"`, `"Datacenter": "dc2"`}, "api?dc=dc2", "api?dc=dc2", "upstream api?dc=dc2: service p: it is given twice, and the first one counts: its listener is not there"},
		"no identity's":              {"", []string{`"Datacenter": "d c"`}, "", "", `upstream api?dc=d c: service p: the datacenter "d c" cannot be part of an identity: its listener is not there`},
		"gateway":                    {"", []string{`"Datacenter": "dc2", "MeshGateway": {"Mode": "local"}`}, "", "", "upstream api?dc=dc2: service p: " + gateway},
		"gateway of the proxy":       {`, "MeshGateway": {"Mode": "local"}`, []string{`"Datacenter": "dc2"`}, "", "", "upstream api?dc=dc2: service p: " + gateway},
		"gateway of the proxy alone": {`, "MeshGateway": {"Mode": "local"}`, []string{`"Datacenter": "dc2", "MeshGateway": {"Mode": "none"}`}, "api?dc=dc2", "api?dc=dc2", ""},
		"gateway in its own":         {`, "MeshGateway": {"Mode": "local"}`, []string{`"Datacenter": "dc1"`, `"MeshGateway": {"Mode": "remote"}`}, "api?dc=dc1 api", "api api", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var list []string
			for _, u := range c.upstreams {
				list = append(list, `{"DestinationName": "api", "LocalBindPort": 5000, `+u+`}`)
			}
			s := sidecarOf(t, c.proxy+`, "Upstreams": [`+strings.Join(list, ", ")+`]`)
			var names, targets []string
			for _, u := range s.upstreams {
				names, targets = append(names, u.Name()), append(targets, targetOf(u.Upstream, "dc1"))
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("upstreams %q, want %q", got, c.want)
			}
			if got := strings.Join(targets, " "); got != c.targets {
				t.Errorf("targets %q, want %q", got, c.targets)
			}
			if got := strings.TrimPrefix(texts(s.problems), "proxy p, "); got != c.problem {
				t.Errorf("problems %q, want %q", got, c.problem)
			}
		})
	}
}

// Where instances are dialled, from within their datacenter and from another one. The latter is what the Envoys of Consul 1.19.2 were told for these
// registrations, with translate_wan_addrs and without, but for the host name, of which Consul's make no endpoint at all.
func TestAddresses(t *testing.T) {
	for name, c := range map[string]struct{ text, near, far string }{
		"nothing tagged":         {`{"Node": {"Address": "10.0.0.1"}, "Service": {"ID": "p", "Port": 1}}`, "10.0.0.1:1", "10.0.0.1:1"},
		"node":                   {`{"Node": {"Address": "10.0.0.1", "TaggedAddresses": {"lan": "10.0.0.1", "wan": "10.9.0.1"}}, "Service": {"ID": "p", "Port": 1}}`, "10.0.0.1:1", "10.9.0.1:1"},
		"service's own address":  {`{"Node": {"Address": "10.0.0.2", "TaggedAddresses": {"wan": "10.9.0.2"}}, "Service": {"ID": "p", "Address": "10.0.1.2", "Port": 1}}`, "10.0.1.2:1", "10.0.1.2:1"},
		"service, address alone": {`{"Node": {"TaggedAddresses": {"wan": "10.9.0.3"}}, "Service": {"ID": "p", "Address": "10.0.1.3", "Port": 1, "TaggedAddresses": {"wan": {"Address": "10.9.1.3", "Port": 0}}}}`, "10.0.1.3:1", "10.9.1.3:1"},
		"service, port alone":    {`{"Node": {"Address": "10.0.0.4"}, "Service": {"ID": "p", "Address": "10.0.1.4", "Port": 1, "TaggedAddresses": {"wan": {"Port": 2}}}}`, "10.0.1.4:1", "10.0.0.4:2"},
		"service, both":          {`{"Service": {"ID": "p", "Address": "127.0.0.1", "Port": 1, "TaggedAddresses": {"lan": {"Address": "127.0.0.1", "Port": 1}, "wan": {"Address": "127.0.0.9", "Port": 2}}}}`, "127.0.0.1:1", "127.0.0.9:2"},
		"another tag":            {`{"Node": {"Address": "10.0.0.6", "TaggedAddresses": {"wan_ipv4": "10.9.0.6"}}, "Service": {"ID": "p", "Port": 1, "TaggedAddresses": {"wan_ipv4": {"Address": "10.9.1.6", "Port": 2}}}}`, "10.0.0.6:1", "10.0.0.6:1"},
		"host name":              {`{"Service": {"ID": "p", "Address": "10.0.1.5", "Port": 1, "TaggedAddresses": {"wan": {"Address": "wan.example", "Port": 2}}}}`, "10.0.1.5:1", "wan.example:2"},
		"no port there":          {`{"Service": {"ID": "p", "Address": "10.0.1.5", "Port": 1, "TaggedAddresses": {"wan": {"Address": "10.9.0.1", "Port": 70000}}}}`, "10.0.1.5:1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for far, want := range map[bool]string{false: c.near, true: c.far} {
				if want != "" {
					want += "/1/true"
				}
				if got := addresses(readInstances(parse[[]*instance](t, "["+c.text+"]"), far).endpoints); got != want {
					t.Errorf("from another datacenter %v: %q, want %q", far, got, want)
				}
			}
		})
	}
}

// far is what the fake answers with for api in dc2, another instance than in dc1.
const (
	farChain     = "/v1/discovery-chain/api?dc2"
	farEndpoints = "/v1/health/connect/api?dc2"
	farNames     = "api-1-sidecar-proxy, web-sidecar-proxy api?dc=dc2 api"
	farAddress   = "10.9.0.1:21000/1/true"
)

// elsewhere is mesh, with web dialling api in dc2 as well.
func (f *fake) elsewhere(t *testing.T) {
	t.Helper()
	f.mesh()
	f.set("/v1/catalog/datacenters", []string{"dc1", "dc2"})
	f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"Upstreams": [`, `"Upstreams": [
		{"DestinationType": "service", "DestinationName": "api", "Datacenter": "dc2", "LocalBindPort": 5009, "MeshGateway": {}},`, `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
	f.set(farChain, edit(t, "chain-api.json", "dc1", "dc2", `"MeshGateway": {"Mode": "local"}`, `"MeshGateway": {}`))
	f.set(farEndpoints, farInstances("passing"))
}

func farInstances(status string) any {
	return []map[string]any{{
		"Node":    map[string]any{"Node": "far", "Address": "10.2.0.1", "Datacenter": "dc2", "TaggedAddresses": map[string]any{"wan": "10.9.0.1"}},
		"Service": map[string]any{"ID": "api-sidecar-proxy", "Port": 21000}, "Checks": []map[string]any{{"Status": status}},
	}}
}

// One service in two datacenters is two. What is known of the one in the other stays when that one is away, which says nothing of the agent.
func TestElsewhere(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.elsewhere(t)
		f.hook(farEndpoints, func(_ http.ResponseWriter, r *http.Request) bool {
			if q := r.URL.Query(); !q.Has("consistent") || !q.Has("near") || q.Has("cached") {
				t.Errorf("asked for %s", r.URL)
			}
			return false
		})
		p, _ := running(t, a)
		after(time.Second)
		stands := func(what string) {
			t.Helper()
			got := p.must(t)
			if ids(got) != farNames || endpointsOf(got, "api?dc=dc2") != farAddress || endpointsOf(got, "api") == farAddress {
				t.Errorf("%s: proxies %s, endpoints %s and %s", what, ids(got), endpointsOf(got, "api"), endpointsOf(got, "api?dc=dc2"))
			}
			if s := a.Status(); !s.Connected {
				t.Errorf("%s: the agent is taken for lost", what)
			}
		}
		stands("at first")
		if got := problems(a); strings.Contains(got, "dc2") {
			t.Errorf("problems\n%s", got)
		}
		if n := len(f.of(farEndpoints)); n != 2 { // one for the state, and one that waits
			t.Errorf("%d requests for the endpoints in dc2", n)
		}
		before := a.Status()

		f.refuse(farEndpoints, http.StatusInternalServerError)
		after(time.Minute)
		stands("500")
		if s := a.Status(); s.StaleSince.IsZero() || !strings.Contains(problems(a), "endpoints of api?dc=dc2: cannot be read") {
			t.Errorf("500: Status() = %+v", s)
		}

		// The servers there do not answer at all, so the agent does not either.
		f.hook(farEndpoints, func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		})
		connected := true
		for range 2400 {
			after(100 * time.Millisecond)
			connected = connected && a.Status().Connected
		}
		if !connected {
			t.Error("the agent was taken for lost")
		}
		stands("silence")

		// Its checks are critical until they have run once.
		f.hook(farEndpoints, nil)
		f.set(farEndpoints, farInstances("critical"))
		for since := time.Now(); !a.Status().StaleSince.IsZero(); after(100 * time.Millisecond) {
			if time.Since(since) > answerTimeout+serverRetry {
				t.Fatalf("not asked again within %s", time.Since(since))
			}
		}
		after(10 * time.Second)
		stands("just back")
		f.set(farEndpoints, farInstances("passing"))
		after(30 * time.Second)
		stands("back")
		if s := a.Status(); !s.StaleSince.IsZero() || len(s.Problems) != len(before.Problems) {
			t.Errorf("back: Status() = %+v", s)
		}
		f.set(farEndpoints, farInstances("critical"))
		after(5 * time.Second)
		if got := endpointsOf(p.must(t), "api?dc=dc2"); got != strings.Replace(farAddress, "true", "false", 1) {
			t.Errorf("critical for another reason: %s", got)
		}
		f.set(farEndpoints, []any{})
		after(5 * time.Second)
		if got := endpointsOf(p.must(t), "api?dc=dc2"); got != "" {
			t.Errorf("none left: %s", got)
		}
	})
}

// Mesh gateways that the chain asks for take the listener away, as far as another datacenter is dialled.
func TestElsewhereByGateway(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.elsewhere(t)
		p, _ := running(t, a)
		after(time.Second)
		f.set(farChain, edit(t, "chain-api.json", "dc1", "dc2"))
		after(time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" {
			t.Errorf("proxies %s", got)
		}
		if want := "upstream api?dc=dc2: service web-sidecar-proxy: it is dialled through mesh gateways (mode local), which are not supported yet"; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		f.elsewhere(t)
		after(time.Second)
		if got := ids(p.must(t)); got != farNames {
			t.Errorf("proxies %s", got)
		}
	})
}

// A datacenter of which Consul does not know holds nobody back, and is named.
func TestUnknownDatacenter(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.elsewhere(t)
		f.set("/v1/catalog/datacenters", []string{"dc1"})
		f.refuse(farEndpoints, http.StatusInternalServerError)
		p, _ := running(t, a)
		after(time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" {
			t.Errorf("proxies %s", got)
		}
		if want := `upstream api?dc=dc2: service web-sidecar-proxy: the datacenter "dc2" is not known to Consul: its listener is not there`; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		f.elsewhere(t)
		after(2 * time.Minute)
		if got := p.must(t); ids(got) != farNames || !slices.Equal(got.Mesh.Datacenters, []string{"dc1", "dc2"}) {
			t.Errorf("proxies %s, datacenters %s", ids(got), got.Mesh.Datacenters)
		}
		// Servers that were restarted while it is away.
		f.set("/v1/catalog/datacenters", []string{"dc1"})
		f.refuse(farEndpoints, http.StatusInternalServerError)
		after(2 * time.Minute)
		if got := p.must(t); ids(got) != farNames || !slices.Equal(got.Mesh.Datacenters, []string{"dc1", "dc2"}) {
			t.Errorf("later: proxies %s, datacenters %s", ids(got), got.Mesh.Datacenters)
		}
	})
}

// The last-known-good file holds what is dialled in another datacenter, also if that one is away when the agent answers again.
func TestSavedElsewhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	config := func(c *Config) { c.LKGFile = file }
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.elsewhere(t)
		_, stop := running(t, a)
		after(10 * time.Second)
		stop()
	})
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		after(5 * time.Second)
		check := func(what string) {
			t.Helper()
			if got := p.must(t); ids(got) != farNames || endpointsOf(got, "api?dc=dc2") != farAddress || endpointsOf(got, "api") == farAddress {
				t.Errorf("%s: proxies %s, endpoints %s and %s", what, ids(got), endpointsOf(got, "api"), endpointsOf(got, "api?dc=dc2"))
			}
			for _, u := range p.must(t).Proxies[1].Upstreams {
				if want := map[string]uint16{"": 5000, "dc2": 5009}[u.Datacenter]; u.BindPort != want {
					t.Errorf("%s: %s is dialled at port %d, want %d", what, u.Name(), u.BindPort, want)
				}
			}
		}
		check("nobody answers")
		f.elsewhere(t)
		for _, path := range []string{farChain, farEndpoints, "/v1/discovery-chain/api"} {
			f.refuse(path, http.StatusInternalServerError)
		}
		f.revive()
		after(10 * time.Second)
		check("the agent answers, but not about chains")
		f.elsewhere(t)
		f.refuse(farEndpoints, http.StatusInternalServerError)
		after(20 * time.Second)
		check("and about chains")
		if !a.Status().FromFile {
			t.Error("nothing is said of the file")
		}
		f.elsewhere(t)
		after(20 * time.Second)
		check("all answer")
		if a.Status().FromFile {
			t.Error("it is still said to be the file's")
		}
	})
}
