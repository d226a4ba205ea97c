package catalog_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// chainOf is a chain of a service in dc1 that speaks http, with these targets.
func chainOf(service string, targets ...chain.Target) *chain.Chain {
	c := &chain.Chain{Service: name(service), Datacenter: "dc1", Protocol: "http", Targets: map[string]*chain.Target{}}
	for _, t := range targets {
		t.ID = t.Subset + "." + t.Service.Service + "." + t.Datacenter
		c.Targets[t.ID] = &t
	}
	return c
}

// withChains is a mesh in which web, shop and batch dial api, other dials db, and api is reached by a chain with targets of its own subset v1
// and of db in dc2.
func withChains() catalogtest.Mesh {
	proxy := func(id, to string, p catalog.Protocol) catalog.Proxy {
		return catalog.Proxy{ID: identity.ProxyID(id), Service: name(id), Upstreams: []catalog.Upstream{
			{Destination: name(to), Protocol: catalog.OptionalProtocol{Set: p != catalog.HTTP, Protocol: p}},
		}}
	}
	at := func(service, datacenter, subset string, ports ...uint16) catalog.Endpoints {
		e := catalog.Endpoints{Name: name(service), Datacenter: datacenter, Subset: subset}
		for _, p := range ports {
			e.List = append(e.List, catalog.Endpoint{Address: "127.0.0.1", Port: p, Weight: 1, Healthy: true})
		}
		return e
	}
	return catalogtest.Mesh{
		Mesh:      contents().Mesh,
		Services:  []catalog.Service{{Name: name("api"), Protocol: catalog.HTTP}, {Name: name("db"), Protocol: catalog.HTTP}},
		Proxies:   []catalog.Proxy{proxy("web", "api", catalog.HTTP), proxy("shop", "api", catalog.HTTP), proxy("batch", "api", catalog.TCP), proxy("other", "db", catalog.HTTP)},
		Endpoints: []catalog.Endpoints{at("api", "", "", 1, 2), at("api", "", "v1", 1), at("db", "", "", 3), at("db", "dc2", "", 4)},
		Chains: []*chain.Chain{chainOf("api", chain.Target{Service: name("api"), Subset: "v1", Datacenter: "dc1"}, chain.Target{Service: name("db"), Datacenter: "dc2"},
			chain.Target{Service: name("db"), Peer: "p"}, chain.Target{Service: name("api"), Subset: "v9", Datacenter: "dc1"})},
	}
}

// TestChains: who dials a service by a chain has the endpoints of its targets, and is visited when those change, and no others are.
func TestChains(t *testing.T) {
	m := withChains()
	v := m.View()
	dialled := v.Proxy("web").Upstreams[0]
	if dialled.Chain == nil || dialled.Chain != v.Proxy("shop").Upstreams[0].Chain || len(dialled.Endpoints.List) > 0 {
		t.Fatalf("web dials %+v", dialled)
	}
	ports := func(id string) (out []uint16) {
		for _, e := range v.Proxy("web").Upstreams[0].Chain.Endpoints[id].List {
			out = append(out, e.Port)
		}
		return out
	}
	for id, want := range map[string][]uint16{"v1.api.dc1": {1}, ".db.dc2": {4}, ".db.": nil, "v9.api.dc1": nil} {
		if got := ports(id); !slices.Equal(got, want) {
			t.Errorf("%s has the ports %v, want %v", id, got, want)
		}
	}
	if x := v.Proxy("batch").Upstreams[0]; x.Chain != nil || len(x.Endpoints.List) != 2 {
		t.Errorf("batch, which speaks tcp, dials %+v", x)
	}
	if x := v.Proxy("other").Upstreams[0]; x.Chain != nil || len(x.Endpoints.List) != 1 {
		t.Errorf("other dials %+v, and db has no chain", x)
	}
	step := func(what string, change func(*catalogtest.Mesh), want ...string) {
		t.Helper()
		old := v
		change(&m)
		v = v.Next(m.Contents())
		var got []string
		for id := range v.Since(old) {
			got = append(got, string(id))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v are concerned, want %v", what, got, want)
		}
		if again, from := written(v), written(m.View()); again != from {
			t.Errorf("%s:\n%s\nfrom zero:\n%s", what, again, from)
		}
	}
	unhealthy := func(at int) func(*catalogtest.Mesh) {
		return func(m *catalogtest.Mesh) {
			m.Endpoints = slices.Clone(m.Endpoints)
			m.Endpoints[at].List = slices.Clone(m.Endpoints[at].List)
			m.Endpoints[at].List[0].Healthy = !m.Endpoints[at].List[0].Healthy
		}
	}
	other := v.Proxy("web").Upstreams[0].Chain.Endpoints[".db.dc2"]
	step("an endpoint of the subset", unhealthy(1), "shop", "web")
	if v.Proxy("web").Upstreams[0].Chain.Endpoints[".db.dc2"] != other {
		t.Error("the endpoints of another target changed with those of the subset")
	}
	step("an endpoint of all of api", unhealthy(0), "batch")
	step("an endpoint of db here", unhealthy(2), "other")
	step("an endpoint of db in dc2", unhealthy(3), "shop", "web")
	step("endpoints that were not there", func(m *catalogtest.Mesh) {
		e := m.Endpoints[1]
		e.Subset = "v9"
		m.Endpoints = append(m.Endpoints, e)
	}, "shop", "web")
	if !slices.Equal(ports("v9.api.dc1"), []uint16{1}) {
		t.Error("the endpoints of v9 are not seen")
	}
	chains := m.Chains
	step("a chain that says the same", func(m *catalogtest.Mesh) { m.Chains = withChains().Chains })
	step("a chain that says something else", func(m *catalogtest.Mesh) {
		c := *m.Chains[0]
		c.Start = "x"
		m.Chains = []*chain.Chain{&c}
	}, "shop", "web")
	step("one more chain", func(m *catalogtest.Mesh) { m.Chains = append(slices.Clone(m.Chains), chainOf("db")) }, "other")
	step("no chain any more", func(m *catalogtest.Mesh) { m.Chains = nil }, "other", "shop", "web")
	step("the chain again", func(m *catalogtest.Mesh) { m.Chains = chains }, "shop", "web")
	step("api speaks tcp", func(m *catalogtest.Mesh) {
		m.Services = slices.Clone(m.Services)
		m.Services[0].Protocol = catalog.TCP
	}, "batch", "shop", "web")
	if c := v.Proxy("web").Upstreams[0].Chain; c != nil {
		t.Errorf("web speaks tcp, and has the chain %+v", c)
	}
}

// Entries that chains are compiled of change the View if they say something else, and only then.
func TestChainEntries(t *testing.T) {
	entries := func(protocol string) *chain.Entries { return &chain.Entries{Proxy: chain.Defaults{Protocol: protocol}} }
	c := catalogtest.Mesh{Mesh: catalog.Mesh{Datacenter: "dc1", Datacenters: []string{"dc1"}}}.Contents()
	c.Whole, c.ChainEntries = true, entries("http")
	v := (&catalog.View{}).Next(c)
	c.ChainEntries = entries("http")
	if next := v.Next(c); next != v {
		t.Error("equal entries make another View")
	}
	c.ChainEntries = entries("grpc")
	next := v.Next(c)
	if got, err := next.CompileChain(name("api"), "", chain.Overrides{}); err != nil || got.Protocol != "grpc" || !got.Default {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := v.CompileChain(name("api"), "dc2", chain.Overrides{Protocol: "http2"}); err != nil || got.Protocol != "http2" || got.Customization == "" || got.Start != "resolver:api.default.default.dc2" {
		t.Errorf("%+v, %v", got, err)
	}
}
