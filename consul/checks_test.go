package consul

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

func TestCheckPath(t *testing.T) {
	for name, c := range map[string]struct {
		kind, output string
		want         string
	}{
		"passing":          {"http", "HTTP GET http://127.0.0.1:21500/health: 200 OK Output: fine", "/health"},
		"with a query":     {"http", "HTTP GET http://127.0.0.1:21500/health?verbose=1: 200 OK Output: fine", "/health"},
		"another method":   {"http", "HTTP HEAD http://127.0.0.1:21500/: 404 Not Found Output: ", "/"},
		"no path":          {"http", "HTTP GET http://127.0.0.1:21500: 200 OK Output: fine", "/"},
		"ipv6":             {"http", "HTTP GET http://[fd00::1]:21500/health: 200 OK Output: fine", "/health"},
		"refused":          {"http", `Get "http://127.0.0.1:21500/health?x=1": dial tcp 127.0.0.1:21500: connect: connection refused`, "/health"},
		"timeout":          {"http", `Post "http://127.0.0.1:21500/health": context deadline exceeded (Client.Timeout exceeded)`, "/health"},
		"not through us":   {"http", "HTTP GET http://127.0.0.1:8080/health: 200 OK Output: fine", ""},
		"https":            {"http", "HTTP GET https://127.0.0.1:21500/health: 200 OK Output: fine", ""},
		"never run":        {"http", "", ""},
		"discarded":        {"http", "HTTP", ""},
		"another":          {"http", "something else", ""},
		"half":             {"http", `Get "http://127.0.0.1:215`, ""},
		"what it answered": {"http", "fine HTTP GET http://127.0.0.1:21500/health: 200 OK", ""},
		"grpc":             {"grpc", "", grpcHealthPath},
		"tcp":              {"tcp", "TCP connect 127.0.0.1:21500: Success", ""},
		"ttl":              {"ttl", "HTTP GET http://127.0.0.1:21500/admin: 200 OK Output: made up", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&agentCheck{Type: c.kind, Output: c.output, ExposedPort: 21500}).path(); got != c.want {
				t.Errorf("path %q, want %q", got, c.want)
			}
		})
	}
}

// exposesNothing is the end of web's registration.
const exposesNothing = `"Expose": {}
      },
      "Connect": {},
      "CreateIndex": 40`

// The path of a check is exposed when the agent has told it, and stays so while the agent tells nothing.
func TestExposedChecks(t *testing.T) {
	const checksPath = "/v1/agent/checks"
	check := func(service, id, kind, output string, port int) map[string]map[string]any {
		return map[string]map[string]any{id: {"CheckID": id, "ServiceID": service, "Type": kind, "Output": output, "ExposedPort": port}}
	}
	all := func(list ...map[string]map[string]any) map[string]map[string]any {
		m := map[string]map[string]any{}
		for _, c := range list {
			maps.Copy(m, c)
		}
		return m
	}
	const passing = "HTTP GET http://10.0.0.1:21500/health: 200 OK Output: fine"
	grpc := check("web", "g", "grpc", "", 21501)
	others := all(check("web", "t", "tcp", "", 0), check("api", "o", "http", "HTTP GET http://10.0.0.1:21502/o: 200 OK", 21502))
	exposed := func(path string, port uint16, p catalog.Protocol) catalog.ExposedPath {
		return catalog.ExposedPath{
			Path: path, ListenerPort: port, LocalPort: 8080, Protocol: p, OfCheck: true, Agent: "10.0.0.1", Origin: "service web-sidecar-proxy",
		}
	}
	of := func(p *published) (out []catalog.ExposedPath) {
		if c, ok := p.last(); ok {
			for _, x := range c.Proxies {
				if x.ID == "web-sidecar-proxy" {
					out = x.Exposed
				}
			}
		}
		return out
	}
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", exposesNothing, strings.Replace(exposesNothing, "{}", `{"Checks": true}`, 1)))
		f.hook(checksPath, func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(2 * time.Second)
			return false
		})
		p, _ := running(t, a)
		after(time.Second)
		if c, ok := p.last(); !ok || strings.Contains(ids(c), "web-sidecar-proxy") {
			t.Error("the proxy did not wait for the checks")
		}
		after(2 * time.Second)
		if !strings.Contains(ids(p.must(t)), "web-sidecar-proxy") {
			t.Error("the proxy waits for what cannot be read")
		}
		f.hook(checksPath, func(http.ResponseWriter, *http.Request) bool { return false })
		want := func(what string, paths ...catalog.ExposedPath) {
			t.Helper()
			after(checksEvery + time.Second)
			if diff := cmp.Diff(paths, of(p)); diff != "" {
				t.Errorf("%s: exposed (-want +got):\n%s", what, diff)
			}
		}
		f.set(checksPath, all(check("web", "h", "http", "", 21500), others))
		after(time.Minute)
		want("a check that has not run")
		if got := problems(a); !strings.Contains(got, "check h: the agent does not say which path it asks for") {
			t.Errorf("problems: %s", got)
		}
		health := exposed("/health", 21500, catalog.HTTP)
		f.set(checksPath, all(check("web", "h", "http", passing, 21500), others))
		want("a check that has run", health)
		if got := problems(a); strings.Contains(got, "check ") {
			t.Errorf("problems: %s", got)
		}
		f.set(checksPath, all(check("web", "h", "http", "", 21500), others))
		want("an agent that was restarted", health)
		f.refuse(checksPath, http.StatusInternalServerError)
		want("an agent in trouble", health)
		after(time.Minute)
		f.set(checksPath, all(check("web", "h", "http", strings.ReplaceAll(passing, "/health", "/healthz"), 21500), others))
		after(time.Minute)
		want("another path", exposed("/healthz", 21500, catalog.HTTP))
		f.set(checksPath, all(check("web", "h", "http", strings.ReplaceAll(passing, "/health", "/a/../b"), 21500), others))
		want("a path that cannot be asked for")
		if got := problems(a); !strings.Contains(got, "check h: it must be without") {
			t.Errorf("problems: %s", got)
		}
		f.set(checksPath, all(check("web", "h", "http", passing, 21500), check("web", "i", "grpc", "", 21501)))
		want("two protocols at one port", health)
		if got := problems(a); !strings.Contains(got, "check i: another path says that port 8080 does not speak http2") {
			t.Errorf("problems: %s", got)
		}
		f.set(checksPath, grpc)
		want("gRPC", exposed(grpcHealthPath, 21501, catalog.HTTP2))
		f.set(checksPath, map[string]any{})
		want("no checks")
		f.file("/v1/catalog/node-services/n1", "node-services.json")
		after(time.Minute)
		asked := len(f.of(checksPath))
		after(time.Minute)
		if now := len(f.of(checksPath)); now != asked {
			t.Errorf("the checks were read %d times though nobody exposes them", now-asked)
		}
	})
}

// A proxy that is there stays there when it begins to expose its checks, before they are known.
func TestExposedChecksLater(t *testing.T) {
	const checksPath, servicesPath = "/v1/agent/checks", "/v1/catalog/node-services/n1"
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(time.Second)
		if !strings.Contains(ids(p.must(t)), "web-sidecar-proxy") {
			t.Fatalf("proxies: %s", ids(p.must(t)))
		}
		f.hook(checksPath, func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(2 * time.Second)
			return false
		})
		f.set(checksPath, map[string]any{"h": map[string]any{"CheckID": "h", "ServiceID": "web", "Type": "grpc", "ExposedPort": 21501}})
		f.set(servicesPath, edit(t, "node-services.json", exposesNothing, strings.Replace(exposesNothing, "{}", `{"Checks": true}`, 1)))
		after(10 * time.Second)
		seen := false
		if !p.every(func(c catalog.Contents) bool {
			there := strings.Contains(ids(c), "web-sidecar-proxy")
			seen = seen || there
			return there || !seen
		}) {
			t.Error("the proxy was away for a while")
		}
		for _, x := range p.must(t).Proxies {
			if x.ID == "web-sidecar-proxy" && len(x.Exposed) != 1 {
				t.Errorf("exposed at last: %v", x.Exposed)
			}
		}
	})
}
