package snapshot_test

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// elsewhere adds what files cannot say: each upstream is dialled in dc2 as well, and the one with a
// port in its own datacenter spelled out.
func elsewhere(c *catalog.Contents) {
	c.Mesh.Datacenters = []string{"dc1", "dc2"}
	for _, p := range c.Proxies {
		for _, u := range slices.Clone(p.Upstreams) {
			far, spelled := u, u
			far.Datacenter, spelled.Datacenter = "dc2", c.Mesh.Datacenter
			if u.BindPort == 0 {
				far.BindSocket += "-dc2"
				p.Upstreams = append(p.Upstreams, far)
				continue
			}
			far.BindPort++
			spelled.BindPort += 2
			p.Upstreams = append(p.Upstreams, far, spelled)
		}
	}
	for _, s := range slices.Clone(c.Services) {
		s := *s
		s.Datacenter = "dc2"
		c.Services = append(c.Services, &s)
	}
	for _, e := range slices.Clone(c.Endpoints) {
		e := *e
		e.Datacenter = "dc2"
		e.List = slices.Clone(e.List)
		for i := range e.List {
			e.List[i].Address = "10.2.0.1"
		}
		c.Endpoints = append(c.Endpoints, &e)
	}
	c.Sort()
}

// TestUpstreamsInDatacenters: one service in two datacenters is two, and the mesh's own spelled out
// is another listener to the same.
func TestUpstreamsInDatacenters(t *testing.T) {
	in := input(compile("web", intention.Deny), catalog.Inbound{})
	here, there := target("api", catalog.TCP, at("10.0.0.1")), target("api", catalog.TCP, at("10.9.0.1"))
	there.Service.Datacenter, there.Endpoints.Datacenter = "dc2", "dc2"
	for i, u := range []catalog.Upstream{{}, {Datacenter: "dc1"}, {Datacenter: "dc2"}} {
		u.Destination, u.BindPort = here.Service.Name, 9100+uint16(i)
		in.Proxy.Upstreams = append(in.Proxy.Upstreams, u)
	}
	in.Upstreams = []catalog.Target{here, here, there}
	r := build(t, in)
	for listener, datacenter := range map[string]string{"api:127.0.0.1:9100": "dc1", "api?dc=dc1:127.0.0.1:9101": "dc1", "api?dc=dc2:127.0.0.1:9102": "dc2"} {
		sni := "api.default." + datacenter + ".internal." + trustDomain
		tcp := &tcpv3.TcpProxy{}
		if err := resource(t, r, listeners, listener, &listenerv3.Listener{}).FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(tcp); err != nil {
			t.Fatal(err)
		}
		if tcp.GetCluster() != sni || tcp.StatPrefix != "upstream.api.default.default."+datacenter {
			t.Errorf("%s leads to %s, counted as %s", listener, tcp.GetCluster(), tcp.StatPrefix)
		}
		up := &tlsv3.UpstreamTlsContext{}
		if err := resource(t, r, clusters, sni, &clusterv3.Cluster{}).TransportSocket.GetTypedConfig().UnmarshalTo(up); err != nil {
			t.Fatal(err)
		}
		sans := up.CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext.MatchTypedSubjectAltNames
		want := "spiffe://" + trustDomain + "/ns/default/dc/" + datacenter + "/svc/api"
		if up.Sni != sni || len(sans) != 1 || sans[0].Matcher.GetExact() != want {
			t.Errorf("%s: SNI %s, who answers %v", sni, up.Sni, sans)
		}
		want = map[string]string{"dc1": "10.0.0.1", "dc2": "10.9.0.1"}[datacenter]
		list := resource(t, r, endpoints, sni, &endpointv3.ClusterLoadAssignment{}).Endpoints
		if len(list) != 1 || list[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress().Address != want {
			t.Errorf("%s is reached at %v, want %s", sni, list, want)
		}
	}
	if n := len(r.ByType[clusters]); n != 3 { // with local_app
		t.Errorf("%d clusters, want 3", n)
	}
}
