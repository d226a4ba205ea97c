package snapshot

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// assignment has the endpoints of a cluster's service. Unhealthy ones are included: Envoy counts
// them, and sends them no requests. A service without endpoints has an empty assignment.
func assignment(cluster string, endpoints []catalog.Endpoint) *endpointv3.ClusterLoadAssignment {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	if len(endpoints) == 0 {
		return a
	}
	a.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: lbEndpoints(endpoints)}}
	return a
}

func lbEndpoints(endpoints []catalog.Endpoint) []*endpointv3.LbEndpoint {
	out := make([]*endpointv3.LbEndpoint, len(endpoints))
	for i, e := range endpoints {
		out[i] = lbEndpoint(socketAddress(e.Address, e.Port))
		out[i].HealthStatus = corev3.HealthStatus_UNHEALTHY
		if e.Healthy {
			out[i].HealthStatus = corev3.HealthStatus_HEALTHY
		}
		// Envoy refuses a weight of 0.
		out[i].LoadBalancingWeight = wrapperspb.UInt32(max(e.Weight, 1))
	}
	return out
}

func lbEndpoint(a *corev3.Address) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}}}
}

func socketAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// listenAddress is where the proxy's own service listens. All addresses of IPv6 are those of IPv4,
// too, which is where the checks of this machine's agent come from.
func listenAddress(host string, port uint16) *corev3.Address {
	a := socketAddress(host, port)
	a.GetSocketAddress().Ipv4Compat = host == "::"
	return a
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}

// isIP reports whether host is an IP address, which Envoy does not have to resolve.
func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
