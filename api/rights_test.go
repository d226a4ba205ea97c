package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// TestRights holds that an application knows the catalog as a whole, and of intentions those of its own service.
func TestRights(t *testing.T) {
	v := mesh().View()
	for _, c := range []struct {
		caller, name string
		endpoint     answering
		path         string
		denied       bool
		has, hasNot  string
	}{
		{"web", "its own as a source, and those about all", intentionList, "", false, `"SourceName":"web"`, `"SourceName":"held"`},
		{"api", "its own as a destination", intentionList, "", false, `"SourceName":"held"`, `"Orders"`},
		{"web", "exact", intentionPair, "?source=web&destination=api", false, "web", ""},
		{"web", "exact, of others", intentionPair, "?source=held&destination=api", true, "", ""},
		{"web", "exact, none", intentionPair, "?source=x&destination=api", true, "", ""},
		{"web", "check", intentionCheck, "?source=web&destination=api", false, "true", ""},
		{"api", "check as destination", intentionCheck, "?source=web&destination=api", false, "true", ""},
		{"db", "check of others", intentionCheck, "?source=web&destination=api", true, "", ""},
		{"web", "match by source", intentionMatch, "?by=source&name=web", false, "api", ""},
		{"web", "match of another", intentionMatch, "?by=destination&name=api", true, "", ""},
		{"web", "match of one's own and another", intentionMatch, "?by=destination&name=web&name=api", true, "", ""},
		{"api", "entry", configEntries, "service-intentions/api", false, "held", ""},
		{"web", "entry of another", configEntries, "service-intentions/api", true, "", ""},
		{"web", "entries", configEntries, "", false, "service-defaults", "service-intentions"},
		{"web", "health", healthService, "api", false, "api-1", ""},
		{"web", "services", agentServices, "", false, "api-1", ""},
	} {
		t.Run(c.caller+" "+c.name, func(t *testing.T) {
			u, err := url.Parse(c.path)
			if err != nil {
				t.Fatal(err)
			}
			caller := Caller{ID: c.caller, Known: true, Services: []identity.Name{identity.NewName(c.caller)}}
			value, err := c.endpoint.value(v, &ask{&question{name: u.Path, query: u.Query(), caller: caller}, &node{name: "n1"}})
			f := failure{}
			if denied := errors.As(err, &f) && f.code == http.StatusForbidden; denied != c.denied {
				t.Fatalf("denied: %t, want %t: %v", denied, c.denied, err)
			}
			b, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			if !c.denied && !strings.Contains(string(b), c.has) || c.hasNot != "" && strings.Contains(string(b), c.hasNot) {
				t.Errorf("%s: want %q in it, and not %q", b, c.has, c.hasNot)
			}
		})
	}
}

// TestCatalogOverHTTP asks for the catalog as clients do: without a token, by a service, waiting for a change.
func TestCatalogOverHTTP(t *testing.T) {
	r := start(t)
	if a := r.ask(t, "GET", "/v1/health/service/web", "", ""); a.code != http.StatusForbidden {
		t.Errorf("without a token: %d %s", a.code, a.body)
	}
	if a := r.ask(t, "GET", "/v1/status/leader", "", ""); a.code != http.StatusOK || a.header.Get("X-Consul-KnownLeader") != "" {
		t.Errorf("leader: %d %s %v", a.code, a.body, a.header)
	}
	first := r.ask(t, "GET", "/v1/health/service/web?stale", "web", "")
	if first.code != http.StatusOK || first.header.Get("X-Consul-Effective-Consistency") != "stale" || !strings.Contains(first.body, `"ID":"web"`) {
		t.Fatalf("%d %s %v", first.code, first.body, first.header)
	}
	waiting := make(chan reply, 2)
	hash := r.ask(t, "GET", "/v1/agent/service/web", "web", "").header.Get("X-Consul-ContentHash")
	if len(hash) != 16 {
		t.Fatalf("hash %q", hash)
	}
	for _, path := range []string{"/v1/health/service/web?wait=20s&index=" + first.header.Get("X-Consul-Index"), "/v1/agent/service/web?wait=20s&hash=" + hash} {
		go func() {
			a, err := r.try(t.Context(), "GET", path, "web", "")
			if err != nil {
				t.Error(err)
			}
			waiting <- a
		}()
	}
	for r.waits.used() < 2 {
		time.Sleep(time.Millisecond)
	}
	r.mesh.Registrations[1].Port = 7 // of another service
	r.publish()
	r.mesh.Registrations[0].Port = 9999
	r.publish()
	for range 2 {
		if a := <-waiting; a.code != http.StatusOK || !strings.Contains(a.body, `"Port":9999`) {
			t.Errorf("%d %s", a.code, a.body)
		}
	}
	if a := r.ask(t, "GET", "/v1/agent/service/nobody", "web", ""); a.code != http.StatusNotFound || a.body != "unknown service ID: nobody" {
		t.Errorf("%d %s", a.code, a.body)
	}
}

// TestWrites holds that nothing is written, and that whoever may know of it hears which file to edit.
func TestWrites(t *testing.T) {
	r := start(t)
	r.mesh.Entries = []catalog.Entry{
		{Kind: "service-intentions", Name: "api", Origin: "api.hcl:7"}, {Kind: "service-defaults", Name: "web", Origin: "web.hcl:1"},
	}
	r.mesh.Registrations[0].Origin = "web.hcl:9"
	r.publish()
	const directory = ": edit the definitions in its catalog's directory"
	for _, c := range []struct{ method, path, token, want string }{
		{"PUT", "/v1/config", "reader", directory},
		{"DELETE", "/v1/config/service-defaults/WEB", "db", ": edit web.hcl:1"},
		{"DELETE", "/v1/config/service-intentions/api", "db", directory},
		{"PUT", "/v1/connect/intentions/exact?source=a&destination=api", "api", ": edit api.hcl:7"},
		{"DELETE", "/v1/connect/intentions/exact?source=a&destination=api", "", directory},
		{"POST", "/v1/connect/intentions", "reader", directory},
		{"PUT", "/v1/agent/service/deregister/web", "web", ": edit web.hcl:9"},
		{"PUT", "/v1/agent/service/register", "web", directory},
		{"PUT", "/v1/catalog/register", "bogus", directory},
	} {
		a := r.ask(t, c.method, c.path, c.token, "{}")
		if a.code != http.StatusMethodNotAllowed || !strings.HasSuffix(a.body, c.want) || strings.Contains(a.header.Get("Allow"), c.method) {
			t.Errorf("%s %s by %q: %d %q, Allow %q, want %q", c.method, c.path, c.token, a.code, a.body, a.header.Get("Allow"), c.want)
		}
	}
	if a := r.ask(t, "GET", "/v1/config", "reader", ""); a.code != http.StatusMethodNotAllowed || a.body != "method GET not allowed" {
		t.Errorf("GET: %d %s", a.code, a.body)
	}
}
