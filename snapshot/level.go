package snapshot

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// level is the endpoints of one target in a cluster of several, which answer when those of the levels before cannot.
type level struct {
	target    string
	endpoints []catalog.Endpoint
}

// socketMatch is the key of an endpoint's metadata by which Envoy chooses one of its cluster's sockets, and targetKey is in it.
const socketMatch, targetKey = "envoy.transport_socket_match", "target"

// matchingTarget is what the socket of a target and its endpoints both have.
func matchingTarget(target string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{targetKey: structpb.NewStringValue(target)}}
}

// distinct are levels without addresses that stand there twice, as all of a service are behind one of its subsets: of two Envoy would take
// the first, with its health, and drop the other without a word. The first stays, unless it is sick where a later one is well.
func distinct(levels []level) []level {
	type place struct{ level, at int }
	seen := map[string]place{}
	out := make([]level, len(levels))
	for i, l := range levels {
		out[i].target = l.target
		for _, e := range l.endpoints {
			key := addressOf(e)
			was, again := seen[key]
			switch {
			case again && (out[was.level].endpoints[was.at].Healthy || !e.Healthy):
				continue
			case again:
				out[was.level].endpoints[was.at].Weight = 0 // dropped below
			}
			e.Weight = max(e.Weight, 1) // Envoy refuses a weight of 0
			seen[key] = place{i, len(out[i].endpoints)}
			out[i].endpoints = append(out[i].endpoints, e)
		}
	}
	for i := range out {
		out[i].endpoints = slices.DeleteFunc(out[i].endpoints, func(e catalog.Endpoint) bool { return e.Weight == 0 })
	}
	return out
}

// addressOf is the same for all spellings of an address.
func addressOf(e catalog.Endpoint) string {
	if ip, err := netip.ParseAddr(e.Address); err == nil {
		return netip.AddrPortFrom(ip.Unmap(), e.Port).String()
	}
	return net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
}

// levelled has the endpoints of a cluster's targets, each on its own priority, which is there although nobody is on it: an Envoy with a balancer
// that hashes ends with a segmentation fault if one below another is missing (seen on 1.36.4). All of a level answers, however few of it are well:
// only when none is does the next.
func levelled(cluster string, levels []level) *endpointv3.ClusterLoadAssignment {
	a := &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Policy:      &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(100_000)},
	}
	for i, l := range levels {
		all := lbEndpoints(l.endpoints)
		for _, e := range all {
			e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{socketMatch: matchingTarget(l.target)}}
		}
		a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{
			// An address that becomes another target's is another endpoint for Envoy as its locality is another one: else it would keep
			// the connections that were verified for the target of before.
			Locality:    &corev3.Locality{SubZone: l.target},
			LbEndpoints: all,
			Priority:    uint32(i),
		})
	}
	return a
}
