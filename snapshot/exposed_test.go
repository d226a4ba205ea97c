package snapshot_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/snapshot"
)

// exposing is a proxy of an application on port 8080 that exposes one path.
func exposing(in catalog.Inbound, e catalog.ExposedPath) snapshot.Input {
	out := input(compile("web", intention.Deny), in)
	e.Path, e.ListenerPort = "/v1/health-z", 21600
	out.Proxy.Exposed = []catalog.ExposedPath{e}
	return out
}

func TestExposedCluster(t *testing.T) {
	for name, c := range map[string]struct {
		in      catalog.Inbound
		exposed catalog.ExposedPath
		want    string
	}{
		"own port":                      {catalog.Inbound{Protocol: catalog.HTTP}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP}, "local_app"},
		"own port, by its own":          {catalog.Inbound{Protocol: catalog.GRPC}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP}, "local_app"},
		"own port of tcp":               {catalog.Inbound{}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP}, "local_app"},
		"own port of tcp, http2":        {catalog.Inbound{}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP2}, "exposed_cluster_8080"},
		"another port":                  {catalog.Inbound{Protocol: catalog.HTTP}, catalog.ExposedPath{LocalPort: 8081, Protocol: catalog.HTTP}, "exposed_cluster_8081"},
		"port beside a socket":          {catalog.Inbound{Protocol: catalog.HTTP, LocalSocket: "/run/web.sock"}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP}, "exposed_cluster_8080"},
		"port of an address of its own": {catalog.Inbound{Protocol: catalog.HTTP, LocalAddress: "127.0.0.2"}, catalog.ExposedPath{LocalPort: 8081, Protocol: catalog.HTTP2}, "exposed_cluster_8081"},
	} {
		t.Run(name, func(t *testing.T) {
			in := exposing(c.in, c.exposed)
			r := build(t, in)
			l := resource(t, r, listeners, "exposed_path_v1healthz:127.0.0.1:21600", &listenerv3.Listener{})
			m := &hcmv3.HttpConnectionManager{}
			if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			hosts := m.GetRouteConfig().VirtualHosts
			if len(hosts) != 1 || len(hosts[0].Routes) != 1 || hosts[0].Routes[0].Match.GetPath() != "/v1/health-z" {
				t.Errorf("routes %v, want one to exactly the path", hosts)
			}
			if got := hosts[0].Routes[0].GetRoute().GetCluster(); got != c.want {
				t.Errorf("the path leads to %s, want %s", got, c.want)
			}
			if m.ForwardClientCertDetails != hcmv3.HttpConnectionManager_SANITIZE {
				t.Errorf("forward_client_cert_details %v: callers could say who they are", m.ForwardClientCertDetails)
			}
			if c.want == "local_app" {
				if n := len(r.ByType[clusters]); n != 1 {
					t.Errorf("%d clusters, want local_app alone", n)
				}
				return
			}
			a := resource(t, r, clusters, c.want, &clusterv3.Cluster{}).LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress()
			want := in.Proxy.Inbound.LocalAddress
			if want == "" {
				want = "127.0.0.1"
			}
			if a.Address != want || a.GetPortValue() != uint32(c.exposed.LocalPort) {
				t.Errorf("%s leads to %s:%d, want %s:%d", c.want, a.Address, a.GetPortValue(), want, c.exposed.LocalPort)
			}
		})
	}
}

// TestExposedPathsShareClusters: two paths of one port of the application have one cluster, and
// each a listener.
func TestExposedPathsShareClusters(t *testing.T) {
	in := exposing(catalog.Inbound{}, catalog.ExposedPath{LocalPort: 8081, Protocol: catalog.HTTP})
	one := build(t, in)
	p := *in.Proxy
	p.Exposed = append(p.Exposed, catalog.ExposedPath{Path: "/v1-healthz", ListenerPort: 21601, LocalPort: 8081, Protocol: catalog.HTTP})
	in = own(in)
	in.Proxy = &p
	if d := cmp.Diff([]string{"Listener exposed_path_v1healthz:127.0.0.1:21601"}, changed(one, build(t, in))); d != "" {
		t.Errorf("what a second path changes (-want +got):\n%s", d)
	}
}

func TestBuildRefusesExposedPaths(t *testing.T) {
	good := catalog.ExposedPath{Path: "/b", ListenerPort: 21601, LocalPort: 8081, Protocol: catalog.HTTP, Origin: "web.hcl:9"}
	for want, spoil := range map[string]func(e *catalog.ExposedPath){
		"":                                      func(*catalog.ExposedPath) {},
		`"" (web.hcl:9): it must begin with`:    func(e *catalog.ExposedPath) { e.Path = "" },
		`"/b" (web.hcl:9): a port is not known`: func(e *catalog.ExposedPath) { e.ListenerPort = 0 },
		"a port is not known":                   func(e *catalog.ExposedPath) { e.LocalPort = 0 },
		"another listener (web.hcl:1) has port 21000":         func(e *catalog.ExposedPath) { e.ListenerPort = 21000 },
		"another listener (web.hcl:7) has port 21600":         func(e *catalog.ExposedPath) { e.ListenerPort = 21600 },
		"port 8081 of the application speaks http by another": func(e *catalog.ExposedPath) { e.Protocol = catalog.HTTP2 },
	} {
		in := exposing(catalog.Inbound{}, catalog.ExposedPath{LocalPort: 8081, Protocol: catalog.HTTP, Origin: "web.hcl:7"})
		e := good
		spoil(&e)
		in.Proxy.Exposed = append(in.Proxy.Exposed, e)
		_, err := snapshot.Build(in)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Build: %v, want an error with %q", err, want)
		}
	}
}

// The path of a check is for the agent: connections of others match no filter chain, and are
// closed.
func TestExposedToTheAgentAlone(t *testing.T) {
	for _, c := range []struct {
		listen, agent string
		want          []string
	}{
		{"127.0.0.1", "", []string{"127.0.0.0/8"}},
		{"127.0.0.1", "127.0.0.1", []string{"127.0.0.0/8"}},
		{"127.0.0.1", "10.0.0.1", []string{"127.0.0.0/8", "10.0.0.1/32"}},
		{"127.0.0.1", "fd00::1", []string{"127.0.0.0/8"}},
		{"127.0.0.1", "somewhere", []string{"127.0.0.0/8"}},
		{"::", "", []string{"127.0.0.0/8", "::1/128"}},
		{"::", "10.0.0.1", []string{"127.0.0.0/8", "::1/128", "10.0.0.1/32"}},
		{"::", "fd00::1", []string{"127.0.0.0/8", "::1/128", "fd00::1/128"}},
	} {
		t.Run(c.listen+" "+c.agent, func(t *testing.T) {
			agent, want := c.agent, c.want
			in := exposing(catalog.Inbound{Protocol: catalog.HTTP}, catalog.ExposedPath{LocalPort: 8080, Protocol: catalog.HTTP, OfCheck: true, Agent: agent})
			in.Proxy.Inbound.Address = c.listen
			l := resource(t, build(t, in), listeners, "exposed_path_v1healthz:"+c.listen+":21600", &listenerv3.Listener{})
			if compat := l.GetAddress().GetSocketAddress().GetIpv4Compat(); compat != (c.listen == "::") {
				t.Errorf("IPv4 too: %t", compat)
			}
			var got []string
			for _, c := range l.FilterChains {
				for _, r := range c.GetFilterChainMatch().GetSourcePrefixRanges() {
					got = append(got, fmt.Sprintf("%s/%d", r.AddressPrefix, r.PrefixLen.GetValue()))
				}
			}
			if len(l.FilterChains) != 1 || l.DefaultFilterChain != nil || !slices.Equal(got, want) {
				t.Errorf("%d filter chains for %v, want one for %v", len(l.FilterChains), got, want)
			}
		})
	}
}
