package snapshot_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/internal/golden"
	"github.com/sallyport/sallyport/snapshot"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// twoSubsets are v1, which has an instance that v2 has not, and v2.
var twoSubsets = []catalog.Endpoints{reached("api", "v1", "", at("10.0.0.1")), reached("api", "v2", "", at("10.0.0.2"))}

func resolverOf(service string, r chain.Resolver) chain.Resolver {
	r.Service = named(service)
	return r
}

func withBalancer(lb chain.LoadBalancer) chained {
	return chained{protocol: catalog.HTTP, resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{LoadBalancer: &lb})}, endpoints: []catalog.Endpoints{reached("api", "", "", at("10.0.0.1"))}}
}

// failingOver has the subset v1 of api, then all of api, then other in dc2, then that here.
func failingOver(p catalog.Protocol) chained {
	return chained{
		protocol: p,
		resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{
			DefaultSubset: "v1", Subsets: map[string]chain.Subset{"v1": {}, "v2": {}},
			Failover: map[string]chain.Failover{"*": {Targets: []chain.FailoverTarget{{Subset: "v2"}, {Service: "other", Datacenter: "dc2"}, {Service: "other"}}}},
		})},
		endpoints: []catalog.Endpoints{
			reached("api", "v1", "", at("10.0.0.1"), sick(at("10.0.0.2"))), reached("api", "v2", "", at("10.0.0.3")),
			reached("other", "", "dc2", at("10.2.0.1")), reached("other", "", "", at("10.0.1.1")),
		},
	}
}

var clusterCases = map[string]func() chained{
	"split of subsets": func() chained {
		return chained{
			protocol: catalog.HTTP, endpoints: twoSubsets,
			resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{Subsets: map[string]chain.Subset{"v1": {}, "v2": {}}})},
			splitters: []chain.Splitter{{Service: named("api"), Splits: []chain.Split{{Weight: 99, Subset: "v1"}, {Weight: 1, Subset: "v2"}}}},
		}
	},
	"failover":        func() chained { return failingOver(catalog.HTTP) },
	"failover of tcp": func() chained { return failingOver(catalog.TCP) },
	"failover of http2": func() chained {
		m := failingOver(catalog.HTTP2)
		m.upstreams = []catalog.Upstream{{
			Destination: named("api"), BindPort: 9100, ConnectTimeout: 3 * time.Second, Limits: catalog.Limits{MaxConnections: catalog.Limit{Set: true, N: 7}},
			Passive: catalog.PassiveHealthCheck{Set: true, MaxFailures: catalog.Limit{Set: true, N: 3}},
		}}
		return m
	},
	"a limit of who is left out": func() chained {
		m := failingOver(catalog.HTTP)
		m.upstreams = []catalog.Upstream{{Destination: named("api"), BindPort: 9100, Passive: catalog.PassiveHealthCheck{Set: true, MaxEjectionPercent: catalog.Limit{Set: true, N: 40}}}}
		return m
	},
	"no endpoints at first": func() chained {
		m := failingOver(catalog.HTTP)
		m.endpoints = m.endpoints[1:2]
		return m
	},
	"names of hosts": func() chained {
		m := failingOver(catalog.HTTP)
		m.endpoints[2].List = append(slices.Clone(m.endpoints[2].List), at("other.internal"))
		return m
	},
	"redirect of tcp": func() chained {
		return chained{
			resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{Redirect: &chain.Redirect{Service: "other"}})},
			endpoints: []catalog.Endpoints{reached("other", "", "", at("10.0.1.1"))},
		}
	},
	"redirect of http": func() chained {
		return chained{
			protocol: catalog.HTTP, resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{Redirect: &chain.Redirect{Service: "other"}})},
			endpoints: []catalog.Endpoints{reached("other", "", "", at("10.0.1.1"))},
		}
	},
	"an address twice": func() chained {
		m := failingOver(catalog.HTTP)
		m.endpoints = []catalog.Endpoints{
			reached("api", "v1", "", at("10.0.0.1"), sick(at("10.0.0.2")), sick(at("10.0.0.4")), at("::1")),
			reached("api", "v2", "", at("10.0.0.1"), at("10.0.0.2"), sick(at("10.0.0.4")), at("0:0:0:0:0:0:0:1"), at("10.0.0.3")),
			reached("other", "", "", at("10.0.0.3"), sick(at("10.0.0.2"))),
		}
		return m
	},
	"connect timeout": func() chained {
		m := withBalancer(chain.LoadBalancer{})
		m.resolvers[0].ConnectTimeout = 9 * time.Second
		return m
	},
	"balancer round_robin":   func() chained { return withBalancer(chain.LoadBalancer{Policy: "round_robin"}) },
	"balancer random":        func() chained { return withBalancer(chain.LoadBalancer{Policy: "random"}) },
	"balancer maglev":        func() chained { return withBalancer(chain.LoadBalancer{Policy: "maglev"}) },
	"balancer least_request": func() chained { return withBalancer(chain.LoadBalancer{Policy: "least_request"}) },
	"balancer least_request of 5": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "least_request", LeastRequest: &chain.LeastRequest{ChoiceCount: 5}})
	},
	"balancer least_request of one": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "least_request", LeastRequest: &chain.LeastRequest{ChoiceCount: 1}})
	},
	"balancer ring_hash": func() chained { return withBalancer(chain.LoadBalancer{Policy: "ring_hash"}) },
	"balancer ring_hash of a size": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 2048, MaximumRingSize: 4096}})
	},
	"balancer ring_hash, small": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MaximumRingSize: 100}})
	},
	"balancer ring_hash, too large": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 1 << 40}})
	},
	"balancer ring_hash, larger than max": func() chained {
		return withBalancer(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 900, MaximumRingSize: 800}})
	},
	"balancer that nobody knows": func() chained { return withBalancer(chain.LoadBalancer{Policy: "fastest"}) },
	"settings of two upstreams": func() chained {
		m := failingOver(catalog.HTTP)
		m.upstreams = []catalog.Upstream{
			{Destination: named("api"), BindPort: 9101, ConnectTimeout: 2 * time.Second}, {Destination: named("api"), BindPort: 9100}, {Destination: named("api"), BindPort: 9102},
		}
		return m
	},
	"a service beside those whose chains lead to it": func() chained {
		return chained{
			protocol: catalog.HTTP, resolvers: []chain.Resolver{resolverOf("api", chain.Resolver{Redirect: &chain.Redirect{Service: "other"}})},
			endpoints: []catalog.Endpoints{reached("other", "", "", at("10.0.1.1"))},
			upstreams: []catalog.Upstream{{Destination: named("api"), BindPort: 9100}, {Destination: named("other"), BindPort: 9101}},
		}
	},
	"what is not supported": func() chained {
		m := failingOver(catalog.HTTP)
		m.spoil = func(all []*chain.Chain) {
			for _, t := range all[0].Targets {
				switch {
				case t.Datacenter == "dc2":
					t.GatewayMode = "local"
				case t.Subset == "v2":
					t.External, t.SNI = true, "api.example.com"
				case t.Service == named("other"):
					t.GatewayMode = "remote" // of this datacenter it means nothing
				}
			}
		}
		return m
	},
	"a peer": func() chained {
		m := failingOver(catalog.TCP)
		m.resolvers[0].Failover = map[string]chain.Failover{"*": {Targets: []chain.FailoverTarget{{Service: "other", Peer: "p"}}}}
		return m
	},
	"names that nobody can have": func() chained {
		m := failingOver(catalog.HTTP)
		m.spoil = func(all []*chain.Chain) {
			for id, t := range all[0].Targets {
				switch {
				case t.Datacenter == "dc2":
					t.Service = named("an other")
				case t.Subset == "v2":
					delete(all[0].Targets, id)
				}
			}
		}
		return m
	},
	"tcp with a router": func() chained {
		m := failingOver(catalog.TCP)
		m.spoil = func(all []*chain.Chain) { all[0].Start = "router:api.default.default" }
		return m
	},
}

// TestChainClusters compares the clusters of chains with testdata/clusters.golden.
func TestChainClusters(t *testing.T) {
	all := map[string]any{}
	for name, c := range clusterCases {
		r := build(t, c().input(t))
		delete(r.Clusters, "public_listener")
		of := map[string]any{"leads": r.Clusters}
		if len(r.Warnings) > 0 {
			of["warnings"] = r.Warnings
		}
		for _, res := range r.ByType[clusters] {
			if res.GetName() == "local_app" {
				continue
			}
			text := map[string]any{"cluster": legible(t, resource(t, r, clusters, res.GetName(), &clusterv3.Cluster{}))}
			if r.ByType[endpoints].Get(res.GetName()) != nil {
				text["endpoints"] = levelsOf(resource(t, r, endpoints, res.GetName(), &endpointv3.ClusterLoadAssignment{}))
			}
			of[res.GetName()] = text
		}
		all[name] = of
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(all); err != nil {
		t.Fatal(err)
	}
	golden.New(t, "testdata", ".golden").Equal(t, "clusters.golden", bytes.ReplaceAll(b.Bytes(), []byte(trustDomain), []byte("<trust domain>")))
}

// levelsOf are the endpoints of a cluster for people, a line each.
func levelsOf(a *endpointv3.ClusterLoadAssignment) (out []string) {
	if f := a.GetPolicy().GetOverprovisioningFactor(); f != nil {
		out = append(out, fmt.Sprintf("factor %d", f.GetValue()))
	}
	for _, l := range a.GetEndpoints() {
		if len(l.GetLbEndpoints()) == 0 {
			out = append(out, fmt.Sprintf("%d nobody locality=%q", l.GetPriority(), l.GetLocality().GetSubZone()))
		}
		for _, e := range l.GetLbEndpoints() {
			address := e.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out, fmt.Sprintf("%d %s:%d %s weight=%d locality=%q target=%q", l.GetPriority(), address.GetAddress(), address.GetPortValue(), e.GetHealthStatus(), e.GetLoadBalancingWeight().GetValue(),
				l.GetLocality().GetSubZone(), e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"].GetFields()["target"].GetStringValue()))
		}
	}
	return out
}

// legible is m for people, of whose TLS contexts there is the peer and what is spoken.
func legible(t testing.TB, m proto.Message) any {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	delete(out, "name")
	delete(out, "cluster_name")
	delete(out, "typed_extension_protocol_options")
	short := func(of map[string]any, s *corev3.TransportSocket) {
		var c tlsv3.UpstreamTlsContext
		if err := s.GetTypedConfig().UnmarshalTo(&c); err != nil {
			t.Fatal(err)
		}
		peer := c.GetCommonTlsContext().GetCombinedValidationContext()
		of["transport_socket"] = strings.Join(append([]string{
			c.GetSni(), peer.GetDefaultValidationContext().GetMatchTypedSubjectAltNames()[0].GetMatcher().GetExact(),
			peer.GetValidationContextSdsSecretConfig().GetName(),
		}, c.GetCommonTlsContext().GetAlpnProtocols()...), " ")
	}
	if c, ok := m.(*clusterv3.Cluster); ok {
		if c.GetLoadAssignment() != nil {
			out["load_assignment"] = levelsOf(c.GetLoadAssignment())
		}
		short(out, c.GetTransportSocket())
		for i, s := range c.GetTransportSocketMatches() {
			short(out["transport_socket_matches"].([]any)[i].(map[string]any), s.GetTransportSocket())
		}
	}
	return out
}

// TestChainsOfOthersAreNothing: who dials a service without a chain is told the same whatever other chains lead to.
func TestChainsOfOthersAreNothing(t *testing.T) {
	with := failingOver(catalog.HTTP)
	with.upstreams = []catalog.Upstream{{Destination: named("other"), BindPort: 9100}}
	mesh := with.mesh(t)
	without := versions(build(t, inputOf(t, mesh.Contents())))
	with.upstreams = append(with.upstreams, catalog.Upstream{Destination: named("api"), BindPort: 9101})
	now := versions(build(t, with.input(t)))
	for name, version := range without {
		if now[name] != version {
			t.Errorf("%s is another one when a service with a chain is dialled, too", name)
		}
	}
}

// TestEndpointsOfOneTarget: a change of one target's endpoints makes the assignments of the resolvers with that target anew, and nothing else.
func TestEndpointsOfOneTarget(t *testing.T) {
	m := clusterCases["split of subsets"]()
	mesh := m.mesh(t)
	var cache snapshot.Cache
	first, err := cache.Build(inputOf(t, mesh.Contents()), nil)
	if err != nil {
		t.Fatal(err)
	}
	v := mesh.View()
	mesh.Endpoints = slices.Clone(mesh.Endpoints)
	mesh.Endpoints[1].List = []catalog.Endpoint{at("10.0.0.9")}
	in := snapshot.Input{ProxyView: v.Proxy("web-sidecar-proxy"), Envoy: newest}
	first, err = cache.Build(in, first)
	if err != nil {
		t.Fatal(err)
	}
	in.ProxyView = v.Next(mesh.Contents()).Proxy("web-sidecar-proxy")
	second, err := cache.Build(in, first)
	same(t, "an endpoint of v2", in, second, err)
	var made []string
	for _, url := range slices.Sorted(maps.Keys(second.ByType)) {
		for i, r := range second.ByType[url] {
			if url != endpoints && !second.ByType[url].Is(first.ByType[url]) {
				t.Errorf("%s are made again", url)
			}
			if first.ByType[url][i] != r {
				made = append(made, r.GetName())
			}
		}
	}
	if want := []string{"v2.api.default.dc1.internal." + trustDomain}; !slices.Equal(made, want) {
		t.Errorf("%v were made, want %v", made, want)
	}
}

// manyRoutes has ten routes to splits of three subsets each, each of which has two others for its failover.
func manyRoutes() chained {
	m := chained{protocol: catalog.HTTP, resolvers: []chain.Resolver{}, routers: []chain.Router{{Service: named("api")}}}
	for i := range 10 {
		service := fmt.Sprintf("api-%d", i)
		m.routers[0].Routes = append(m.routers[0].Routes, chain.Route{
			Match: &chain.HTTPMatch{PathPrefix: "/" + service, Header: []chain.HeaderMatch{{Name: "x-version", Exact: "2"}}}, Destination: &chain.Destination{Service: service, PrefixRewrite: "/"},
		})
		r := chain.Resolver{Subsets: map[string]chain.Subset{}, Failover: map[string]chain.Failover{}}
		s := chain.Splitter{Service: named(service)}
		for k, weight := range []float64{98, 1, 1} {
			subset := fmt.Sprintf("v%d", k)
			r.Subsets[subset] = chain.Subset{}
			r.Failover[subset] = chain.Failover{Targets: []chain.FailoverTarget{{Subset: fmt.Sprintf("v%d", (k+1)%3)}, {Subset: fmt.Sprintf("v%d", (k+2)%3)}}}
			s.Splits = append(s.Splits, chain.Split{Weight: weight, Subset: subset})
			m.endpoints = append(m.endpoints, reached(service, subset, "", at(fmt.Sprintf("10.%d.%d.1", i, k)), at(fmt.Sprintf("10.%d.%d.2", i, k))))
		}
		m.resolvers, m.splitters = append(m.resolvers, resolverOf(service, r)), append(m.splitters, s)
	}
	return m
}

// BenchmarkChain builds a proxy that dials by a chain with 31 resolvers: the first time, and after a change of one target's endpoints.
func BenchmarkChain(b *testing.B) {
	m := manyRoutes()
	mesh := m.mesh(b)
	v := mesh.View()
	mesh.Endpoints = slices.Clone(mesh.Endpoints)
	mesh.Endpoints[7].List = []catalog.Endpoint{at("10.9.9.9")}
	first := snapshot.Input{ProxyView: v.Proxy("web-sidecar-proxy"), Envoy: newest}
	second := first
	second.ProxyView = v.Next(mesh.Contents()).Proxy("web-sidecar-proxy")
	for _, c := range []struct {
		name  string
		in    snapshot.Input
		again bool
	}{{"first", first, false}, {"endpoint", second, true}} {
		b.Run("change="+c.name, func(b *testing.B) {
			var cache snapshot.Cache
			last, err := cache.Build(first, nil)
			if err != nil {
				b.Fatal(err)
			}
			size := 0
			for _, r := range all(last) {
				size += proto.Size(r)
			}
			if !c.again {
				last = nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cache.Build(c.in, last); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size), "resource-bytes")
		})
	}
}
