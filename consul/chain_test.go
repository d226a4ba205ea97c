package consul

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
)

// chainOf is the chain of a service in dc1 that speaks http and is not the default one: a resolver with the targets, of which all but the first
// are its failover. Targets are written as "v1.api.dc1".
func chainOf(service string, targets ...string) object {
	return splitOf(service, targets)
}

// splitOf is a chain whose legs are resolvers, if there is more than one.
func splitOf(service string, legs ...[]string) object {
	nodes, all := object{}, object{}
	var splits []any
	start := "splitter:" + service
	for _, leg := range legs {
		resolver := object{"Target": leg[0], "ConnectTimeout": "5s"}
		if len(leg) > 1 {
			resolver["Failover"] = object{"Targets": leg[1:]}
		}
		key := "resolver:" + leg[0]
		nodes[key] = object{"Type": "resolver", "Name": leg[0], "Resolver": resolver}
		splits = append(splits, object{"Weight": 100 / len(legs), "NextNode": key})
		for _, id := range leg {
			all[id] = targetJSON(id)
		}
		if len(legs) == 1 {
			start = key
		}
	}
	if len(legs) > 1 {
		nodes[start] = object{"Type": "splitter", "Name": service, "Splits": splits}
	}
	return object{"Chain": object{"ServiceName": service, "Datacenter": "dc1", "Protocol": "http", "StartNode": start, "Nodes": nodes, "Targets": all}}
}

func targetJSON(id string) object {
	parts := strings.Split(id, ".")
	t := object{"ID": id, "Service": parts[len(parts)-2], "Datacenter": parts[len(parts)-1], "SNI": id + ".internal", "Name": id + ".internal", "ConnectTimeout": "5s"}
	if len(parts) == 3 {
		t["ServiceSubset"] = parts[0]
		t["Subset"] = object{"Filter": "Service.Meta.version == " + parts[0]}
	}
	return t
}

// targetIn is a target of such a chain, to be changed.
func targetIn(o object, id string) object {
	return o["Chain"].(object)["Targets"].(object)[id].(object)
}

func written(t *testing.T, o object) []byte {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDiscovery reads what Consul 1.19.2 says of a chain with all that there is.
func TestDiscovery(t *testing.T) {
	d, err := readDiscovery(edit(t, "chain-routed.json"), "api")
	if err != nil || d.err != nil {
		t.Fatal(err, d.err)
	}
	c := d.chain
	if c.Default || c.Protocol != "http" || c.Start != "router:api.default.default" || len(c.Nodes) != 5 || len(c.Targets) != 4 {
		t.Fatalf("%+v", c)
	}
	want := chain.NodeRoute{
		Next: "resolver:v2.api.default.default.dc1",
		Definition: &chain.Route{
			Match: &chain.HTTPMatch{
				PathPrefix: "/admin", CaseInsensitive: true, Methods: []string{"GET", "POST"},
				Header:     []chain.HeaderMatch{{Name: "x-debug", Present: true}, {Name: "x-v", Regex: "[0-9]+", Invert: true}},
				QueryParam: []chain.QueryMatch{{Name: "q", Exact: "1"}},
			},
			Destination: &chain.Destination{
				Subset: "v2", PrefixRewrite: "/", RequestTimeout: 15 * time.Second, IdleTimeout: time.Minute, NumRetries: 3, RetryOnConnectFailure: true,
				RetryOn: []string{"5xx"}, RetryOnStatusCodes: []uint32{503}, RequestHeaders: &chain.HeaderModifiers{Add: map[string]string{"x-r": "1"}},
			},
		},
	}
	if diff := cmp.Diff(want, c.Nodes[c.Start].Routes[0]); diff != "" {
		t.Errorf("route (-want +got):\n%s", diff)
	}
	resolver := &chain.Node{
		Type: chain.ResolverNode, Name: "v1.api.default.default.dc1",
		Resolver: &chain.Resolution{
			ConnectTimeout: 3 * time.Second, RequestTimeout: 7 * time.Second, Target: "v1.api.default.default.dc1",
			Failover: []string{"api-old.default.default.dc1", "v1.api.default.default.dc2"},
		},
		LoadBalancer: &chain.LoadBalancer{
			Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 64, MaximumRingSize: 512},
			HashPolicies: []chain.HashPolicy{{Field: "cookie", FieldValue: "sid", Cookie: &chain.CookieConfig{TTL: time.Minute, Path: "/"}}, {SourceIP: true, Terminal: true}},
		},
	}
	if diff := cmp.Diff(resolver, c.Nodes["resolver:v1.api.default.default.dc1"]); diff != "" {
		t.Errorf("resolver (-want +got):\n%s", diff)
	}
	if n := c.Nodes["splitter:api.default.default"]; len(n.Splits) != 3 || n.Splits[1].Weight != 9.5 || n.Splits[1].Definition.ResponseHeaders.Remove[0] != "x-c" || n.LoadBalancer.Policy != "ring_hash" {
		t.Errorf("splitter %+v", n)
	}
	x := c.Targets["v2.api.default.default.dc1"]
	if x.Service.String() != "api" || x.Subset != "v2" || x.Filter != "Service.Meta.version == v2" || !x.OnlyPassing || x.ConnectTimeout != 3*time.Second || !strings.HasPrefix(x.SNI, "v2.api.default.dc1.internal.") {
		t.Errorf("target %+v", x)
	}
}

// A chain that is none is the error of its target alone; what its service speaks is read all the same.
func TestBrokenChain(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"no start":      {`"StartNode": "router:api`, `"StartNode": "x`, `discovery chain of "api": its StartNode "x.default.default" is not there`},
		"circle":        {`"NextNode": "resolver:v2.api.default.default.dc1"`, `"NextNode": "router:api.default.default"`, `discovery chain of "api": node `},
		"no target":     {`"Target": "v1.api`, `"Target": "x`, `discovery chain of "api": node "resolver:v1.api.default.default.dc1" has the target "x.default.default.dc1", which is not there`},
		"something new": {`"Type": "splitter"`, `"Type": "oracle"`, `discovery chain of "api": node "splitter:api.default.default": "oracle" is no type of nodes`},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := readDiscovery(edit(t, "chain-routed.json", c.old, c.new), "api")
			if err != nil || d.err == nil || !strings.HasPrefix(d.err.Error(), c.want) || d.protocol != "http" {
				t.Errorf("%v, %+v; want %s", err, d, c.want)
			}
			if l := d.lead("api", "", "dc1", ""); l.err == nil || l.chain != nil {
				t.Errorf("%+v", l)
			}
		})
	}
	for _, text := range []string{`{}`, `{"Chain": null}`, `{"Chain": {"ServiceName": "db"}}`, `[]`} {
		if d, err := readDiscovery([]byte(text), "api"); err == nil {
			t.Errorf("%s is %+v", text, d)
		}
	}
}

// What a chain leads to, and what of it is refused.
func TestLead(t *testing.T) {
	for name, c := range map[string]struct {
		chain   object
		change  func(object)
		mode    string // of those who dial
		asked   string // for which endpoints
		refused string // why there are no others
		err     string
	}{
		"subset":             {chain: chainOf("api", "v1.api.dc1"), asked: "api?filter=Service.Meta.version == v1"},
		"redirect":           {chain: chainOf("api", "other.dc1"), asked: "other"},
		"another datacenter": {chain: chainOf("api", "api.dc2"), asked: "api?dc=dc2"},
		"failover":           {chain: chainOf("api", "api.dc1", "v1.api.dc2", "other.dc1"), asked: "api, api?dc=dc2&filter=Service.Meta.version == v1, other"},
		"peer": {
			chain: chainOf("api", "api.dc1", "api.x"), change: func(o object) { targetIn(o, "api.x")["Peer"], targetIn(o, "api.x")["Datacenter"] = "east", "" },
			asked: "api", refused: `the target api.x is of the peer "east", and peers are not supported yet: it has no endpoints`,
		},
		"namespace": {
			chain: chainOf("api", "api.dc1", "api.x"), change: func(o object) { targetIn(o, "api.x")["Namespace"] = "shop" },
			asked: "api", refused: "the target api.x is in a namespace or a partition, which are not supported yet: it has no endpoints",
		},
		"external": {
			chain: chainOf("api", "api.dc1", "other.dc1"), change: func(o object) { targetIn(o, "other.dc1")["External"] = true },
			asked: "api", refused: "the target other.dc1 has an ExternalSNI, which is not supported yet: it has no endpoints",
		},
		"gateway": {
			chain: chainOf("api", "api.dc1", "api.dc2"), change: func(o object) {
				for _, id := range []string{"api.dc1", "api.dc2"} {
					targetIn(o, id)["MeshGateway"] = object{"Mode": "local"}
				}
			},
			asked: "api", refused: "the target api.dc2 is dialled through mesh gateways (mode local), which are not supported yet: it has no endpoints",
		},
		"gateway that those who dial do without": {
			chain: chainOf("api", "api.dc1", "api.dc2"), change: func(o object) { targetIn(o, "api.dc2")["MeshGateway"] = object{"Mode": "local"} }, mode: "none",
			asked: "api, api?dc=dc2",
		},
		"gateway of those who dial": {
			chain: chainOf("api", "api.dc1", "api.dc2"), mode: "remote",
			asked: "api", refused: "the target api.dc2 is dialled through mesh gateways (mode remote), which are not supported yet: it has no endpoints",
		},
		"a peer alone": {
			chain: chainOf("api", "api.x"), change: func(o object) { targetIn(o, "api.x")["Peer"] = "east" },
			refused: `the target api.x is of the peer "east", and peers are not supported yet: it has no endpoints`, err: `the target api.x is of the peer "east", and peers are not supported yet`,
		},
		"the default one": {
			chain: chainOf("api", "api.dc1"), change: func(o object) { o["Chain"].(object)["Default"] = true }, asked: "api",
		},
		"the default one, external": {
			chain: chainOf("api", "api.dc1"), change: func(o object) {
				o["Chain"].(object)["Default"], targetIn(o, "api.dc1")["External"] = true, true
			},
			err: "the target api.dc1 has an ExternalSNI, which is not supported yet",
		},
		"no datacenter's name": {
			chain: chainOf("api", "api.dc1", "api.x"), change: func(o object) { targetIn(o, "api.x")["Datacenter"] = "d c" },
			asked: "api", refused: `the target api.x is in the datacenter "d c", which cannot be part of an identity: it has no endpoints`,
		},
		"no service's name": {
			chain: chainOf("api", "api.dc1", "api.x"), change: func(o object) { targetIn(o, "api.x")["Service"] = "a?b" },
			asked: "api", refused: "the target api.x has a name that cannot be part of an identity: it has no endpoints",
		},
		"no subset's name": {
			chain: chainOf("api", "api.dc1", "v1.api.dc1"), change: func(o object) { targetIn(o, "v1.api.dc1")["ServiceSubset"] = "V&1" },
			asked: "api", refused: `the target v1.api.dc1 is a subset whose name "V&1" is none of Consul's: it has no endpoints`,
		},
		"filter that is too long": {
			chain: chainOf("api", "api.dc1", "v1.api.dc1"), change: func(o object) {
				targetIn(o, "v1.api.dc1")["Subset"] = object{"Filter": strings.Repeat("x", longestFilter+1)}
			},
			asked: "api", refused: "the target v1.api.dc1 has a filter of 200001 bytes, and 200000 are the most: it has no endpoints",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(c.chain)
			}
			d, err := readDiscovery(written(t, c.chain), "api")
			if err != nil {
				t.Fatal(err)
			}
			l := d.lead("api", "", "dc1", c.mode)
			var asked []string
			for _, g := range l.groups {
				asked = append(asked, g.asked())
			}
			slices.SortFunc(asked, func(a, b string) int {
				return strings.Compare(strings.ReplaceAll(a, "?", "~"), strings.ReplaceAll(b, "?", "~"))
			})
			if got := strings.Join(asked, ", "); got != c.asked {
				t.Errorf("asked for %s, want %s", got, c.asked)
			}
			if got := strings.Join(l.refused, "; "); got != c.refused {
				t.Errorf("refused %s\nwant %s", got, c.refused)
			}
			if got := fmt.Sprint(l.err); got != c.err && (l.err != nil || c.err != "") {
				t.Errorf("error %s, want %s", got, c.err)
			}
			if (l.chain == nil) != d.chain.Default || l.chain != nil && len(l.chain.Targets) != len(d.chain.Targets) {
				t.Errorf("targets %v", l.chain.Targets)
			}
		})
	}
}
