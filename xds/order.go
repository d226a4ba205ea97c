package xds

import (
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// inOrder is what of add, resources of kind k, may be sent now, and in one response. Its order
// within a kind is this:
//
// Routes that Envoy has already wait, without a bound, for the clusters that the new ones name: a
// route to a cluster that is not there is accepted and answers 503.
//
// A judge that lets pass what others judge waits until Envoy has accepted those: whoever is denied
// stays denied at every moment of a change of enforcement.
//
// Judges come before other extension configurations, and share no response with what users write:
// of a response that Envoy refuses it may have applied nothing.
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

// own reports whether r is a judge that holds nothing of what users write.
func (s *session) isOwnJudge(r *discoveryv3.Resource) bool {
	j, ok := s.target.judges[r.GetName()]
	return ok && !j.Foreign
}

// lacksClusters reports whether the routes of that name have to wait for clusters.
//
// Where Envoy has no routes of that name, they do not: its listener, and with it an Envoy that
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
	// On a new stream Envoy may ask for routes first, and has the clusters all the same.
	at := s.opened.Add(s.server.ackTimeout)
	if s.subs[clusters].asked || !now.Before(at) {
		return false
	}
	s.wake(at)
	return true
}

// missing are the clusters that the routes of that name lead to, and of which Envoy has accepted no
// version. Those that it refuses are not among them.
func (s *session) missing(routes string) (names []string) {
	t := s.subs[clusters]
	for _, c := range s.target.routeClusters[routes] {
		if _, refused := t.refused[c]; !t.ackedClusters[c] && !refused {
			names = append(names, c)
		}
	}
	return names
}

// awaited says what routes wait for, or lead to without there being anything; empty: nothing.
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

// liftsTooSoon reports whether r, of kind of, takes back a judge that Envoy may rely on before it
// has those that are to judge from now on. An Envoy that has nothing of that name relies on
// nothing.
func (s *session) liftsTooSoon(of kind, r *discoveryv3.Resource) bool {
	held, ok := s.subs[of].held[r.GetName()]
	if !ok || held == r.GetVersion() || !s.target.judges[r.GetName()].Lifted {
		return false
	}
	for name, j := range s.target.judges {
		for _, k := range [...]kind{secrets, extensions} {
			if want := s.target.resources[k][name]; want != nil && !j.Lifted && !s.subs[k].has(want) {
				return true
			}
		}
	}
	return false
}
