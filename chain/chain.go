// Package chain says what routers, splitters and resolvers mean: Compile turns the config entries of a mesh to the Chain of a service, as
// Consul compiles its discovery chains. The package knows neither Envoy nor where entries come from.
//
// All values are immutable once they are compiled, so they may be shared between goroutines.
package chain

import (
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Chain is how requests to a service find the instances that answer them: a graph of nodes that begins at Start and ends at Targets.
type Chain struct {
	Service identity.Name
	// Datacenter is the one that the chain was compiled for, always spelled out.
	Datacenter string
	// Protocol is what all of its targets speak: "tcp", "http", "http2" or "grpc".
	Protocol string
	// Default: no entry says anything, so the chain leads to the service's own instances.
	Default bool
	// Meta is that of the service's defaults, for who asks. Compile does not know it.
	Meta map[string]string
	// Customization is a hash of what an upstream overrides; empty: nothing.
	Customization string
	// Start is the key of the first node.
	Start string
	// Nodes are those that are reached, by key: "router:api.default.default".
	Nodes map[string]*Node
	// Targets are those that resolvers name, by ID.
	Targets map[string]*Target
}

// NodeType is the kind of a node, as Consul spells it.
type NodeType string

// The kinds of nodes.
const (
	RouterNode   NodeType = "router"
	SplitterNode NodeType = "splitter"
	ResolverNode NodeType = "resolver"
)

// Node is one step of a chain. Of Routes, Splits and Resolver it has that of its type.
type Node struct {
	Type     NodeType
	Name     string // its key without the type
	Routes   []NodeRoute
	Splits   []NodeSplit
	Resolver *Resolution
	// LoadBalancer is a resolver's, and a splitter's if one of its legs hashes; nil: none is written.
	LoadBalancer *LoadBalancer
}

// NodeRoute is a route and where it leads. The last one of a router matches everything.
type NodeRoute struct {
	Definition *Route
	Next       string // key of a node
}

// NodeSplit is one leg of a splitter, flattened.
type NodeSplit struct {
	Definition *Split
	Weight     float64 // in percent, rounded to 0.01
	Next       string
}

// Resolution is what a resolver comes to.
type Resolution struct {
	// Default: no entry says anything of the service.
	Default        bool
	ConnectTimeout time.Duration
	RequestTimeout time.Duration // 0: none is written
	Target         string        // ID
	// Failover are the IDs of targets that answer when Target cannot, in order; nil: none.
	Failover []string
}

// Target is a group of instances that all have one identity: those of a service, or of one of its subsets, in a datacenter.
type Target struct {
	ID         string
	Service    identity.Name
	Subset     string // empty: all instances
	Datacenter string
	Peer       string // not empty: of another cluster; Datacenter is empty then
	// Filter and OnlyPassing are the subset's: which instances are in it. The filter is an expression in go-bexpr's language.
	Filter      string
	OnlyPassing bool
	// ConnectTimeout is the target's own service's.
	ConnectTimeout time.Duration
	// GatewayMode is that of mesh gateways on the way to it: "", "none", "local" or "remote".
	GatewayMode string
	// External: SNI is one that service-defaults give (ExternalSNI).
	External bool
	// SNI and Name are how the target is called on the wire. They are equal unless External; both are empty of a peer.
	SNI, Name string
}
