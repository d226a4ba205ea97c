package snapshot

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxRequests is how many requests may be under way by Envoy's default.
const maxRequests = 1024

// What a resolver's cluster demands of endpoints that are of none of its targets: nobody has it.
const nobodySNI, nobodyID = "none.invalid", "spiffe://none.invalid/nobody"

// chainClusters adds the clusters of u's resolvers that are not made yet, with their endpoints.
func (b *builder) chainClusters(u upstream, made map[string]bool) {
	if b.out.resolvers == nil {
		b.out.resolvers = map[int][]resolver{}
	}
	b.out.resolvers[u.index] = u.resolvers
	for _, r := range u.resolvers {
		if made[r.cluster] {
			continue
		}
		made[r.cluster] = true
		b.add(r.cluster, b.resolverCluster(u, r))
		if !r.needsDNS(u.Chain) {
			b.put(endpointType, b.resolverAssignment(r, u.Chain))
		}
	}
}

// resolverAssignment is the resource that tells r's cluster its endpoints.
func (b *builder) resolverAssignment(r resolver, c *catalog.Chain) *discoveryv3.Resource {
	made := func() *discoveryv3.Resource { return b.resource(r.cluster, levelled(r.cluster, r.levels(c))) }
	if len(r.targets) > cachedLevels {
		return made()
	}
	key := levelsKey{cluster: r.cluster}
	for i, t := range r.targets {
		key.targets += t.key + " "
		key.endpoints[i] = c.Endpoints[t.key]
	}
	if kept := b.cache.levels.Get(key); kept != nil {
		return kept
	}
	return b.cache.levels.Keep(key, made())
}

// assignable reports whether all that is another of the upstream at i, which is t now, are endpoints that its clusters are told by EDS.
func (r *Resources) assignable(i int, t catalog.Target) bool {
	old := r.in.Upstreams[i]
	switch {
	case t.Service != old.Service || (t.Chain == nil) != (old.Chain == nil):
		return false
	case t.Chain == nil:
		return r.assigned[i] != "" && !needsDNS(t.Endpoints)
	case t.Chain.Chain != old.Chain.Chain:
		return false
	}
	for _, s := range r.resolvers[i] {
		if !s.sameEndpoints(t.Chain, old.Chain) && (s.needsDNS(t.Chain) || s.needsDNS(old.Chain)) {
			return false
		}
	}
	return true
}

// retrying are breakers that let as many requests be sent again as there may be. By Envoy's default that is three at a time: with a target that
// is dead, and that nobody has said it of, each request is sent again until it gets to the next one.
func retrying(c *clusterv3.CircuitBreakers) *clusterv3.CircuitBreakers {
	t := &clusterv3.CircuitBreakers_Thresholds{}
	if c != nil {
		t = c.Thresholds[0]
	}
	if t.MaxRetries = wrapperspb.UInt32(maxRequests); t.MaxRequests != nil {
		t.MaxRetries = wrapperspb.UInt32(t.MaxRequests.Value)
	}
	return breakers(t)
}

// socketKey is what the socket of a target depends on beside the proxy. Most are in several clusters.
type socketKey struct {
	protocol catalog.Protocol
	sni, id  string
}

// resolverCluster leads to the targets of r, in levels: the first that has somebody well answers. Each target is dialled by a socket of its
// own, so that who is one of them is nobody in the place of another.
func (b *builder) resolverCluster(u upstream, r resolver) *clusterv3.Cluster {
	c := b.sidecarCluster(u, r.cluster)
	c.ConnectTimeout, c.OutlierDetection = orDefault(r.connectTimeout), outliers(u.Passive, r.failover)
	if r.failover {
		c.CircuitBreakers = retrying(c.CircuitBreakers)
	}
	socket := func(sni, id string) *corev3.TransportSocket {
		key := socketKey{u.Service.Protocol, sni, id}
		if b.sockets[key] == nil {
			if b.sockets == nil {
				b.sockets = map[socketKey]*corev3.TransportSocket{}
			}
			b.sockets[key] = b.dialTLS(key.protocol, sni, id, identity.RootsSecret)
		}
		return b.sockets[key]
	}
	c.TransportSocket = socket(nobodySNI, nobodyID)
	for _, t := range r.targets {
		c.TransportSocketMatches = append(c.TransportSocketMatches, &clusterv3.Cluster_TransportSocketMatch{
			Name: t.key, Match: matchingTarget(t.key), TransportSocket: socket(t.sni, t.id.String()),
		})
	}
	b.balance(c, u, r)
	if r.needsDNS(u.Chain) {
		resolveByDNS(c)
		c.LoadAssignment = levelled(r.cluster, r.levels(u.Chain))
	}
	return c
}

// Envoy's bounds of what a resolver's LoadBalancer may say: it refuses clusters beyond them. The ring's are its defaults, too.
const (
	minRing, maxRing = 1024, 8 << 20
	minChoices       = 2
)

// balance says how one of a level's endpoints is chosen.
func (b *builder) balance(c *clusterv3.Cluster, u upstream, r resolver) {
	lb := r.balancer
	if lb == nil {
		return
	}
	switch lb.Policy {
	case "", "round_robin":
	case "random":
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case "maglev":
		c.LbPolicy = clusterv3.Cluster_MAGLEV
	case "least_request":
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if o := lb.LeastRequest; o != nil && o.ChoiceCount > 0 {
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{
				ChoiceCount: wrapperspb.UInt32(max(o.ChoiceCount, minChoices)),
			}}
		}
	case "ring_hash":
		c.LbPolicy = clusterv3.Cluster_RING_HASH
		if o := lb.RingHash; o != nil && *o != (chain.RingHash{}) {
			c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: ring(*o)}
		}
	default:
		b.warn("upstream %s (%s): instances of %s are taken in turn: no balancer is called %q", u.Name(), u.Origin, r.node, lb.Policy)
	}
}

// ring bounds a ring's size. Envoy refuses a least size beyond the greatest, which are 1024 and 8 Mi unless it is told others.
func ring(o chain.RingHash) *clusterv3.Cluster_RingHashLbConfig {
	c := &clusterv3.Cluster_RingHashLbConfig{}
	least, most := uint64(minRing), uint64(maxRing)
	if o.MaximumRingSize > 0 {
		most = min(o.MaximumRingSize, maxRing)
		c.MaximumRingSize = wrapperspb.UInt64(most)
	}
	if o.MinimumRingSize > 0 {
		least = o.MinimumRingSize
		c.MinimumRingSize = wrapperspb.UInt64(min(least, most))
	}
	if least > most {
		c.MinimumRingSize = wrapperspb.UInt64(most)
	}
	return c
}
