package consul

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

func TestChain(t *testing.T) {
	b, err := os.ReadFile("testdata/chain-api.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		old, new string
		want     string        // the error
		timeout  time.Duration // else
	}{
		"default":         {},
		"connect timeout": {`"Default": true, "ConnectTimeout": "5s"`, `"Default": false, "ConnectTimeout": "15s"`, "", 15 * time.Second},
		"another service": {`"Service": "api"`, `"Service": "api-v2"`, `service-resolver/api: redirection to the service "api-v2" is not supported yet`, 0},
		"another datacenter": {`"Datacenter": "dc1",
        "MeshGateway"`, `"Datacenter": "dc2", "MeshGateway"`, `service-resolver/api: redirection to the datacenter "dc2" is not supported yet`, 0},
		"a subset": {`"Service": "api"`, `"Service": "api", "ServiceSubset": "v2"`, "service-resolver/api: subsets are not supported yet", 0},
		"a peer":   {`"Service": "api"`, `"Service": "api", "Peer": "east"`, "service-resolver/api: peers are not supported yet", 0},
		"a namespace": {`"Service": "api",
        "Namespace": "default"`, `"Service": "api", "Namespace": "shop"`, "service-resolver/api: namespaces and partitions are not supported yet", 0},
		"external":        {`"Service": "api"`, `"Service": "api", "External": true`, "service-defaults/api: ExternalSNI is not supported yet", 0},
		"failover":        {`"Target": "api.default.default.dc1"`, `"Target": "api.default.default.dc1", "Failover": {"Targets": ["x"]}`, "service-resolver/api: failover is not supported yet", 0},
		"request timeout": {`"Target": "api.default.default.dc1"`, `"Target": "api.default.default.dc1", "RequestTimeout": 1000`, "service-resolver/api: RequestTimeout is not supported yet", 0},
		"load balancer":   {`"Type": "resolver"`, `"Type": "resolver", "LoadBalancer": {"Policy": "maglev"}`, `service-resolver/api: the load balancer "maglev" is not supported yet`, 0},
		"round robin":     {`"Type": "resolver"`, `"Type": "resolver", "LoadBalancer": {"Policy": "round_robin"}`, "", 0},
		"router":          {`"Type": "resolver"`, `"Type": "router"`, "service-router/api: routes are not supported yet", 0},
		"splitter":        {`"Type": "resolver"`, `"Type": "splitter"`, "service-splitter/api: splits are not supported yet", 0},
		"something new":   {`"Type": "resolver"`, `"Type": "oracle"`, `a chain that begins with "oracle" is not supported yet`, 0},
		"no start":        {`"StartNode": "resolver:`, `"StartNode": "x:`, "the chain has no start", 0},
		"no target":       {`"Target": "api`, `"Target": "x`, "the chain has no target", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(string(b), c.old) {
				t.Fatalf("no %s", c.old)
			}
			a := parse[chainAnswer](t, strings.Replace(string(b), c.old, c.new, 1))
			r, err := a.Chain.defaultRoute("api", "dc1")
			if fmt.Sprint(err) != c.want && (err != nil || c.want != "") || r.connectTimeout != c.timeout {
				t.Errorf("%v, %v; want %q, %v", r, err, c.want, c.timeout)
			}
		})
	}
}

// A chain that is not the default one takes away its upstream alone, and gives it back.
func TestChainChanges(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(time.Second)
		f.set("/v1/discovery-chain/api", edit(t, "chain-api.json", `"Type": "resolver"`, `"Type": "splitter"`))
		after(time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy" {
			t.Errorf("proxies %q", got)
		}
		if want := "proxy web-sidecar-proxy, upstream api: service web-sidecar-proxy: service-splitter/api: splits are not supported yet: its listener is not there"; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		f.set("/v1/discovery-chain/api", edit(t, "chain-api.json", `"Protocol": "tcp"`, `"Protocol": "grpc"`))
		after(time.Second)
		up := p.must(t).Proxies[1].Upstreams
		if want := (catalog.OptionalProtocol{Set: true, Protocol: catalog.TCP}); strings.Contains(problems(a), "upstream api") || len(up) != 1 || up[0].Protocol != want {
			t.Errorf("upstream whose config says tcp: %+v, problems\n%s", up, problems(a))
		}
		f.set("/v1/catalog/node-services/n1", edit(t, "node-services.json", `"MaxConcurrentRequests": null`, `"MaxConcurrentRequests": 9`))
		after(time.Second)
		if want := "proxy web-sidecar-proxy, upstream api: service web-sidecar-proxy: max_concurrent_requests has no meaning for protocol tcp: max_connections limits it"; !strings.Contains(problems(a), want) {
			t.Errorf("problems\n%s", problems(a))
		}
		f.file("/v1/discovery-chain/api", "chain-api.json")
		after(time.Second)
		if got := ids(p.must(t)); got != "api-1-sidecar-proxy, web-sidecar-proxy api" {
			t.Errorf("proxies %q", got)
		}
	})
}
