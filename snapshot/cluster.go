package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
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

// upstream is one of the proxy's upstreams with what follows from it.
type upstream struct {
	catalog.Upstream
	catalog.Target
	index   int // in the proxy's upstreams
	id      identity.Service
	cluster string
}

// upstreams are the proxy's, in the order of their listeners, so that the order in the definition
// does not matter.
//
// Upstreams to one service with the same settings share a cluster, which is named by the SNI. Of
// several settings, those of the first listener keep that name; the clusters of the others get a
// hash of their settings before it, as Consul's do. So a change to the settings of a service's only
// upstream changes the cluster, and not the listener that names it.
func (b *builder) upstreams() []upstream {
	out := make([]upstream, 0, len(b.in.Proxy.Upstreams))
	for i, u := range b.in.Proxy.Upstreams {
		if u.Foreign != "" {
			out = append(out, b.foreignUpstream(i, u))
			continue
		}
		id := identity.Service{TrustDomain: b.in.Mesh.TrustDomain, Datacenter: cmp.Or(u.Datacenter, b.in.Mesh.Datacenter), Name: u.Destination}
		if id.ID().IsZero() {
			b.fail("upstream %s (%s) cannot be an identity of %s in %q: names are made of letters, digits, '.', '-' and '_'",
				u.Destination, u.Origin, id.TrustDomain, id.Datacenter)
			continue
		}
		t := b.in.Upstreams[i]
		if p := u.Speaks(t.Service); p != t.Service.Protocol {
			s := *t.Service
			s.Protocol, t.Service = p, &s
		}
		out = append(out, upstream{Upstream: u, Target: t, index: i, id: id})
	}
	slices.SortStableFunc(out, func(x, y upstream) int {
		return cmp.Or(strings.Compare(x.BindSocket, y.BindSocket), strings.Compare(x.BindAddress, y.BindAddress), cmp.Compare(x.BindPort, y.BindPort),
			strings.Compare(x.Name(), y.Name()))
	})
	plain := map[string]settings{}
	for i, u := range out {
		name := u.plainCluster()
		first, taken := plain[name]
		if !taken {
			first = settingsOf(u.Upstream)
			plain[name] = first
		}
		out[i].cluster = name
		if s := settingsOf(u.Upstream); s != first {
			out[i].cluster = hash(s.text())[:8] + "~" + name
		}
	}
	return out
}

// settings are the fields of an upstream that its cluster depends on.
type settings struct {
	tuning
	protocol catalog.OptionalProtocol
	address  string // where a workload of another trust domain is; empty: it is of the mesh
}

// tuning are those that any protocol has.
type tuning struct {
	ConnectTimeout time.Duration
	Limits         catalog.Limits
	Passive        catalog.PassiveHealthCheck
}

func settingsOf(u catalog.Upstream) settings {
	return settings{tuning{cmp.Or(u.ConnectTimeout, connectTimeout), u.Limits, u.Passive}, u.Protocol, foreignAddress(u)}
}

// text is what the name of a cluster is made of. It is not to change between releases.
func (s settings) text() []byte {
	b := fmt.Appendf(nil, "%+v", s.tuning)
	if s.protocol.Set {
		b = fmt.Append(b, s.protocol.Protocol)
	}
	if s.address != "" {
		b = fmt.Append(b, s.address)
	}
	return b
}

// needsDNS reports whether one of the endpoints has a name that Envoy has to resolve.
func needsDNS(e *catalog.Endpoints) bool {
	return slices.ContainsFunc(e.List, func(e catalog.Endpoint) bool { return !isIP(e.Address) })
}

// upstreamCluster leads to the sidecars of the service that u dials.
func (b *builder) upstreamCluster(u upstream) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          u.cluster,
		CommonLbConfig:                noMergeWindow(),
		ConnectTimeout:                orDefault(u.ConnectTimeout),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		IgnoreHealthOnHostRemoval:     true,
		TransportSocket:               b.upstreamTLS(u),
		CircuitBreakers:               limits(u.Limits),
		OutlierDetection:              outliers(u.Passive),
		TypedExtensionProtocolOptions: b.httpOptions(u.Service.Protocol, true),
		Metadata:                      b.redials(u.Service.Protocol),
	}
	// Without this Envoy sends requests to unhealthy endpoints when too few are healthy.
	c.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{}
	if needsDNS(u.Endpoints) {
		resolveByDNS(c)
		c.LoadAssignment = assignment(u.cluster, u.Endpoints.List)
		return c
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS}
	return c
}

// redials is what makes a cluster another one when Redials is. Envoy gives the connections of the old one up when no request is on them.
// Those of tcp are the applications', and the services that they lead to end them.
func (b *builder) redials(p catalog.Protocol) *corev3.Metadata {
	if b.in.Redials == "" || !p.L7() {
		return nil
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		identity.MetadataKey: {Fields: map[string]*structpb.Value{"revoked": structpb.NewStringValue(b.in.Redials)}},
	}}
}

// noMergeWindow makes Envoy apply each change of health, weight or metadata at once. By default
// Envoy before 1.40 applies the second one within a second up to a second late.
func noMergeWindow() *clusterv3.Cluster_CommonLbConfig {
	return &clusterv3.Cluster_CommonLbConfig{UpdateMergeWindow: &durationpb.Duration{}}
}

// resolveByDNS makes c resolve the addresses of its endpoints. IPv4 is preferred: "localhost" has
// both, and applications often listen on IPv4 alone.
func resolveByDNS(c *clusterv3.Cluster) {
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

func limits(l catalog.Limits) *clusterv3.CircuitBreakers {
	if l == (catalog.Limits{}) {
		return nil
	}
	return breakers(&clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     optional(l.MaxConnections),
		MaxPendingRequests: optional(l.MaxPendingRequests),
		MaxRequests:        optional(l.MaxConcurrentRequests),
	})
}

func breakers(t *clusterv3.CircuitBreakers_Thresholds) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

// outliers is nil unless the upstream configures it. Consul always enables Envoy's defaults: those
// leave out one instance of ten for 30 s after five answers of 5xx, even if the application
// means them.
func outliers(p catalog.PassiveHealthCheck) *clusterv3.OutlierDetection {
	if !p.Set {
		return nil
	}
	o := &clusterv3.OutlierDetection{
		Consecutive_5Xx:          optional(p.MaxFailures),
		EnforcingConsecutive_5Xx: optional(p.EnforcingConsecutive5xx),
		MaxEjectionPercent:       optional(p.MaxEjectionPercent),
	}
	if p.Interval > 0 {
		o.Interval = durationpb.New(p.Interval)
	}
	if p.BaseEjectionTime > 0 {
		o.BaseEjectionTime = durationpb.New(p.BaseEjectionTime)
	}
	return o
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
