package chain_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// mesh makes Entries of entries. Services without defaults speak http.
func mesh(list ...any) *chain.Entries {
	e := &chain.Entries{
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
		Defaults: map[identity.Name]*chain.Defaults{}, Proxy: chain.Defaults{Protocol: "http"}, Datacenter: "dc1", TrustDomain: "td.example",
	}
	for _, v := range list {
		switch v := v.(type) {
		case *chain.Router:
			e.Routers[v.Service] = v
		case *chain.Splitter:
			e.Splitters[v.Service] = v
		case *chain.Resolver:
			e.Resolvers[v.Service] = v
		case map[string]chain.Defaults:
			for name, d := range v {
				e.Defaults[identity.NewName(name)] = &d
			}
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	return e
}

func router(service string, routes ...chain.Route) *chain.Router {
	return &chain.Router{Service: identity.NewName(service), Routes: routes, Origin: service + ".hcl:1"}
}

func splitter(service string, splits ...chain.Split) *chain.Splitter {
	return &chain.Splitter{Service: identity.NewName(service), Splits: splits, Origin: service + ".hcl:2"}
}

func resolver(service string, r chain.Resolver) *chain.Resolver {
	r.Service, r.Origin = identity.NewName(service), service+".hcl:3"
	return &r
}

// sketch is a chain in short: one line a node and a target.
func sketch(c *chain.Chain) (lines []string) {
	lines = append(lines, fmt.Sprintf("%s %s default=%t start=%s", c.Service, c.Protocol, c.Default, c.Start))
	for _, key := range slices.Sorted(maps.Keys(c.Nodes)) {
		n := c.Nodes[key]
		var next strings.Builder
		for _, r := range n.Routes {
			next.WriteString(" " + r.Next)
		}
		for _, s := range n.Splits {
			fmt.Fprintf(&next, " %g:%s", s.Weight, s.Next)
			if h := s.Definition.RequestHeaders; h != nil {
				fmt.Fprint(&next, *h)
			}
		}
		line := key + " ->" + next.String()
		if r := n.Resolver; r != nil {
			line += fmt.Sprintf(" %s %s default=%t %q", r.Target, r.ConnectTimeout, r.Default, r.Failover)
		}
		if n.LoadBalancer != nil {
			line += " " + n.LoadBalancer.Policy
		}
		lines = append(lines, line)
	}
	for _, id := range slices.Sorted(maps.Keys(c.Targets)) {
		t := c.Targets[id]
		lines = append(lines, fmt.Sprintf("%s %s %s %q", id, t.ConnectTimeout, t.SNI, t.Filter))
	}
	return lines
}

func TestCompile(t *testing.T) {
	for name, c := range map[string]struct {
		entries *chain.Entries
		service string
		want    string
	}{
		"nothing": {mesh(), "a", `
a http default=true start=resolver:a.default.default.dc1
resolver:a.default.default.dc1 -> a.default.default.dc1 5s default=true []
a.default.default.dc1 5s a.default.dc1.internal.td.example ""`},
		"router, splitter, resolver": {mesh(
			router("a", chain.Route{Destination: &chain.Destination{Service: "b"}}, chain.Route{Destination: &chain.Destination{Subset: "v1"}}, chain.Route{}),
			splitter("b", chain.Split{Weight: 40, Service: "a"}, chain.Split{Weight: 60}), // a's router is not followed
			resolver("a", chain.Resolver{DefaultSubset: "v2", Subsets: map[string]chain.Subset{"v1": {Filter: "x"}, "v2": {}}, LoadBalancer: &chain.LoadBalancer{Policy: "maglev"}}),
			resolver("b", chain.Resolver{Redirect: &chain.Redirect{Service: "c"}, ConnectTimeout: time.Second}),
		), "a", `
a http default=false start=router:a.default.default
resolver:c.default.default.dc1 -> c.default.default.dc1 5s default=true []
resolver:v1.a.default.default.dc1 -> v1.a.default.default.dc1 5s default=false [] maglev
resolver:v2.a.default.default.dc1 -> v2.a.default.default.dc1 5s default=false [] maglev
router:a.default.default -> splitter:b.default.default resolver:v1.a.default.default.dc1 resolver:v2.a.default.default.dc1 resolver:v2.a.default.default.dc1
splitter:b.default.default -> 40:resolver:v2.a.default.default.dc1 60:resolver:c.default.default.dc1 maglev
c.default.default.dc1 5s c.default.dc1.internal.td.example ""
v1.a.default.default.dc1 5s v1.a.default.dc1.internal.td.example "x"
v2.a.default.default.dc1 5s v2.a.default.dc1.internal.td.example ""`},
		// These headers end a Consul of 1.19.2.
		"splitters behind each other": {mesh(
			splitter("a", chain.Split{Weight: 50}, chain.Split{Weight: 50, Service: "b", RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"y": "1", "z": "1"}, Remove: []string{"p", "q"}}}),
			splitter("b", chain.Split{Weight: 33.33, RequestHeaders: &chain.HeaderModifiers{Add: map[string]string{"x": "1"}, Set: map[string]string{"y": "2"}, Remove: []string{"q", "r"}}}, chain.Split{Weight: 66.67, Service: "c"}),
		), "a", `
a http default=false start=splitter:a.default.default
resolver:a.default.default.dc1 -> a.default.default.dc1 5s default=true []
resolver:b.default.default.dc1 -> b.default.default.dc1 5s default=true []
resolver:c.default.default.dc1 -> c.default.default.dc1 5s default=true []
splitter:a.default.default -> 50:resolver:a.default.default.dc1 16.67:resolver:b.default.default.dc1{map[x:1] map[y:2 z:1] [p q r]} 33.34:resolver:c.default.default.dc1{map[] map[y:1 z:1] [p q]}
a.default.default.dc1 5s a.default.dc1.internal.td.example ""
b.default.default.dc1 5s b.default.dc1.internal.td.example ""
c.default.default.dc1 5s c.default.dc1.internal.td.example ""`},
		"failover": {mesh(
			resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"v1": {}}, Failover: map[string]chain.Failover{
				"*": {Targets: []chain.FailoverTarget{{Service: "b"}, {Service: "a"}, {Subset: "v1"}, {Service: "b", Datacenter: "dc2"}}},
			}}),
			resolver("b", chain.Resolver{ConnectTimeout: time.Second, Failover: map[string]chain.Failover{"*": {Service: "c"}}}),
		), "a", `
a http default=false start=resolver:a.default.default.dc1
resolver:a.default.default.dc1 -> a.default.default.dc1 5s default=false ["b.default.default.dc1" "v1.a.default.default.dc1" "b.default.default.dc2"]
a.default.default.dc1 5s a.default.dc1.internal.td.example ""
b.default.default.dc1 1s b.default.dc1.internal.td.example ""
b.default.default.dc2 1s b.default.dc2.internal.td.example ""
v1.a.default.default.dc1 5s v1.a.default.dc1.internal.td.example ""`},
	} {
		t.Run(name, func(t *testing.T) {
			got, uses, err := chain.Compile(c.entries, identity.NewName(c.service), chain.Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(strings.TrimPrefix(c.want, "\n"), "\n"), sketch(got)); diff != "" {
				t.Error(diff)
			}
			if again, _, err := chain.Compile(c.entries, identity.NewName(c.service), chain.Overrides{}); err != nil || !again.Equal(got) {
				t.Error("another time it is another chain", err)
			}
			for _, target := range got.Targets {
				if !slices.Contains(uses, target.Service) {
					t.Errorf("uses are %v", uses)
				}
			}
		})
	}
}

func TestCompileMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		entries *chain.Entries
		service string
		want    string
	}{
		"protocol": {
			mesh(router("a"), map[string]chain.Defaults{"a": {}}), "a",
			`a.hcl:1 service-router/a : discovery chain "a" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`,
		},
		"another protocol": {
			mesh(splitter("a", chain.Split{}, chain.Split{Service: "b"}), map[string]chain.Defaults{"b": {Protocol: "http2"}}), "a",
			`a.hcl:2 service-splitter/a Splits[1]: discovery chain "a" uses inconsistent protocols; service "b" has "http2" which is not "http"`,
		},
		"subset": {
			mesh(router("a", chain.Route{Origin: "a.hcl:7", Destination: &chain.Destination{Service: "b", Subset: "v9"}})), "a",
			`a.hcl:7 service-router/a Routes[0].Destination: service "b" does not have a subset named "v9"`,
		},
		"redirects": {
			mesh(resolver("a", chain.Resolver{Redirect: &chain.Redirect{Service: "b"}}), resolver("b", chain.Resolver{Redirect: &chain.Redirect{Service: "a"}})), "b",
			`a.hcl:3 service-resolver/a Redirect: detected circular resolver redirect: [b.default.default.dc1 -> a.default.default.dc1 -> b.default.default.dc1]`,
		},
		"splitters": {
			mesh(splitter("a", chain.Split{Service: "b"}), splitter("b", chain.Split{Service: "a"})), "b",
			`b.hcl:2 service-splitter/b : detected circular reference: [splitter:b.default.default -> splitter:a.default.default -> splitter:b.default.default]`,
		},
		"external": {
			mesh(resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"v1": {}}}), map[string]chain.Defaults{"a": {Protocol: "http", ExternalSNI: "x"}}), "a",
			`a.hcl:3 service-resolver/a Subsets: service "a" has an external SNI set; cannot define subsets for external services`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := chain.Compile(c.entries, identity.NewName(c.service), chain.Overrides{})
			m, ok := err.(*chain.Mistake) //nolint:errorlint // Compile says so
			if !ok {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, fmt.Sprintf("%s %s/%s %s: %v", m.Origin, m.Kind, m.Service, m.Place(), m)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
