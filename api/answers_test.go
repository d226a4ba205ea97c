package api

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func mesh() catalogtest.Mesh {
	name := identity.NewName
	i := func(src, dst string, a intention.Action) intention.Intention {
		return intention.Intention{Source: intention.Source{Name: name(src)}, Destination: name(dst), Action: a}
	}
	held := i("held", "api", intention.Allow)
	held.Held = "b.hcl can be taken"
	return catalogtest.Mesh{
		Mesh:     catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.consul"), Datacenter: "dc1", Datacenters: []string{"dc1"}, Default: intention.Allow},
		Services: []catalog.Service{{Name: name("web")}, {Name: name("api"), Protocol: catalog.HTTP}},
		Intentions: []intention.Intention{
			i("web", "api", intention.Allow), held, i("*", "api", intention.Deny), i("legacy", "*", intention.Deny), i("Web", "Orders", intention.Allow),
		},
		Registrations: []catalog.Registration{
			{ID: "api-1", Service: name("api"), Tags: []string{"blue"}, Address: "10.0.0.1", Port: 80, Checks: []catalog.Check{{ID: "c", Name: "up", Status: "critical"}}},
			{ID: "api-2", Service: name("api"), Port: 81, Meta: map[string]string{"v": "2"}},
			{ID: "nat", Service: name("nat"), Native: true, Port: 82},
		},
		Sidecars: []catalog.Sidecar{{
			Registration: catalog.Registration{ID: "api-1-sidecar-proxy", Service: name("api-sidecar-proxy"), Port: 21000}, Destination: name("api"), Instance: "api-1",
			Config: `{"protocol":"http"}`, Upstreams: []catalog.SidecarUpstream{{Destination: "web", BindPort: 5000}}, Exposed: []catalog.ExposedPath{{Path: "/h", ListenerPort: 1, LocalPort: 2, Protocol: catalog.HTTP}},
		}},
		Entries: []catalog.Entry{
			{Kind: "service-intentions", Name: "api", Meta: map[string]string{"a": "b"}, Sources: []catalog.EntrySource{{Source: intention.Source{Name: name("held")}, Description: "d"}, {Source: intention.Source{Name: name("*")}}, {Source: intention.Source{Name: name("web")}}}},
			{Kind: "service-defaults", Name: "api", Fields: `{"Protocol":"http"}`},
			{Kind: "mesh", Name: "mesh", Fields: `{"TLS":{"Incoming":{"TLSMinVersion":"TLSv1_2"}}}`},
		},
	}
}

// answerTo answers a question as path says it: what follows the endpoint, and the query.
func answerTo(t *testing.T, v *catalog.View, e answering, path string) (string, error) {
	t.Helper()
	u, err := url.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	a := &ask{&question{name: u.Path, query: u.Query(), caller: Caller{Reader: true}}, &node{name: "n1", version: "test"}}
	value, err := e.value(v, a)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), nil
}

func TestAnswers(t *testing.T) {
	v := mesh().View()
	for _, c := range []struct {
		name     string
		endpoint answering
		path     string
		code     int      // of the refusal; 0: there is none
		has      []string // parts of the answer or of the text
		hasNot   []string
	}{
		{"what is held is denied in the list", intentionList, `?filter=SourceName==held`, 0, []string{`"SourceName":"held"`, `"Action":"deny"`, `"Description":"d"`, `"Meta":{"a":"b"}`}, []string{"allow"}},
		{"what is held is denied in the entry", configEntries, "service-intentions/API", 0, []string{`{"Name":"held","Action":"deny","Precedence":9,"Type":"consul","Description":"d"},{"Name":"web","Action":"allow"`}, []string{`"held","Action":"allow"`}},
		{"what is held is not allowed", intentionCheck, "?source=held&destination=api", 0, []string{`{"Allowed":false}`}, nil},
		{"what is held is denied in a match", intentionMatch, "?by=source&name=held", 0, []string{`"SourceName":"held"`, `"deny"`}, []string{"allow"}},
		{"allowed", intentionCheck, "?source=web&destination=API", 0, []string{`{"Allowed":true}`}, nil},
		{"letter case of a source counts", intentionCheck, "?source=Web&destination=api", 0, []string{`{"Allowed":false}`}, nil},
		{"the mesh's default decides", intentionCheck, "?source=x&destination=unknown", 0, []string{`{"Allowed":true}`}, nil},
		{"about all destinations", intentionCheck, "?source=legacy&destination=unknown", 0, []string{`{"Allowed":false}`}, nil},
		{"nobody is called so", intentionCheck, "?source=&destination=api", 0, []string{`{"Allowed":false}`}, nil},
		{"a match has the name as asked", intentionMatch, "?by=destination&name=ORDERS", 0, []string{`{"ORDERS":[{`, `"DestinationName":"Orders"`, `"DestinationName":"*"`}, nil},
		{"64 names", intentionMatch, "?by=destination" + strings.Repeat("&name=a", 64), 0, []string{`{"a":[`}, nil},
		{"65 names", intentionMatch, "?by=destination" + strings.Repeat("&name=a", 65), 400, []string{"65 names are asked for, and 64 are the most at a time: ask for the others apart"}, nil},
		{"by junk", intentionMatch, "?by=x&name=a", 500, []string{"'by' parameter must be one of 'source' or 'destination'"}, nil},
		{"no name", intentionMatch, "?by=source", 500, []string{"required query parameter 'name' not set"}, nil},
		{"exact", intentionPair, "?source=*&destination=API", 0, []string{`"Precedence":8`}, nil},
		{"exact, none", intentionPair, "?source=nobody&destination=api", 404, []string{"Intention not found"}, nil},
		{"slashes", intentionPair, "?source=a/b/c/d&destination=api", 500, []string{`source "a/b/c/d" is invalid: input can contain at most two '/'`}, nil},
		{"by ID", intentionByID, "x", 400, []string{"UUID must be 36 characters"}, nil},
		{"health", healthService, "API", 0, []string{`"ID":"api-1"`, `"ID":"api-2"`, `"CheckID":"serfHealth"`, `"CheckID":"c"`, `"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}}`, `"Meta":null`, `"lan_ipv4":{"Address":"10.0.0.1","Port":80}`}, []string{"sidecar"}},
		{"passing", healthService, "api?passing", 0, []string{"api-2"}, []string{"api-1"}},
		{"passing junk", healthService, "api?passing=maybe", 400, []string{"Invalid value for ?passing"}, nil},
		{"tags", healthService, "api?tag=BLUE", 0, []string{"api-1"}, []string{"api-2"}},
		{"health filter", healthService, "api?filter=Service.Meta.v==2", 0, []string{"api-2"}, []string{"api-1"}},
		{"health filter junk", healthService, "api?filter=Nonsense==2", 500, []string{`Selector "Nonsense" is not valid`}, nil},
		{"connect", healthConnect, "api", 0, []string{`"Kind":"connect-proxy"`, `"DestinationServiceName":"api"`, `"Config":{"protocol":"http"}`, `"Paths":[{"ListenerPort":1,"Path":"/h","LocalPathPort":2}]`}, []string{`"ID":"api-1",`}},
		{"connect native", healthConnect, "nat", 0, []string{`"Connect":{"Native":true}`}, nil},
		{"connect of a sidecar", healthConnect, "api-sidecar-proxy", 0, []string{"[]"}, nil},
		{"no service", healthConnect, "", 400, []string{"Missing service name"}, nil},
		{"state", healthState, "critical", 0, []string{`"CheckID":"c"`}, []string{"serfHealth"}},
		{"any state", healthState, "any", 0, []string{`"CheckID":"c"`, "serfHealth"}, nil},
		{"names", catalogServices, "", 0, []string{`{"api":["blue"],"api-sidecar-proxy":[],"nat":[]}`}, nil},
		{"catalog", catalogService, "nat", 0, []string{`"ServiceID":"nat"`, `"ServiceConnect":{"Native":true}`, `"ServiceMeta":{}`}, nil},
		{"catalog filter", catalogConnect, "api?filter=ServiceProxy.DestinationServiceName==api", 0, []string{"api-1-sidecar-proxy"}, nil},
		{"datacenters", catalogDatacenters, "", 0, []string{`["dc1"]`}, nil},
		{"nodes", catalogNodes, "", 0, []string{`"Node":"n1"`}, nil},
		{"agent", agentServices, "?filter=Service==nat", 0, []string{`{"nat":{`, `"Meta":{}`, `"Datacenter":"dc1"`}, []string{"api"}},
		{"agent, one", agentService, "api-1-sidecar-proxy", 0, []string{`"ContentHash":"`, `"ParsedFromCheck":false`}, nil},
		{"agent, none", agentService, "API-1", 404, []string{"unknown service ID: API-1"}, nil},
		{"self", agentSelf, "", 0, []string{`"NodeName":"n1"`, `"DebugConfig":null`}, nil},
		{"leader", statusLeader, "", 0, []string{`"127.0.0.1:8300"`}, nil},
		{"peers", statusPeers, "", 0, []string{`["127.0.0.1:8300"]`}, nil},
		{"mesh entry", configEntries, "mesh/mesh", 0, []string{`"Kind":"mesh",`, `"TransparentProxy":{"MeshDestinationsOnly":false}`, `"TLSv1_2"`}, []string{`"Name"`}},
		{"kind that is not known", configEntries, "nosuch", 500, []string{"invalid config entry kind: nosuch"}, nil},
		{"entry that is not there", configEntries, "service-defaults/x", 404, []string{`Config entry not found for "service-defaults" / "x"`}, nil},
		{"kind without entries", configEntries, "service-router", 0, []string{"[]"}, nil},
		{"filtered entries", configEntries, "service-defaults?filter=Protocol==tcp", 0, []string{"[]"}, nil},
		{"filtered intentions", configEntries, "service-intentions?filter=Name==a", 500, []string{"filtering not supported for config entry kind=service-intentions"}, nil},
		{"chain", discoveryChain, "api", 0, []string{`"Protocol":"http"`, `"StartNode":"resolver:api.default.default.dc1"`, `"SNI":"api.default.dc1.internal.mesh.consul"`}, nil},
		{"no chain", discoveryChain, "", 400, []string{"Missing chain name"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := answerTo(t, v, c.endpoint, c.path)
			code := 0
			if r := (failure{}); errors.As(err, &r) {
				code, got = r.code, r.text
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code {
				t.Errorf("code %d, want %d: %s", code, c.code, got)
			}
			for _, part := range c.has {
				if !strings.Contains(got, part) {
					t.Errorf("no %s in %s", part, got)
				}
			}
			for _, part := range c.hasNot {
				if strings.Contains(got, part) {
					t.Errorf("%s in %s", part, got)
				}
			}
		})
	}
}

// TestFilterIsBounded gives expressions of which the parser's work grows without end.
func TestFilterIsBounded(t *testing.T) {
	for name, expression := range map[string]string{
		"long":    "ID==" + strings.Repeat("x", 5000),
		"deep":    strings.Repeat("(", 30) + "ID==x" + strings.Repeat(")", 30),
		"not":     strings.Repeat("not ", 1000) + "ID==x",
		"unclear": strings.Repeat("(ID==x or ", 5) + "x",
	} {
		if _, err := newFilter[intentionAnswer](expression); err == nil && name != "not" {
			t.Errorf("%s: is taken", name)
		}
	}
	nested := strings.Repeat("(", 5) + "ID==x" + strings.Repeat(")", 5)
	if f, err := newFilter[intentionAnswer](nested); err != nil || f == nil {
		t.Errorf("%s: %v", nested, err)
	}
}

// TestDepends changes one thing after the other, and wants all answers that are others then to depend on something that is another.
func TestDepends(t *testing.T) {
	questions := []struct {
		name     string
		endpoint answering
		path     string
	}{
		{"list", intentionList, ""},
		{"pair", intentionPair, "?source=web&destination=api"},
		{"check", intentionCheck, "?source=web&destination=api"},
		{"check of the unknown", intentionCheck, "?source=web&destination=x"},
		{"match", intentionMatch, "?by=destination&name=api"},
		{"health", healthService, "api"},
		{"connect", healthConnect, "api"},
		{"state", healthState, "any"},
		{"checks", healthChecks, "api"},
		{"names", catalogServices, ""},
		{"catalog", catalogService, "api"},
		{"catalog connect", catalogConnect, "api"},
		{"datacenters", catalogDatacenters, ""},
		{"nodes", catalogNodes, ""},
		{"agent", agentServices, ""},
		{"agent one", agentService, "api-1"},
		{"native", catalogConnect, "x"},
		{"self", agentSelf, ""},
		{"leader", statusLeader, ""},
		{"entry", configEntries, "service-intentions/api"},
		{"entries", configEntries, ""},
		{"chain", discoveryChain, "api"},
		{"chain of the unknown", discoveryChain, "x"},
	}
	m := mesh()
	v := m.View()
	others := map[string]int{}
	var entries *chain.Entries
	for _, change := range []func(){
		func() { m.Intentions[0].Action = intention.Deny },
		func() { m.Intentions = m.Intentions[:4] },
		func() {
			m.Intentions = append(m.Intentions, intention.Intention{Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("*")})
		},
		func() { m.Registrations[0].Checks[0].Status = "passing" },
		func() { m.Registrations[0].Tags = []string{"red"} },
		func() {
			m.Registrations = append(m.Registrations, catalog.Registration{ID: "x", Service: identity.NewName("x"), Native: true})
		},
		func() { m.Sidecars[0].Config = "" },
		func() { m.Entries[0].Meta = map[string]string{"a": "c"} },
		func() {
			m.Entries = append(m.Entries, catalog.Entry{Kind: "proxy-defaults", Name: "global", Fields: `{"Config":{"protocol":"http"}}`})
			entries = &chain.Entries{Proxy: chain.Defaults{Protocol: "http"}}
		},
		func() {
			name := identity.NewName("x")
			entries = &chain.Entries{Proxy: chain.Defaults{Protocol: "http"}, Routers: map[identity.Name]*chain.Router{name: {Service: name}}}
		},
		func() { m.Services[1].Protocol = catalog.GRPC; m.Entries[1].Fields = `{"Protocol":"grpc"}` },
		func() { m.Mesh.Default = intention.Deny },
		func() { m.Mesh.Datacenters = []string{"dc1", "dc2"} },
	} {
		before := v
		change()
		c := m.Contents()
		c.ChainEntries = entries
		v = v.Next(c)
		for _, q := range questions {
			a := &ask{&question{caller: Caller{Reader: true}}, &node{name: "n1"}}
			if u, err := url.Parse(q.path); err == nil {
				a.name, a.query = u.Path, u.Query()
			}
			was, _ := answerTo(t, before, q.endpoint, q.path)
			is, _ := answerTo(t, v, q.endpoint, q.path)
			if was != is {
				others[q.name]++
				if slices.Equal(q.endpoint.depends(before, a), q.endpoint.depends(v, a)) {
					t.Errorf("%s: depends on nothing that is another, and was\n%s\nand is\n%s", q.name, was, is)
				}
			}
		}
	}
	for _, q := range questions {
		if others[q.name] == 0 && q.name != "leader" {
			t.Errorf("%s: no change of this test is one of it", q.name)
		}
	}
}
