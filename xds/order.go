package xds

import (
	"iter"
	"maps"
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
// New versions of routes that judge wait for what users write of the other judges: what verifies the tokens that they ask for.
//
// A lifted judge waits until Envoy has accepted those that are not lifted, so that a denied client
// stays denied at every moment of a change of enforcement.
//
// The inbound listener waits, without a bound, with a new name of its filter chain.
//
// Clusters that are sent once more as a certificate was revoked wait for the one in its place.
//
// Judges come before other extension configurations, and share no response with what users write:
// Envoy may apply nothing of a response that it refuses.
func (s *session) inOrder(k kind, add []*discoveryv3.Resource, now time.Time) []*discoveryv3.Resource {
	if k == endpoints {
		return add
	}
	if k == clusters {
		return slices.DeleteFunc(add, s.redialsTooSoon)
	}
	add = slices.DeleteFunc(add, func(r *discoveryv3.Resource) bool {
		return k == routes && (s.lacksClusters(r.GetName(), now) || s.lacksJudge(r.GetName())) ||
			k == listeners && s.renamesTooSoon(r.GetName()) || s.liftsTooSoon(k, r)
	})
	if k == extensions && slices.ContainsFunc(add, s.isOwnJudge) {
		add = slices.DeleteFunc(add, func(r *discoveryv3.Resource) bool { return !s.isOwnJudge(r) })
	}
	return add
}

// isOwnJudge reports whether r is a judge without anything that users write.
func (s *session) isOwnJudge(r *discoveryv3.Resource) bool {
	j, ok := s.target.judges[r.GetName()]
	return ok && !j.Written
}

// lacksClusters reports whether the routes of that name have to wait for clusters.
//
// They do not where Envoy has accepted no routes of that name: its listener, and with it an Envoy
// that starts, would wait for them, while without the cluster they answer 503 for its share alone.
// Nor do they wait for a cluster that Envoy refuses.
func (s *session) lacksClusters(name string, now time.Time) bool {
	missing := s.missing(name)
	if len(missing) == 0 {
		return false
	}
	if s.subs[routes].acked[name] {
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

// lacksJudge reports whether the routes of that name are a judge, and have to wait for the version of one that users write, in an extension:
// they may ask for tokens that Envoy does not verify yet. An Envoy without it, or which refuses it, is not waited for.
func (s *session) lacksJudge(name string) bool {
	if _, ok := s.target.judges[name]; !ok {
		return false
	}
	for other, j := range s.target.judges {
		want := s.target.resources[extensions].Get(other)
		held, has := s.subs[extensions].held[other]
		if _, refused := s.subs[extensions].refused[other]; want == nil || !has || refused || j.Lifted || !j.Written {
			continue
		}
		if held != want.GetVersion() || !s.settled(ref{extensions, other}) {
			return true
		}
	}
	return false
}

// missing are the clusters that the routes of that name lead to, and of which Envoy has neither
// accepted nor refused a version.
func (s *session) missing(routes string) (names []string) {
	t := s.subs[clusters]
	for _, c := range s.target.leadsTo[routes] {
		if _, refused := t.refused[c]; !t.acked[c] && !refused {
			names = append(names, c)
		}
	}
	return names
}

// waitingFor names, for the status, what Envoy has not accepted and something waits for without a
// bound: clusters that routes lead to, clusters and endpoints whose next step comes after them, and judges; empty: nothing.
func (s *session) waitingFor() string {
	var names []string
	for name := range s.subs[routes].names {
		for _, c := range s.missing(name) {
			names = append(names, "cluster "+c)
		}
	}
	names = append(names, s.stepsOn()...)
	if s.renamesTooSoon(s.target.inbound) && !s.settled(ref{listeners, s.target.inbound}) {
		names = append(names, s.awaited()...)
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "not accepted yet: " + strings.Join(slices.Compact(names), ", ")
}

// judges are the judges of the target, each with its kind.
func (s *session) judges() iter.Seq2[ref, *discoveryv3.Resource] {
	return func(yield func(ref, *discoveryv3.Resource) bool) {
		for name := range s.target.judges {
			for _, k := range [...]kind{secrets, extensions, routes} {
				if r := s.target.resources[k].Get(name); r != nil && !yield(ref{k, name}, r) {
					return
				}
			}
		}
	}
}

// awaited are the judges that Envoy relies on and of which it has not accepted the target's
// version.
func (s *session) awaited() (names []string) {
	for r := range s.judges() {
		if !s.settled(r) {
			names = append(names, r.kind.String()+" "+r.name)
		}
	}
	return names
}

// renamesTooSoon reports whether the listener of that name would give the inbound filter chain a
// new name under judges of before: they may let in somebody who is denied now, on a connection that
// nothing would end any more. An Envoy that has no inbound listener relies on no judge.
func (s *session) renamesTooSoon(name string) bool {
	g := s.target.generation
	return name == s.target.inbound && g != 0 && g != s.report.applied && len(s.awaited()) > 0
}

// liftsTooSoon reports whether r, of kind of, lifts a judge that Envoy may rely on before it has
// accepted all that are not lifted. An Envoy without a resource of that name does not rely on it, but
// would begin to rely on those that it has, of before.
func (s *session) liftsTooSoon(of kind, r *discoveryv3.Resource) bool {
	held, ok := s.subs[of].held[r.GetName()]
	if ok && held == r.GetVersion() || !s.target.judges[r.GetName()].Lifted {
		return false
	}
	for j, want := range s.judges() {
		if _, has := s.subs[j.kind].held[j.name]; (ok || has) && !s.target.judges[j.name].Lifted && !s.subs[j.kind].has(want) {
			return true
		}
	}
	return false
}

// holdBack reports whether there are listeners to send, or to remove, that have to wait for the
// resources that they may name.
func (s *session) holdBack(now time.Time) bool {
	add, removed := s.subs[listeners].todo(s.target.resources[listeners], now)
	if len(s.inOrder(listeners, add, now))+len(removed) == 0 {
		s.heldBack = time.Time{}
		return false
	}
	timeout := s.server.ackTimeout
	if at := later(s.opened, s.unblockedAt).Add(timeout); !s.repeated() && now.Before(at) {
		s.wake(at)
		return true
	}
	until := time.Time{}
	for _, k := range dependencies() {
		switch t := s.subs[k]; {
		case t.out != nil:
			// A response that was waited for in vain once is not waited for again.
			if at := t.out.at.Add(timeout); now.Before(at) {
				until = later(until, at)
			}
		case s.adding(k, now):
			until = later(until, now.Add(timeout))
		}
	}
	if until.IsZero() {
		s.heldBack = time.Time{}
		return false
	}
	if s.heldBack.IsZero() {
		s.heldBack = now
	}
	// The wait has a bound, however many changes come in between.
	if bound := s.heldBack.Add(timeout); bound.Before(until) {
		until = bound
	}
	if !now.Before(until) {
		s.heldBack = time.Time{}
		return false
	}
	s.wake(until)
	return true
}

// repeated reports whether Envoy has subscribed, on this stream, to the resources that its
// listeners name. It does so at once, but in an order of its own, and for clusters only when those
// that it has are warm. A listener must not come before its cluster; and which judges an Envoy has
// that comes back is not known before.
func (s *session) repeated() bool {
	if !s.subs[clusters].asked {
		return false
	}
	for r := range s.judges() {
		if s.returning && !s.subs[r.kind].asked {
			return false
		}
	}
	return true
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// unblockClusters sends endpoints again to an Envoy that waits for them. While Envoy waits for the
// endpoints of a changed cluster it sends no request for clusters, not even the first of a new
// stream, and does not ask for those endpoints again. If the stream broke between the two, the new
// one shows it: Envoy subscribes to endpoints and not to clusters.
func (s *session) unblockClusters(now time.Time) {
	e := s.subs[endpoints]
	if !s.unblockedAt.IsZero() || s.subs[clusters].asked || !e.asked {
		return
	}
	if at := s.opened.Add(s.server.ackTimeout); now.Before(at) {
		s.wake(at)
		return
	}
	s.unblockedAt = now
	e.upToDate = false
	for name := range e.names {
		e.resend[name] = true
	}
}

// adding reports whether resources of kind k may be sent; removals do not count.
func (s *session) adding(k kind, now time.Time) bool {
	add, _ := s.subs[k].todo(s.due(k), now)
	return len(s.inOrder(k, add, now)) > 0
}

// inUse reports whether Envoy may still have a listener or routes that lead to a cluster which is
// to be removed, because it has not replaced them yet or refuses to.
func (s *session) inUse(cluster string, now time.Time) bool {
	if _, held := s.subs[clusters].held[cluster]; !held {
		return false // it is not removed, but was asked for and does not exist
	}
	// On a new stream Envoy asks for clusters first, and may have listeners and routes that it has
	// not listed yet. An Envoy that is still starting asks for no listeners before its clusters are
	// ready, so this wait has a bound too.
	asked := s.subs[listeners].asked && (len(s.target.resources[routes]) == 0 || s.subs[routes].asked)
	if at := s.opened.Add(s.server.ackTimeout); !asked && now.Before(at) {
		s.wake(at)
		return true
	}
	users := s.leaving[cluster]
	if len(users) == 0 { // it is not known what led to it: anything but the inbound listener
		if s.subs[listeners].out != nil || s.subs[routes].out != nil {
			return true
		}
		for name := range s.subs[listeners].held {
			if name != s.target.inbound {
				users = append(users, name)
			}
		}
		users = slices.AppendSeq(users, maps.Keys(s.target.leadsTo))
	}
	return slices.ContainsFunc(users, func(name string) bool { return !s.isSettled(name) })
}
