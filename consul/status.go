package consul

import (
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Status is how an Agent is doing.
type Status struct {
	// Agent is its address.
	Agent string
	// Node, Datacenter, Version and TrustDomain are the agent's; empty as long as they are not known.
	Node, Datacenter, Version, TrustDomain string
	// Connected says that the agent answers. LastContact is when it last did; zero: never.
	Connected   bool
	LastContact time.Time
	// StaleSince is since when something that is served could not be read again; zero: everything is as Consul has it.
	StaleSince time.Time
	// Settled says that the proxies of the node are served: what they need is known, or was waited for, or is the last-known-good file's.
	Settled bool
	// FromFile says that what is served comes, in part, from the last-known-good file.
	FromFile bool
	// Queries is how many things are watched, each by a query of its own or together with others.
	Queries int
	// Problems are what of Consul's was refused, not understood, or could not be read, sorted. Everything else is served.
	Problems []Problem
	// Filtered are the queries whose answers lack what the token may not read: they take nothing away. Sorted.
	Filtered []string
}

// Problem is one thing that is not as Consul's users may expect.
type Problem struct {
	// Proxy is the proxy that lacks something; empty: it concerns none alone.
	Proxy identity.ProxyID
	// Upstream is the destination of the upstream that is not there; empty: it is not about an upstream.
	Upstream string
	// Entry is where it is said: "service web-sidecar-proxy", "service-resolver/api", "mesh/mesh".
	Entry string
	// Text says what is wrong and what comes of it.
	Text string
}

// String is the problem in one line.
func (p Problem) String() string {
	s := p.Entry + ": " + p.Text
	switch {
	case p.Upstream != "":
		return "proxy " + string(p.Proxy) + ", upstream " + p.Upstream + ": " + s
	case p.Proxy != "":
		return "proxy " + string(p.Proxy) + ": " + s
	}
	return s
}
