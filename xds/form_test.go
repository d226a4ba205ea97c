package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// packedAs is m as a resource, as snapshot makes them.
func packedAs(t testing.TB, name string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return &discoveryv3.Resource{
		Name: name, Version: hex.EncodeToString(sum[:16]),
		Resource: &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b},
	}
}

// unpacked is the message of a resource.
func unpacked[M proto.Message](t testing.TB, r *discoveryv3.Resource, m M) M {
	t.Helper()
	if err := r.GetResource().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// socketOf is the socket of a target, "service" or "subset.service", made of that of a plain cluster.
func socketOf(t testing.TB, plain *corev3.TransportSocket, target string) *corev3.TransportSocket {
	t.Helper()
	var tls tlsv3.UpstreamTlsContext
	if err := plain.GetTypedConfig().UnmarshalTo(&tls); err != nil {
		t.Fatal(err)
	}
	san := tls.CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext.MatchTypedSubjectAltNames[0].Matcher
	uri := "spiffe://" + trustDomain + "/nobody"
	tls.Sni = "none.invalid"
	if target != "" {
		service := target[strings.Index(target, ".")+1:]
		tls.Sni = target + ".default.dc1.internal." + trustDomain
		uri = "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/" + service
	}
	san.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: uri}
	config, err := anypb.New(&tls)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.TransportSocket{Name: plain.GetName(), ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}
}

// formP is a plain cluster in form P: a socket for each target, and none for others.
func formP(t testing.TB, plain *discoveryv3.Resource, targets ...string) *discoveryv3.Resource {
	t.Helper()
	c := unpacked(t, plain, &clusterv3.Cluster{})
	socket := c.TransportSocket
	c.TransportSocket = socketOf(t, socket, "")
	for _, target := range targets {
		c.TransportSocketMatches = append(c.TransportSocketMatches, &clusterv3.Cluster_TransportSocketMatch{
			Name: target, TransportSocket: socketOf(t, socket, target),
			Match: &structpb.Struct{Fields: map[string]*structpb.Value{"target": structpb.NewStringValue(target)}},
		})
	}
	return packedAs(t, c.Name, c)
}

// level is one of the levels of a cluster: a target and the ports of its endpoints.
type level struct {
	target string
	ports  []int
}

// lists are the endpoints of a cluster in form P.
func lists(t testing.TB, cluster string, levels ...level) *discoveryv3.Resource {
	t.Helper()
	a := &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster, Policy: &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(100000)},
	}
	for i, l := range levels {
		locality := &endpointv3.LocalityLbEndpoints{Priority: uint32(i)}
		if l.target != "" {
			locality.Locality = &corev3.Locality{SubZone: l.target}
		}
		for _, port := range l.ports {
			e := &endpointv3.LbEndpoint{
				HealthStatus: corev3.HealthStatus_HEALTHY, LoadBalancingWeight: wrapperspb.UInt32(1),
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
					SocketAddress: &corev3.SocketAddress{Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}},
				}}}},
			}
			if l.target != "" {
				e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
					"envoy.transport_socket_match": {Fields: map[string]*structpb.Value{"target": structpb.NewStringValue(l.target)}},
				}}
			}
			locality.LbEndpoints = append(locality.LbEndpoints, e)
		}
		a.Endpoints = append(a.Endpoints, locality)
	}
	return packedAs(t, cluster, a)
}
