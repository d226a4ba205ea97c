package main

import (
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/xdstest"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestReferences: the short way through the bytes finds what a walk through whole messages finds.
func TestReferences(t *testing.T) {
	mesh := &catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString("bench.test"), Datacenter: "dc1", Datacenters: []string{"dc1"}}
	seen := map[string]int{}
	for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP, catalog.GRPC} {
		for _, enforcement := range []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both} {
			target := func(name, address string) catalog.Target {
				n := identity.NewName(name)
				list := []catalog.Endpoint{{Address: address, Port: 1, Weight: 1, Healthy: true}}
				return catalog.Target{Service: &catalog.Service{Name: n, Protocol: protocol}, Endpoints: &catalog.Endpoints{Name: n, List: list}}
			}
			api, named := target("api", "10.0.0.1"), target("named", "named.internal")
			p := &catalog.Proxy{
				ID: "web-sidecar-proxy", Service: identity.NewName("web"),
				Inbound:   catalog.Inbound{Address: "127.0.0.1", Port: 1, LocalPort: 2, Protocol: protocol, Enforcement: enforcement},
				Upstreams: []catalog.Upstream{{Destination: api.Service.Name, BindPort: 3}, {Destination: named.Service.Name, BindPort: 4}},
			}
			r, err := snapshot.Build(snapshot.Input{ProxyView: &catalog.ProxyView{Mesh: mesh, Proxy: p, Upstreams: []catalog.Target{api, named}}, Envoy: snapshot.FeaturesOf(node("web-sidecar-proxy"))})
			if err != nil {
				t.Fatal(err)
			}
			for _, url := range []string{resourcev3.ClusterType, resourcev3.ListenerType} {
				for _, res := range r.ByType[url] {
					got := map[string][]string{}
					references(url, res.GetResource().GetValue(), func(typeURL, name string) {
						got[typeURL] = append(got[typeURL], name)
						seen[typeURL]++
					})
					if diff := cmp.Diff(sorted(xdstest.References(res)), sorted(got)); diff != "" {
						t.Errorf("%s %s, %s, %s (-walk +bytes):\n%s", url, res.GetName(), protocol, enforcement, diff)
					}
				}
			}
		}
	}
	for _, url := range []string{resourcev3.EndpointType, resourcev3.SecretType, resourcev3.ExtensionConfigType, resourcev3.RouteType} {
		if seen[url] == 0 {
			t.Errorf("nothing named a resource of type %s", url)
		}
	}
}

func sorted(byType map[string][]string) map[string][]string {
	for _, names := range byType {
		slices.Sort(names)
	}
	return byType
}

// TestReferencesByHand: so too in places that not every release of sallyport has names in.
func TestReferencesByHand(t *testing.T) {
	ads := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	found := &corev3.ExtensionConfigSource{ConfigSource: ads}
	pack := func(m proto.Message) *anypb.Any {
		t.Helper()
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	web := pack(&hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads, RouteConfigName: "routes"}},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "jwt", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: found}},
			{Name: "rbac", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: found}},
			{Name: "router"},
		},
	})
	chain := func(names ...string) *listenerv3.FilterChain {
		c := &listenerv3.FilterChain{TransportSocket: &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{
			TypedConfig: pack(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "leaf of " + names[0], SdsConfig: ads}, {Name: "in the bootstrap"}},
			}}),
		}}}
		for _, n := range names {
			c.Filters = append(c.Filters, &listenerv3.Filter{Name: n, ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: found}})
		}
		return c
	}
	public, open := chain("rules", "tcp_proxy"), chain("open")
	public.Filters = append(public.Filters, &listenerv3.Filter{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: web}})
	for _, m := range []proto.Message{
		&listenerv3.Listener{Name: "public", FilterChains: []*listenerv3.FilterChain{public}, DefaultFilterChain: open},
		&corev3.TypedExtensionConfig{Name: "http", TypedConfig: web},
	} {
		res := &discoveryv3.Resource{Resource: pack(m)}
		got := map[string][]string{}
		references(res.GetResource().GetTypeUrl(), res.GetResource().GetValue(), func(typeURL, name string) {
			got[typeURL] = append(got[typeURL], name)
		})
		want := sorted(xdstest.References(res))
		if diff := cmp.Diff(want, sorted(got)); diff != "" || len(want) < 2 {
			t.Errorf("%T (-walk +bytes):\n%s", m, diff)
		}
	}
}

// TestReferencesOfGarbage: what cannot be read names nothing, and ends.
func TestReferencesOfGarbage(t *testing.T) {
	for _, b := range [][]byte{nil, {0xff}, {0x1a, 0x05, 0x01}, {0xc2, 0x01, 0x02, 0x1a, 0x00}} {
		for _, url := range []string{resourcev3.ClusterType, resourcev3.ListenerType} {
			references(url, b, func(typeURL, name string) { t.Errorf("%x names %s %q", b, typeURL, name) })
		}
	}
}

// TestArrived: a resource that came twice, or was not asked for, is not missed less.
func TestArrived(t *testing.T) {
	s := &sidecar{asked: map[reference]bool{{resourcev3.SecretType, "roots"}: false, {resourcev3.SecretType, "leaf/web"}: false}, missing: 2}
	for _, name := range []string{"other", "roots", "roots"} {
		s.arrived(reference{resourcev3.SecretType, name})
	}
	if s.missing != 1 {
		t.Errorf("%d missing, want 1", s.missing)
	}
	if types[kindOf(resourcev3.ListenerType)].name != "LDS" {
		t.Error("listeners have another's column")
	}
}
