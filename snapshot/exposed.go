package snapshot

import (
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// exposed makes a listener for each exposed path, and clusters for other ports of the application.
// All of them depend on the proxy alone.
func (b *builder) exposed() {
	in := b.in.Proxy.Inbound
	bound := map[uint16]string{in.Port: b.in.Proxy.Origin}
	protocols := map[uint16]catalog.Protocol{}
	for _, e := range b.in.Proxy.Exposed {
		if e.ListenerPort == 0 || e.LocalPort == 0 {
			b.fail("exposed path %q (%s): a port is not known", e.Path, e.Origin)
			continue
		}
		if err := catalog.CheckPath(e.Path); err != nil {
			b.fail("exposed path %q (%s): %w", e.Path, e.Origin, err)
			continue
		}
		if other, ok := bound[e.ListenerPort]; ok {
			b.fail("exposed path %q (%s): another listener (%s) has port %d", e.Path, e.Origin, other, e.ListenerPort)
			continue
		}
		bound[e.ListenerPort] = e.Origin
		cluster := b.exposedCluster(e)
		name := listenerName("exposed_path_"+alphanumeric(e.Path), in.Address, e.ListenerPort)
		b.add(name, b.exposedListener(name, e, cluster))
		if cluster == localApp {
			continue
		}
		b.leads(name, cluster)
		protocol, ok := protocols[e.LocalPort]
		if ok && protocol != e.Protocol {
			b.fail("exposed path %q (%s): port %d of the application speaks %s by another path", e.Path, e.Origin, e.LocalPort, protocol)
		}
		if !ok {
			protocols[e.LocalPort] = e.Protocol
			b.add(cluster, b.applicationCluster(cluster, b.localAddress(e.LocalPort), e.Protocol))
		}
	}
}

// exposedCluster is the name of the cluster that a path leads to, as in Consul. The cluster of a
// tcp application's own port is used for paths of HTTP/1 alone.
func (b *builder) exposedCluster(e catalog.ExposedPath) string {
	in := b.in.Proxy.Inbound
	if in.LocalSocket == "" && e.LocalPort == in.LocalPort && (in.Protocol.L7() || e.Protocol == catalog.HTTP) {
		return localApp
	}
	return "exposed_cluster_" + strconv.Itoa(int(e.LocalPort))
}

// alphanumeric is the part of a path that Consul uses in names.
func alphanumeric(path string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, path)
}

// exposedListener accepts requests for one path in plaintext, from anybody: the user has asked for
// it. All other paths are answered with 404. For the path of a check, connections from others than
// the agent are closed.
func (b *builder) exposedListener(name string, e catalog.ExposedPath, cluster string) *listenerv3.Listener {
	// As Consul names filter, routes and counters.
	filter := "exposed_path_filter_" + alphanumeric(e.Path) + "_" + strconv.Itoa(int(e.ListenerPort))
	m := b.externalHCM(filter, e.Protocol)
	m.HttpProtocolOptions = b.http1(b.in.Proxy.Service)
	m.HttpFilters = []*hcmv3.HttpFilter{b.routerFilter()}
	m.AccessLog = b.exposedLog(e)
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: filter,
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    filter,
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: e.Path}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
					Timeout:          durationpb.New(0),
				}},
			}},
		}},
	}}
	return &listenerv3.Listener{
		Name:                          name,
		Address:                       listenAddress(b.in.Proxy.Inbound.Address, e.ListenerPort),
		TrafficDirection:              corev3.TrafficDirection_INBOUND,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		EnableReusePort:               b.reusePort(),
		FilterChains: []*listenerv3.FilterChain{{
			Name:             filter,
			FilterChainMatch: agentOnly(e, b.in.Proxy.Inbound.Address),
			Filters:          []*listenerv3.Filter{b.networkFilter("envoy.filters.network.http_connection_manager", m)},
		}},
	}
}

// agentOnly matches the clients of a check's path, the agent on this machine; nil: everybody. An
// Envoy on a machine without IPv6 refuses a listener that names any of its addresses, so a listener
// of IPv4, to which none of those comes, does not.
func agentOnly(e catalog.ExposedPath, listen string) *listenerv3.FilterChainMatch {
	if !e.OfCheck {
		return nil
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if a, err := netip.ParseAddr(e.Agent); err == nil && !a.IsLoopback() {
		ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
	}
	own, err := netip.ParseAddr(listen)
	m := &listenerv3.FilterChainMatch{}
	for _, p := range ranges {
		if p.Addr().Is4() || err == nil && own.Is6() {
			m.SourcePrefixRanges = append(m.SourcePrefixRanges, cidr(p))
		}
	}
	return m
}

func cidr(p netip.Prefix) *corev3.CidrRange {
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))} //nolint:gosec // of a valid prefix
}
