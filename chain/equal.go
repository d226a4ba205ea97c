package chain

import (
	"maps"
	"reflect"
	"slices"
)

// Equal reports whether c and o mean the same: all but where routes were read.
func (c *Chain) Equal(o *Chain) bool {
	switch {
	case c == o:
		return true
	case c == nil || o == nil:
		return false
	}
	return c.Service == o.Service && c.Datacenter == o.Datacenter && c.Protocol == o.Protocol && c.Default == o.Default && c.Customization == o.Customization && maps.Equal(c.Meta, o.Meta) &&
		c.Start == o.Start && maps.EqualFunc(c.Targets, o.Targets, func(a, b *Target) bool { return *a == *b }) && maps.EqualFunc(c.Nodes, o.Nodes, (*Node).equal)
}

func (n *Node) equal(o *Node) bool {
	return n.Type == o.Type && n.Name == o.Name && slices.EqualFunc(n.Routes, o.Routes, NodeRoute.equal) && slices.EqualFunc(n.Splits, o.Splits, NodeSplit.equal) &&
		reflect.DeepEqual(n.Resolver, o.Resolver) && reflect.DeepEqual(n.LoadBalancer, o.LoadBalancer)
}

func (r NodeRoute) equal(o NodeRoute) bool {
	return r.Next == o.Next && (r.Definition == o.Definition ||
		slices.Equal(r.Definition.Unknown, o.Definition.Unknown) && reflect.DeepEqual(r.Definition.Match, o.Definition.Match) &&
			reflect.DeepEqual(r.Definition.Destination, o.Definition.Destination))
}

func (s NodeSplit) equal(o NodeSplit) bool {
	return s.Next == o.Next && s.Weight == o.Weight && (s.Definition == o.Definition || reflect.DeepEqual(s.Definition, o.Definition))
}
