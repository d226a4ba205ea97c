//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// chainMistakes are lists of entries, the last of which is wrong, alone or beside those before it. Of some mistakes there are several, at
// places that are picked.
func chainMistakes(r *rand.Rand) (list [][]any) {
	n := 0
	service := func(i int) string { return fmt.Sprintf("%c-mistakes%d", 'a'+i, n) }
	add := func(entries ...any) {
		list = append(list, entries)
		n++
	}
	name := func(i int) identity.Name { return identity.NewName(service(i)) }
	route := func(routes ...chain.Route) any {
		// Routes that are right are before and behind the wrong one.
		right := []chain.Route{{Match: &chain.HTTPMatch{PathPrefix: "/ok"}}, {Destination: &chain.Destination{NumRetries: 1}}}
		all := append(append([]chain.Route{}, right[:r.IntN(3)]...), routes...)
		return &chain.Router{Service: name(0), Routes: append(all, right[:r.IntN(3)]...)}
	}
	for range 2 {
		for _, m := range []chain.HTTPMatch{
			{PathExact: "x"}, {PathPrefix: "x/"}, {PathExact: "/a", PathPrefix: "/b"}, {PathExact: "/a", PathRegex: "b"}, {PathPrefix: "/a", PathRegex: "b", PathExact: "/c"}, {PathExact: "a", PathPrefix: "b"},
			{Header: []chain.HeaderMatch{{Present: true}}}, {Header: []chain.HeaderMatch{{Name: "x"}}}, {Header: []chain.HeaderMatch{{Name: "x", Exact: "1"}, {Name: "x", Exact: "1", Prefix: "1"}}},
			{Header: []chain.HeaderMatch{{Name: "x", Present: true, Regex: "1"}}}, {Header: []chain.HeaderMatch{{}}},
			{QueryParam: []chain.QueryMatch{{Exact: "1"}}}, {QueryParam: []chain.QueryMatch{{Name: "q"}}}, {QueryParam: []chain.QueryMatch{{Name: "q", Present: true}, {Name: "q", Exact: "1", Regex: "1"}}},
			{Methods: []string{"FETCH"}}, {Methods: []string{"GET", "PUT", "GET"}}, {Methods: []string{"GET", ""}},
		} {
			add(route(chain.Route{Match: &m}))
		}
	}
	for _, d := range []chain.Destination{{RetryOn: []string{"always"}}, {RetryOn: []string{"5xx", "retriable-headers"}}, {PrefixRewrite: "/"}, {RetryOn: []string{"reset-before-request"}, PrefixRewrite: "/"}} {
		add(route(chain.Route{Destination: &d}))
	}
	add(route(chain.Route{Match: &chain.HTTPMatch{PathRegex: "/x"}, Destination: &chain.Destination{PrefixRewrite: "/"}}))

	split := func(splits ...chain.Split) any { return &chain.Splitter{Service: name(0), Splits: splits} }
	add(split())
	for _, weights := range [][2]float64{{50, 49.99}, {33.333, 66.66}, {0, 0}, {100, 100}, {0.004, 99.99}} {
		add(split(chain.Split{Weight: weights[0]}, chain.Split{Weight: weights[1], Service: service(1)}))
	}
	add(split(chain.Split{Weight: 50}, chain.Split{Weight: 50}))
	add(split(chain.Split{Weight: 50, Subset: "v1"}, chain.Split{Weight: 50, Service: service(0), Subset: "v1"}))
	add(split(chain.Split{Weight: 20, Service: service(2)}, chain.Split{Weight: 20, Service: service(1)}, chain.Split{Weight: 60, Service: service(2)}))

	resolve := func(e chain.Resolver) any { e.Service = name(0); return &e }
	for _, subset := range []string{"", "V1", "-a", "a-", "a_b", "a.b", "*", "é", strings.Repeat("a", 64)} {
		add(resolve(chain.Resolver{Subsets: map[string]chain.Subset{subset: {}}}))
	}
	for _, filter := range []string{"Service.Meta.v = 1", "==", " ", "Service.Meta.v == 1 and", `Service.Meta.v == "1`, "(Service.ID == 1", "not", "Service.Port == 10.0.0.1"} {
		add(resolve(chain.Resolver{Subsets: map[string]chain.Subset{"v1": {Filter: filter}, "v2": {Filter: "Service.Meta.v == 1"}}}))
	}
	subsets := map[string]chain.Subset{"v1": {}, "v2": {}}
	add(resolve(chain.Resolver{DefaultSubset: "v1"}))
	add(resolve(chain.Resolver{DefaultSubset: "v9", Subsets: subsets}))
	for _, d := range []chain.Redirect{
		{}, {Subset: "v1"}, {Service: "self", Subset: "v9"}, {Peer: "p"}, {Peer: "p", Service: "x", Datacenter: "dc2"}, {Peer: "p", Datacenter: "dc2"}, {Peer: "p", Subset: "v1"}, {Peer: "p", Service: "x", Subset: "v1"},
		{Peer: "p", Service: "x", Subset: "v1", Datacenter: "dc2"}, {Datacenter: "dc2", Subset: "v1"},
	} {
		if d.Service == "self" {
			d.Service = service(0)
		}
		add(resolve(chain.Resolver{Subsets: subsets, Redirect: &d}))
	}
	add(resolve(chain.Resolver{Redirect: &chain.Redirect{Service: "x"}, Failover: map[string]chain.Failover{"*": {Service: "y"}}}))
	for _, f := range []chain.Failover{
		{}, {Subset: "v9"}, {Service: "self", Subset: "v9"}, {Datacenters: []string{""}}, {Service: "x", Datacenters: []string{"dc2", ""}}, {Service: "x", Targets: []chain.FailoverTarget{{Service: "y"}}},
		{Subset: "v1", Targets: []chain.FailoverTarget{{Service: "y"}}}, {Datacenters: []string{"dc2"}, Targets: []chain.FailoverTarget{{Service: "y"}}},
		{Service: "x", Subset: "v1", Targets: []chain.FailoverTarget{{Service: "y"}}}, {Service: "x", Datacenters: []string{""}, Targets: []chain.FailoverTarget{{Service: "y"}}},
		{Service: "x", Datacenters: []string{"dc2"}, Subset: "v9", Targets: []chain.FailoverTarget{{Service: "y"}}}, {Subset: "v9", Datacenters: []string{""}},
		{Targets: []chain.FailoverTarget{{Service: "y"}, {Subset: "v9"}}}, {Targets: []chain.FailoverTarget{{Peer: "p", Subset: "v1"}}}, {Targets: []chain.FailoverTarget{{Service: "y", Peer: "p", Datacenter: "dc2"}}},
		{Targets: []chain.FailoverTarget{{Peer: "p", Subset: "v9", Datacenter: "dc2"}}},
	} {
		if f.Service == "self" {
			f.Service = service(0)
		}
		add(resolve(chain.Resolver{Subsets: subsets, Failover: map[string]chain.Failover{pick(r, "*", "v1"): f}}))
	}
	add(resolve(chain.Resolver{Failover: map[string]chain.Failover{"v9": {Service: "x"}}}))
	add(resolve(chain.Resolver{Failover: map[string]chain.Failover{"": {Service: "x"}}}))
	add(resolve(chain.Resolver{Failover: map[string]chain.Failover{"v9": {}}}))
	add(resolve(chain.Resolver{ConnectTimeout: -time.Second}))
	add(resolve(chain.Resolver{RequestTimeout: -1500 * time.Millisecond}))
	add(resolve(chain.Resolver{RequestTimeout: -1, ConnectTimeout: -1}))
	hash := func(h ...chain.HashPolicy) chain.LoadBalancer {
		return chain.LoadBalancer{Policy: pick(r, "maglev", "ring_hash"), HashPolicies: append([]chain.HashPolicy{{SourceIP: true}, {}}[:r.IntN(3)], h...)}
	}
	for _, l := range []chain.LoadBalancer{
		{Policy: "fastest"}, {Policy: "Random"}, {Policy: "maglev", RingHash: &chain.RingHash{}}, {RingHash: &chain.RingHash{MinimumRingSize: 1}}, {Policy: "random", LeastRequest: &chain.LeastRequest{ChoiceCount: 3}},
		{Policy: "fastest", LeastRequest: &chain.LeastRequest{ChoiceCount: 3}}, {Policy: "random", LeastRequest: &chain.LeastRequest{}, RingHash: &chain.RingHash{}, HashPolicies: []chain.HashPolicy{{}}},
		{Policy: "least_request", HashPolicies: []chain.HashPolicy{{SourceIP: true}}}, {HashPolicies: []chain.HashPolicy{{Field: "method"}}},
		hash(chain.HashPolicy{Field: "method", FieldValue: "x"}), hash(chain.HashPolicy{Field: "method", SourceIP: true}), hash(chain.HashPolicy{Field: "header", SourceIP: true}),
		hash(chain.HashPolicy{FieldValue: "x", SourceIP: true}), hash(chain.HashPolicy{Field: "cookie"}), hash(chain.HashPolicy{FieldValue: "x"}), hash(chain.HashPolicy{SourceIP: true, Cookie: &chain.CookieConfig{}}),
		hash(chain.HashPolicy{Field: "header", FieldValue: "x", Cookie: &chain.CookieConfig{Session: true, TTL: time.Second}}), hash(chain.HashPolicy{Field: "cookie", FieldValue: "x", Cookie: &chain.CookieConfig{Session: true, TTL: time.Second}}),
		hash(chain.HashPolicy{Field: "cookie", Cookie: &chain.CookieConfig{Session: true, TTL: time.Second}}),
	} {
		add(resolve(chain.Resolver{LoadBalancer: &l}))
	}

	// Beside others.
	tcp := func(i int) any { return &chainDefaults{service(i), chain.Defaults{Protocol: "tcp"}} }
	speaks := func(i int, protocol string) any {
		return &chainDefaults{service(i), chain.Defaults{Protocol: protocol}}
	}
	add(tcp(0), route())
	add(speaks(0, ""), route())
	add(speaks(0, "spdy"), split(chain.Split{Weight: 100}))
	add(route(), tcp(0))
	add(split(chain.Split{Weight: 50, Service: service(1)}, chain.Split{Weight: 50}), speaks(1, "grpc"))
	add(tcp(1), split(chain.Split{Weight: 100, Service: service(1)}))
	add(speaks(1, "http2"), route(chain.Route{Destination: &chain.Destination{Service: service(1)}}))
	add(speaks(1, "HTTP2"), route(chain.Route{Destination: &chain.Destination{Service: service(1)}}))
	add(tcp(1), resolve(chain.Resolver{Redirect: &chain.Redirect{Service: service(1)}}))
	add(tcp(1), resolve(chain.Resolver{Failover: map[string]chain.Failover{"*": {Service: service(1)}}}))
	add(tcp(1), resolve(chain.Resolver{Failover: map[string]chain.Failover{"*": {Targets: []chain.FailoverTarget{{Peer: "p"}, {Service: service(1)}}}}}))
	add(route(chain.Route{Destination: &chain.Destination{Subset: "v9"}}))
	add(route(chain.Route{Destination: &chain.Destination{Service: service(1), Subset: "v9"}}))
	add(split(chain.Split{Weight: 100, Subset: "v9"}))
	add(resolve(chain.Resolver{Redirect: &chain.Redirect{Service: service(1), Subset: "v9"}}))
	add(resolve(chain.Resolver{Failover: map[string]chain.Failover{"*": {Service: service(1), Subset: "v9"}}}))
	add(resolve(chain.Resolver{Failover: map[string]chain.Failover{"*": {Targets: []chain.FailoverTarget{{Service: service(1), Subset: "v9"}}}}}))
	add(resolve(chain.Resolver{Subsets: subsets}), route(chain.Route{Destination: &chain.Destination{Subset: "v2"}}), resolve(chain.Resolver{Subsets: map[string]chain.Subset{"v1": {}}}))
	back := func(i int, e chain.Resolver) any { e.Service = name(i); return &e }
	add(back(1, chain.Resolver{Redirect: &chain.Redirect{Service: service(0)}}), resolve(chain.Resolver{Redirect: &chain.Redirect{Service: service(1)}}))
	add(back(1, chain.Resolver{Redirect: &chain.Redirect{Service: service(2)}}), back(2, chain.Resolver{Redirect: &chain.Redirect{Service: service(0)}}), resolve(chain.Resolver{Redirect: &chain.Redirect{Service: service(1)}}))
	leads := func(i, to int) any {
		return &chain.Splitter{Service: name(i), Splits: []chain.Split{{Weight: 50, Service: service(to)}, {Weight: 50}}}
	}
	add(leads(1, 0), split(chain.Split{Weight: 40, Service: service(1)}, chain.Split{Weight: 60}))
	add(leads(1, 2), leads(2, 0), split(chain.Split{Weight: 40, Service: service(1)}, chain.Split{Weight: 60, Service: service(2)}))
	external := &chainDefaults{service(0), chain.Defaults{Protocol: "http", ExternalSNI: "sni.example"}}
	add(external, resolve(chain.Resolver{Subsets: subsets}))
	external = &chainDefaults{service(0), chain.Defaults{Protocol: "http", ExternalSNI: "sni.example"}}
	add(external, resolve(chain.Resolver{Failover: map[string]chain.Failover{"*": {Service: service(1)}}}))
	external = &chainDefaults{service(0), chain.Defaults{Protocol: "http", ExternalSNI: "sni.example"}}
	add(external, resolve(chain.Resolver{Redirect: &chain.Redirect{Service: service(0)}}))
	external = &chainDefaults{service(0), chain.Defaults{Protocol: "http", ExternalSNI: "sni.example"}}
	add(resolve(chain.Resolver{Subsets: subsets}), external)
	return list
}
