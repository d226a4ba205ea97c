package xds

import (
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// inOrder returns those of add, resources of kind k, that may be sent now in one response:
//
// New versions of routes wait, without a bound, for the clusters that they name: Envoy accepts a
// route to a missing cluster, and answers 503.
//
// A lifted judge waits until Envoy has accepted those that are not lifted, so that a denied client
// stays denied at every moment of a change of enforcement.
//
// Judges come before other extension configurations, and share no response with what users write:
// Envoy may apply nothing of a response that it refuses.
func (s *session) inOrder(k kind, add []*discoveryv3.Resource, now time.Time) []*discoveryv3.Resource {
	if k != routes && k != secrets && k != extensions {
		return add
	}
	add = slices.DeleteFunc(add, func(r *discoveryv3.Resource) bool {
		if k == routes {
			return s.lacksClusters(r.GetName(), now)
		}
		return s.liftsTooSoon(k, r)
	})
	if k == extensions && slices.ContainsFunc(add, s.isOwnJudge) {
		add = slices.DeleteFunc(add, func(r *discoveryv3.Resource) bool { return !s.isOwnJudge(r) })
	}
	return add
}

// isOwnJudge reports whether r is a judge without anything that users write.
func (s *session) isOwnJudge(r *discoveryv3.Resource) bool {
	j, ok := s.target.judges[r.GetName()]
	return ok && !j.Foreign
}

// lacksClusters reports whether the routes of that name have to wait for clusters.
//
// They do not where Envoy has no routes of that name: its listener, and with it an Envoy that
// starts, would wait for them, while without the cluster they answer 503 for its share alone. Nor
// do they wait for a cluster that Envoy refuses.
func (s *session) lacksClusters(name string, now time.Time) bool {
	missing := s.missing(name)
	if len(missing) == 0 {
		return false
	}
	if _, ok := s.subs[routes].held[name]; ok {
		return true
	}
	// On a new stream Envoy may ask for routes first, although it has the clusters.
	at := s.opened.Add(s.server.ackTimeout)
	if s.subs[clusters].asked || !now.Before(at) {
		return false
	}
	s.wake(at)
	return true
}

// missing are the clusters that the routes of that name lead to, and of which Envoy has neither
// accepted nor refused a version.
func (s *session) missing(routes string) (names []string) {
	t := s.subs[clusters]
	for _, c := range s.target.routeClusters[routes] {
		if _, refused := t.refused[c]; !t.ackedClusters[c] && !refused {
			names = append(names, c)
		}
	}
	return names
}

// waitingFor names, for the status, the clusters that routes lead to and that Envoy lacks; empty:
// none.
func (s *session) waitingFor() string {
	var names []string
	for name := range s.subs[routes].names {
		names = append(names, s.missing(name)...)
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "not accepted yet: cluster " + strings.Join(slices.Compact(names), ", cluster ")
}

// liftsTooSoon reports whether r, of kind of, lifts a judge that Envoy may rely on before it has
// accepted all that are not lifted. An Envoy without a resource of that name does not rely on it.
func (s *session) liftsTooSoon(of kind, r *discoveryv3.Resource) bool {
	held, ok := s.subs[of].held[r.GetName()]
	if !ok || held == r.GetVersion() || !s.target.judges[r.GetName()].Lifted {
		return false
	}
	for name, j := range s.target.judges {
		for _, k := range [...]kind{secrets, extensions} {
			if want := s.target.resources[k].Get(name); want != nil && !j.Lifted && !s.subs[k].has(want) {
				return true
			}
		}
	}
	return false
}
