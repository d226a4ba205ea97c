package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

const chainEntries = `config_entries { bootstrap = [
  { kind = "proxy-defaults" name = "global" config { protocol = "http" } },
  { kind = "service-resolver" name = "api" default_subset = "v1"
    subsets { v1 = { filter = "Service.Meta.v == 1" } v2 = { only_passing = true } }
    load_balancer { policy = "ring_hash" hash_policies = [{ field = "cookie" field_value = "x" cookie_config { ttl = "30s" } }] }
    failover { v1 = { service = "b" } } },
  { kind = "service-splitter" name = "api" splits = [{ weight = 90 request_headers { set { x = "1" } remove = ["y"] } }, { weight = 10 service_subset = "v2" }] },
  { kind = "service-router" name = "api" routes = [
    { match { http { path_prefix = "/admin" methods = ["get"] header = [{ name = "x-debug" present = true }] } }
      destination { service = "b" prefix_rewrite = "/" num_retries = 3 retry_on = ["5xx"] request_timeout = "3s" idle_timeout = "-1s" } },
    { match { http { path_exact = "/x" query_param = [{ name = "q" exact = "1" }] } } destination { service_subset = "v2" } },
    { match { http { path_regex = "/y.*" header = [{ name = "x-z" exact = "1" invert = true }] } } } ] }
] }
`

const chainPrinted = `discovery chain of api in dc1, http
└─ router of api
   ├─ [0] path prefix /admin, method GET, header x-debug present  (chain.hcl:9)
   │     rewritten to /, timeout 3s, no idle timeout, 3 retries, retried on 5xx
   │  └─ b, connect timeout 5s
   ├─ [1] path /x, parameter q is 1  (chain.hcl:11)
   │  └─ v2 of api (only passing), connect timeout 5s, ring_hash by cookie x for 30s
   ├─ [2] path regex /y.*, not header x-z is 1  (chain.hcl:12)
   │  └─ splitter of api, ring_hash by cookie x for 30s
   │     ├─ 90 % v1 of api (Service.Meta.v == 1), connect timeout 5s, ring_hash by cookie x for 30s; fails over to b
   │     │     set request header x: 1
   │     │     remove request header y
   │     └─ 10 % v2 of api (only passing), connect timeout 5s, ring_hash by cookie x for 30s
   └─ [3] path prefix /  (chain.hcl:8)
      └─ splitter of api (as above)
`

func TestChainCommand(t *testing.T) {
	withoutVariables(t)
	dir := t.TempDir()
	writeText(t, filepath.Join(dir, "chain.hcl"), chainEntries)
	got, err := command(t, "chain", "api", "--catalog", dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(chainPrinted, got); diff != "" {
		t.Error(diff)
	}
	got, err = command(t, "chain", "api", "--catalog", dir, "--json", "--datacenter", "dc7")
	if err != nil || !strings.Contains(got, `"StartNode": "router:api.default.default"`) || !strings.Contains(got, `"SNI": "v1.api.default.dc7.internal.mesh.invalid"`) {
		t.Errorf("%v\n%s", err, got)
	}
	got, err = command(t, "chain", "apii", "--catalog", dir)
	if want := `warning: no service "apii" is registered, and no entry is about it: did you mean "api"?
discovery chain of apii in dc1, http (default: no entry changes it)
└─ apii, connect timeout 5s
`; err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
}

// A running control plane tells its chains as the files have them by then.
func TestChainCommandServed(t *testing.T) {
	c, dir := startServe(t)
	got, err := command(t, "chain", "api", "--runtime-dir", "rt")
	if err != nil || !strings.Contains(got, "(default: no entry changes it)") {
		t.Errorf("%v\n%s", err, got)
	}
	writeText(t, filepath.Join(dir, "cat", "chain.hcl"), `config_entries { bootstrap = [{ kind = "service-resolver" name = "api" redirect { service = "b" } }, { kind = "service-defaults" name = "b" protocol = "http" }, { kind = "service-defaults" name = "api" protocol = "http" }] }`)
	for end := time.Now().Add(awaitDeadline); ; time.Sleep(10 * time.Millisecond) {
		if compiled, err := c.Chain(t.Context(), "api", ""); err == nil && !compiled.Default {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the chain stays: %+v, %v", compiled, err)
		}
	}
	got, err = command(t, "chain", "api", "--runtime-dir", "rt", "--datacenter", "dc7")
	if want := "discovery chain of api in dc7, http\n└─ b, connect timeout 5s\n"; err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err = command(t, "chain", "api", "--runtime-dir", "rt", "--revocation", "drain"); err == nil {
		t.Errorf("a flag of files is taken: %s", got)
	}
}

// Where chains come compiled those are told that proxies here dial by.
func TestChainBesideConsul(t *testing.T) {
	name := identity.NewName
	c := catalogtest.Mesh{
		Mesh:     catalog.Mesh{TrustDomain: exampleDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}},
		Services: []catalog.Service{{Name: name("plain"), Protocol: catalog.HTTP}},
	}.Contents()
	c.Whole, c.Chains = false, []*chain.Chain{{Service: name("api"), Datacenter: "dc1", Protocol: "http", Start: "x"}}
	v := (&catalog.View{}).Next(c)
	if got, err := v.CompileChain(name("api"), "", chain.Overrides{}); err != nil || got != c.Chains[0] {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := v.CompileChain(name("plain"), "", chain.Overrides{}); err != nil || !got.Default || got.Protocol != "http" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := v.CompileChain(name("other"), "", chain.Overrides{})
	if err == nil || err.Error() != "no proxy here dials other in dc1, so its discovery chain is not known here: ask Consul (/v1/discovery-chain/other)" {
		t.Error(err)
	}
}

// What people wrote cannot move a terminal's cursor, and a route that is not served says so.
func TestChainPrintedSafely(t *testing.T) {
	e := &chain.Entries{Datacenter: "dc1", TrustDomain: "x", Proxy: chain.Defaults{Protocol: "http"}, Routers: map[identity.Name]*chain.Router{identity.NewName("a"): {
		Service: identity.NewName("a"), Routes: []chain.Route{{Match: &chain.HTTPMatch{PathExact: "/\x1b[2J"}, Destination: &chain.Destination{PrefixRewrite: "x"}}},
	}}}
	c, _, err := chain.Compile(e, identity.NewName("a"), chain.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := printChain(&b, c); err != nil || strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), "answered 503: the route PrefixRewrite doesn't start") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
