package snapshot

import (
	"cmp"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// localApp is the cluster of the proxy's own application, named as Consul names it.
	localApp = "local_app"
	// bufferLimit bounds what Envoy holds for one slow reader. Envoy's own default is the same; it
	// is spelled out as a promise.
	bufferLimit    = 1 << 20
	connectTimeout = 5 * time.Second
	httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// localCluster leads to the application behind the proxy.
func (b *builder) localCluster() *clusterv3.Cluster {
	in := b.in.Proxy.Inbound
	address := b.localAddress(in.LocalPort)
	switch {
	case in.LocalSocket != "":
		address = pipe(in.LocalSocket, 0)
	case in.LocalPort == 0:
		b.fail("neither the port nor the socket of the application is known")
	}
	c := b.applicationCluster(localApp, address, in.Protocol)
	if in.MaxConnections > 0 {
		c.CircuitBreakers = breakers(inboundThresholds(in.MaxConnections))
	}
	return c
}

// inboundThresholds let through to the application what the public listener takes in: Envoy's own
// bounds, which have nothing to do with the application, are raised with it where they are lower.
// Connections that are being made count as pending, of tcp too.
func inboundThresholds(connections uint32) *clusterv3.CircuitBreakers_Thresholds {
	const envoys = 1024
	t := &clusterv3.CircuitBreakers_Thresholds{MaxConnections: wrapperspb.UInt32(connections)}
	if connections > envoys {
		t.MaxPendingRequests, t.MaxRequests = wrapperspb.UInt32(connections), wrapperspb.UInt32(connections)
	}
	return t
}

func (b *builder) localAddress(port uint16) *corev3.Address {
	return socketAddress(cmp.Or(b.in.Proxy.Inbound.LocalAddress, "127.0.0.1"), port)
}

// applicationCluster leads to one address of the application.
func (b *builder) applicationCluster(name string, address *corev3.Address, p catalog.Protocol) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		CommonLbConfig:                noMergeWindow(),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:                orDefault(b.in.Proxy.Inbound.ConnectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{lbEndpoint(address)}}},
		},
		TypedExtensionProtocolOptions: b.httpOptions(p, false),
	}
	if s := address.GetSocketAddress(); s != nil && !isIP(s.GetAddress()) {
		resolveByDNS(c)
	}
	return c
}

// noMergeWindow makes Envoy apply each change of health, weight or metadata at once. By default
// Envoy before 1.40 applies the second one within a second up to a second late.
func noMergeWindow() *clusterv3.Cluster_CommonLbConfig {
	return &clusterv3.Cluster_CommonLbConfig{UpdateMergeWindow: &durationpb.Duration{}}
}

// resolveByDNS makes c resolve the addresses of its endpoints. IPv4 is preferred: "localhost" has
// both, and applications often listen on IPv4 alone.
func resolveByDNS(c *clusterv3.Cluster) {
	c.EdsClusterConfig = nil
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
	c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
}

// httpOptions sets the version of HTTP of requests to a cluster; nil for tcp. keepalive has
// connections pinged, where the version is HTTP/2.
func (b *builder) httpOptions(p catalog.Protocol, keepalive bool) map[string]*anypb.Any {
	if p == catalog.TCP {
		return nil
	}
	return map[string]*anypb.Any{httpOptionsKey: b.constant(optionsKey{p, keepalive}, func() proto.Message { return httpOptions(p, keepalive) })}
}

// optionsKey is what httpOptions depends on.
type optionsKey struct {
	protocol  catalog.Protocol
	keepalive bool
}

func httpOptions(p catalog.Protocol, keepalive bool) *upstreamhttpv3.HttpProtocolOptions {
	explicit := &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		},
	}
	if p == catalog.HTTP2 || p == catalog.GRPC {
		http2 := &corev3.Http2ProtocolOptions{}
		if keepalive {
			http2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(10 * time.Second)}
		}
		explicit.ProtocolConfig = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2}
	}
	return &upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
}

func breakers(t *clusterv3.CircuitBreakers_Thresholds) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

func optional(l catalog.Limit) *wrapperspb.UInt32Value {
	if !l.Set {
		return nil
	}
	return wrapperspb.UInt32(l.N)
}

func orDefault(d time.Duration) *durationpb.Duration {
	return durationpb.New(cmp.Or(d, connectTimeout))
}
