package consul

import (
	"time"
)

// Status is how an Agent is doing.
type Status struct {
	// Agent is its address.
	Agent string
	// Node, Datacenter, Version and TrustDomain are the agent's; empty as long as they are not
	// known.
	Node, Datacenter, Version, TrustDomain string
	// Connected says that the agent answers. LastContact is when it last did; zero: never.
	Connected   bool
	LastContact time.Time
	// Ahead is how far the agent's clock is before this machine's; negative: behind. It is exact to
	// a few seconds.
	Ahead time.Duration
	// StaleSince is since when something that is served could not be read again; zero: everything
	// is as Consul has it.
	StaleSince time.Time
	// Settled says that the proxies of the node are served: what they need is known, or was waited
	// for, or is the last-known-good file's.
	Settled bool
	// FromFile says that what is served comes, in part, from the last-known-good file.
	FromFile bool
	// Queries is how many things are watched, each by a query of its own or together with others.
	Queries int
	// Problems are what of Consul's was refused, not understood, or could not be read, sorted.
	// Everything else is served.
	Problems []Problem
	// Filtered are the queries whose answers lack what the token may not read: they take nothing
	// away. Sorted.
	Filtered []string
}

// WithoutACLs reports whether the agent is known to have no ACLs, so that proxies need no tokens.
func (a *Agent) WithoutACLs() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	on := a.known.self.value.DebugConfig.ACLsEnabled
	return on != nil && !*on
}

// each calls f for all that is watched. The kind and the name make up what it is called. Agent.mu
// is held.
func (a *Agent) each(f func(kind, name string, h *health)) {
	k := &a.known
	f("agent", "", &k.self.health)
	f("datacenters", "", &k.datacenters.health)
	f("CA roots", "", &k.roots.health)
	f(meshEntryName, "", &k.mesh.health)
	f(proxyDefaultsEntryName, "", &k.proxyDefaults.health)
	f("config entries ", providerKind, &k.tokens.health) // which are fine as long as they are not read
	f("services of node ", k.node, &k.services.health)
	f("checks of the agent", "", &k.checks.health) // which are fine as long as they are not read
	if k.bulk.on {
		for i, kind := range entryKinds {
			h := k.bulk.entries[i].health
			h.filtered = false // see decodeEntries
			f("config entries ", kind, &h)
		}
	}
	if k.bulk.asked {
		f("intentions", "", &k.bulk.intentions.health)
	}
	for name, w := range k.chains {
		f("discovery chain of ", name, &w.health)
	}
	for name, w := range k.endpoints {
		f("endpoints of ", name, &w.health)
	}
	for name, w := range k.intentions {
		f("service-intentions/", name, &w.health)
	}
}

// count is how much is watched. Agent.mu is held.
func (a *Agent) count() int {
	if !a.ran {
		return 0
	}
	const always = 6
	return always + len(a.known.chains) + len(a.known.endpoints) + len(a.known.intentions)
}

// staleSince is since when something that is served is not as Consul has it; lost is when the agent
// was lost. Agent.mu is held.
func (a *Agent) staleSince(lost time.Time) time.Time {
	first := lost
	earlier := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	a.each(func(_, _ string, h *health) {
		if earlier(h.since); h.stale > 0 {
			earlier(h.answered.Add(-h.stale))
		}
	})
	if a.status.FromFile && a.seed != nil {
		earlier(a.seed.saved)
	}
	return first
}
