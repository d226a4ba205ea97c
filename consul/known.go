package consul

import (
	"time"
)

// state is how one query is doing.
type state struct {
	err      error
	since    time.Time
	filtered bool
	behind   time.Time // since when the servers that answer have been out of touch with the leader; zero: they are not
}

func (f *found[T]) state() state {
	s := state{err: f.err, since: f.since, filtered: f.filtered}
	if f.stale > 0 {
		s.behind = f.heard.Add(-f.stale)
	}
	return s
}

// each calls f for all that is watched. Agent.mu is held.
func (a *Agent) each(f func(what string, s state)) {
	k := &a.known
	f("agent", k.self.state())
	f("datacenters", k.datacenters.state())
	f("CA roots", k.roots.state())
	f(meshEntryName, k.mesh.state())
	f(proxyDefaultsEntryName, k.proxyDefaults.state())
	f("services of node "+k.node, k.services.state())
	f("checks of the agent", k.checks.state()) // which are fine as long as they are not read
	k.together.each(f)
	for name, w := range k.chains {
		f("discovery chain of "+name, w.state())
	}
	for name, w := range k.endpoints {
		f("endpoints of "+name, w.state())
	}
	for name, w := range k.intentions {
		f("service-intentions/"+name, w.state())
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

// staleSince is since when something that is served is not as Consul has it; lost is when the agent was lost. Agent.mu is held.
func (a *Agent) staleSince(lost time.Time) time.Time {
	first := lost
	earlier := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	a.each(func(_ string, s state) {
		earlier(s.since)
		earlier(s.behind)
	})
	if a.status.FromFile && a.seed != nil {
		earlier(a.seed.Saved)
	}
	return first
}
