package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// A cluster in form P has a transport socket for each of several targets, and endpoints say which target they are of: the socket's match and
// the endpoint's metadata of the key matchKey name it under targetKey. What is of no target of the cluster is dialled by the cluster's own
// socket, which in form P is for nobody. A plain cluster has its own socket alone, and endpoints of no target.
const (
	matchKey  = "envoy.transport_socket_match"
	targetKey = "target"
)

// sockets is a cluster with the targets that it dials. It is immutable.
type sockets struct {
	resource *discoveryv3.Resource
	// targets are those that it has sockets for, sorted; "" stands for endpoints of no target.
	targets []string
}

// list is endpoints with the targets that they are of, sorted; "" stands for none. It is immutable.
type list struct {
	resource *discoveryv3.Resource
	targets  []string
}

// matchesField is the number of the field of a cluster that has its sockets by target.
var matchesField = (&clusterv3.Cluster{}).ProtoReflect().Descriptor().Fields().ByName("transport_socket_matches").Number()

// isPlain reports whether r, a cluster, has its own socket alone. It does not decode r.
func isPlain(r *discoveryv3.Resource) bool {
	for b := r.GetResource().GetValue(); len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return true
		}
		if number == matchesField {
			return false
		}
		b = b[n:]
	}
	return true
}

// socketsOf reads a cluster. One that cannot be read is plain.
func (s *Server) socketsOf(r *discoveryv3.Resource) *sockets {
	if out := s.sockets.Get(r.GetVersion()); out != nil {
		return out
	}
	var c clusterv3.Cluster
	out := &sockets{resource: r}
	if !isPlain(r) && r.GetResource().UnmarshalTo(&c) == nil {
		for _, m := range c.GetTransportSocketMatches() {
			out.targets = append(out.targets, targetOf(m.GetMatch()))
		}
	}
	if out.targets = distinct(out.targets); len(out.targets) == 0 {
		out.targets = []string{""}
	}
	return s.sockets.Keep(r.GetVersion(), out)
}

// listOf reads endpoints. What cannot be read has none.
func (s *Server) listOf(r *discoveryv3.Resource) *list {
	if out := s.lists.Get(r.GetVersion()); out != nil {
		return out
	}
	var a endpointv3.ClusterLoadAssignment
	out := &list{resource: r}
	if r.GetResource().UnmarshalTo(&a) == nil {
		for _, l := range a.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				target := targetOfEndpoint(e)
				if n := len(out.targets); n == 0 || out.targets[n-1] != target {
					out.targets = append(out.targets, target)
				}
			}
		}
	}
	out.targets = distinct(out.targets)
	return s.lists.Keep(r.GetVersion(), out)
}

func targetOf(m *structpb.Struct) string { return m.GetFields()[targetKey].GetStringValue() }

func targetOfEndpoint(e *endpointv3.LbEndpoint) string {
	return targetOf(e.GetMetadata().GetFilterMetadata()[matchKey])
}

// without is l without the endpoints of some targets. The first of the rest are on the first level: with nobody there Envoy would have nobody
// for a moment, as it moves endpoints from level to level one level after the other.
func (s *Server) without(l *list, targets []string) *list {
	var a endpointv3.ClusterLoadAssignment
	if l.resource.GetResource().UnmarshalTo(&a) != nil {
		return l
	}
	for _, locality := range a.GetEndpoints() {
		locality.LbEndpoints = slices.DeleteFunc(locality.GetLbEndpoints(), func(e *endpointv3.LbEndpoint) bool {
			return slices.Contains(targets, targetOfEndpoint(e))
		})
	}
	// All levels stay, those on which nobody is left behind the others: an Envoy with a balancer that hashes ends with a segmentation fault if
	// one is missing (seen on 1.36.4). Each level is one locality.
	empty := func(l *endpointv3.LocalityLbEndpoints) int {
		if len(l.GetLbEndpoints()) == 0 {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(a.GetEndpoints(), func(x, y *endpointv3.LocalityLbEndpoints) int { return empty(x) - empty(y) })
	for i, l := range a.GetEndpoints() {
		l.Priority = uint32(i)
	}
	r := packed(l.resource, &a)
	if r == nil {
		return l
	}
	return s.listOf(r)
}

// packed is m in the place of r's content, with the hash of its bytes as the version, as package snapshot makes them; nil: it cannot be made.
func packed(r *discoveryv3.Resource, m proto.Message) *discoveryv3.Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(b)
	return &discoveryv3.Resource{
		Name: r.GetName(), Version: hex.EncodeToString(sum[:16]), Resource: &anypb.Any{TypeUrl: r.GetResource().GetTypeUrl(), Value: b},
	}
}

// distinct sorts names and drops what stands twice.
func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// lacking are those of names that are not among have.
func lacking(names, have []string) (out []string) {
	for _, name := range names {
		if !slices.Contains(have, name) {
			out = append(out, name)
		}
	}
	return out
}

// with is c with the sockets of more targets, each that of the last of others that has it; c itself, if none has. It does not change
// otherwise: a target that both have is dialled as c says.
func (s *Server) with(c *sockets, more []string, others []given[*sockets]) *sockets {
	var m clusterv3.Cluster
	if len(more) == 0 || c.resource.GetResource().UnmarshalTo(&m) != nil {
		return c
	}
	targets := slices.Clone(c.targets)
	for _, o := range slices.Backward(others) {
		found := slices.DeleteFunc(slices.Clone(more), func(name string) bool { return !slices.Contains(o.is.targets, name) })
		var old clusterv3.Cluster
		if len(found) == 0 || o.is.resource.GetResource().UnmarshalTo(&old) != nil {
			continue
		}
		for _, match := range old.GetTransportSocketMatches() {
			if slices.Contains(found, targetOf(match.GetMatch())) {
				m.TransportSocketMatches = append(m.TransportSocketMatches, match)
			}
		}
		if slices.Contains(found, "") {
			m.TransportSocket = old.GetTransportSocket()
		}
		targets, more = append(targets, found...), lacking(more, found)
	}
	if len(targets) == len(c.targets) {
		return c
	}
	// The order among targets means nothing; what several others are made of is to be equal.
	slices.SortStableFunc(m.GetTransportSocketMatches(), func(a, b *clusterv3.Cluster_TransportSocketMatch) int {
		return strings.Compare(targetOf(a.GetMatch()), targetOf(b.GetMatch()))
	})
	r := packed(c.resource, &m)
	if r == nil {
		return c
	}
	return s.sockets.Keep(r.GetVersion(), &sockets{resource: r, targets: distinct(targets)})
}

// stands reports whether c, which has all the targets of want, is equal to it but for more targets and their order.
func (c *sockets) stands(want *sockets) bool {
	var a, b clusterv3.Cluster
	if len(lacking(want.targets, c.targets)) > 0 || c.resource.GetResource().UnmarshalTo(&a) != nil || want.resource.GetResource().UnmarshalTo(&b) != nil {
		return false
	}
	for _, m := range []*clusterv3.Cluster{&a, &b} {
		m.TransportSocketMatches = slices.DeleteFunc(m.GetTransportSocketMatches(), func(match *clusterv3.Cluster_TransportSocketMatch) bool {
			return !slices.Contains(want.targets, targetOf(match.GetMatch()))
		})
		slices.SortStableFunc(m.GetTransportSocketMatches(), func(a, b *clusterv3.Cluster_TransportSocketMatch) int {
			return strings.Compare(targetOf(a.GetMatch()), targetOf(b.GetMatch()))
		})
	}
	return proto.Equal(&a, &b)
}
