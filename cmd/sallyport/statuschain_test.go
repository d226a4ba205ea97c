package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/xds"
)

// chainMesh is one in which web dials api, of which a subset answers, then other, then a peer's.
func chainMesh() catalogtest.Mesh {
	name := identity.NewName
	target := func(id, service, subset, datacenter, peer string) *chain.Target {
		return &chain.Target{ID: id, Service: name(service), Subset: subset, Datacenter: datacenter, Peer: peer}
	}
	return catalogtest.Mesh{
		Mesh: catalog.Mesh{TrustDomain: exampleDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}},
		Proxies: []catalog.Proxy{{ID: "web-sidecar-proxy", Instance: "web", Service: name("web"), Upstreams: []catalog.Upstream{
			{Destination: name("api"), BindAddress: "127.0.0.1", BindPort: 9191, Origin: "web.hcl:9"},
		}}},
		Services:   []catalog.Service{{Name: name("api"), Protocol: catalog.HTTP}, {Name: name("other"), Protocol: catalog.HTTP}},
		Endpoints:  []catalog.Endpoints{{Name: name("api"), Subset: "v1", List: []catalog.Endpoint{{Address: "10.0.0.1", Port: 21000, Weight: 1, Healthy: true}}}},
		Intentions: []intention.Intention{{Source: intention.Source{Name: name("web")}, Destination: name("api"), Action: intention.Allow}},
		Chains: []*chain.Chain{{Service: name("api"), Datacenter: "dc1", Protocol: "http", Targets: map[string]*chain.Target{
			"v1.api.default.default.dc1":       target("v1.api.default.default.dc1", "api", "v1", "dc1", ""),
			"other.default.default.dc1":        target("other.default.default.dc1", "other", "", "dc1", ""),
			"other.default.default.external.p": target("other.default.default.external.p", "other", "", "", "p"),
		}}},
	}
}

// TestPrintChain: of an upstream with a discovery chain the targets are shown.
func TestPrintChain(t *testing.T) {
	v := chainMesh().View()
	var out strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	d, err := describeProxy(v, "web-sidecar-proxy", []xds.ProxyStatus{{ID: "web-sidecar-proxy"}})
	if err != nil || len(d.Upstreams) != 1 {
		t.Fatalf("describeProxy = %+v, %v", d, err)
	}
	printUpstreams(func(string) {}, line, d.Upstreams)
	const want = `api (http) at 127.0.0.1:9191, by its discovery chain  web.hcl:9
  other.default.default.dc1, expects spiffe://example.consul/ns/default/dc/dc1/svc/other: no endpoints
  other.default.default.external.p, of another cluster: not reached
  v1.api.default.default.dc1, expects spiffe://example.consul/ns/default/dc/dc1/svc/api
    endpoint 10.0.0.1:21000, healthy, weight 1
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !served(v, identity.NewName("api")) || served(v, identity.NewName("other")) {
		t.Error("who is served is not who has endpoints on the chain")
	}
}

// TestUninvitedByChain: who is led to a service by a chain needs its intention, too.
func TestUninvitedByChain(t *testing.T) {
	got := uninvited(chainMesh().Contents())
	const want = "upstream api, whose discovery chain leads to other: no intention of other names web, and the default policy denies, so it is refused: write one that allows it"
	if len(got) != 1 || got[0].Text != want || got[0].Line != 9 {
		t.Errorf("uninvited = %+v, want %q", got, want)
	}
}
