package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// upstream is one of the proxy's upstreams with what follows from it.
type upstream struct {
	catalog.Upstream
	catalog.Target
	index int // in the proxy's upstreams
	id    identity.Service
	// cluster is that of the service's own instances, and of all that a tcp service's chain leads to; empty: resolvers have them.
	cluster string
	// resolvers are those of the chain; nil: it has none.
	resolvers []resolver
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
		x := upstream{Upstream: u, Target: t, index: i, id: id}
		if t.Chain != nil {
			x.resolvers = b.resolvers(x)
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(x, y upstream) int {
		return cmp.Or(strings.Compare(x.BindSocket, y.BindSocket), strings.Compare(x.BindAddress, y.BindAddress), cmp.Compare(x.BindPort, y.BindPort),
			strings.Compare(x.Name(), y.Name()))
	})
	nameClusters(out)
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

// clusters are all that u leads to.
func (u upstream) clusters() []string {
	if u.cluster != "" {
		return []string{u.cluster}
	}
	names := make([]string, len(u.resolvers))
	for i, r := range u.resolvers {
		names[i] = r.cluster
	}
	return names
}

// upstreamCluster leads to the sidecars of the service that u dials.
func (b *builder) upstreamCluster(u upstream) *clusterv3.Cluster {
	c := b.sidecarCluster(u, u.cluster)
	c.ConnectTimeout, c.TransportSocket, c.OutlierDetection = orDefault(u.ConnectTimeout), b.upstreamTLS(u), outliers(u.Passive, false)
	if needsDNS(u.Endpoints) {
		resolveByDNS(c)
		c.LoadAssignment = assignment(u.cluster, u.Endpoints.List)
	}
	return c
}

// sidecarCluster is a cluster of sidecars, whose endpoints come by EDS. It says nothing of who they are.
func (b *builder) sidecarCluster(u upstream, name string) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		CommonLbConfig:                noMergeWindow(),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		IgnoreHealthOnHostRemoval:     true,
		CircuitBreakers:               limits(u.Limits),
		TypedExtensionProtocolOptions: b.httpOptions(u.Service.Protocol, true),
		Metadata:                      b.redials(u.Service.Protocol),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:              &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS},
	}
	// Without this Envoy sends requests to unhealthy endpoints when too few are healthy.
	c.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{}
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

// outliers is nil unless the upstream configures it. Consul always enables Envoy's defaults: those
// leave out one instance of ten for 30 s after five answers of 5xx, even if the application
// means them. With a failover all instances may be left out unless it says otherwise: by Envoy's default a tenth, which of three
// is none, so that nobody would go on to the next target.
func outliers(p catalog.PassiveHealthCheck, failover bool) *clusterv3.OutlierDetection {
	if !p.Set {
		return nil
	}
	if failover && !p.MaxEjectionPercent.Set {
		p.MaxEjectionPercent = catalog.Limit{Set: true, N: 100}
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
