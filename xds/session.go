package xds

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxQueue bounds the responses of one stream that wait to be sent.
const maxQueue = 4 * int(kinds)

// session is the state of one stream: what its Envoy subscribed to, has and is to have. Its caller
// was authorized before it was made and never changes.
type session struct {
	server   *Server
	caller   identity.Caller
	features snapshot.Features
	opened   time.Time
	network  string // Place.Network
	leafs    *sds.Leafs
	// acceptance is told what Envoy has accepted of roots and leafs; nil: nobody is.
	acceptance *acceptance.Stream
	// kick makes the stream's goroutine look at queue and wakeAt; end ends the stream with a
	// status.
	kick chan struct{}
	end  context.CancelCauseFunc
	// published is the publisher's.
	published published

	mu     sync.Mutex
	closed bool
	target *target // nil: not complete yet, and nothing is sent
	subs   [kinds]*subscription
	// queue are the responses to be sent, and nonce is that of the last one that was sent.
	queue []*discoveryv3.DeltaDiscoveryResponse
	nonce uint64
	// heldBack is since when listeners have waited for the resources that they name; zero: they do
	// not wait.
	heldBack time.Time
	// changed is when the change behind a new target was seen; zero: Envoy has all of the target.
	changed time.Time
	// wakeAt is when pump has to run even if nothing happens; zero: never.
	wakeAt time.Time
	// returning: Envoy ran listeners already when the stream was opened.
	returning bool
	// unblockedAt is when endpoints were sent again because Envoy did not ask for clusters; see
	// unblockClusters.
	unblockedAt time.Time
	report      report
	// deliveries are the last changes on their way to Envoy, oldest first, and undelivered is what
	// differs in target from that of the last of them.
	deliveries  []delivery
	undelivered []ref
	// leaving are, by cluster, the names of the listeners and routes that led to it in a target before
	// and do not any more.
	leaving map[string][]string
	// stages are, by name, what Envoy may have of clusters with several targets, and steps what it is to have next where that is not the
	// target's; nil: it is. before is the target of the proxy's last stream, until there is one of this; see follow.
	stages map[string]*stage
	steps  [kinds]snapshot.Set
	before *target
	last   memory // of a stream that is closed
	// leafsHeld is room for the leafs that Envoy has.
	leafsHeld []*sds.SVID
}

func newSession(s *Server, caller identity.Caller, features snapshot.Features, end context.CancelCauseFunc) *session {
	n := &session{server: s, caller: caller, features: features, opened: time.Now(), end: end, kick: make(chan struct{}, 1)}
	whose := caller
	whose.Proof = identity.Proof{} // leafs have nothing to do with it
	n.leafs = s.credentials.Open(whose, func() { s.refresh(n) })
	n.acceptance = s.acceptance.Open(whose)
	for k := range kinds {
		n.subs[k] = newSubscription(k)
	}
	return n
}

// receive processes a request.
func (s *session) receive(q *discoveryv3.DeltaDiscoveryRequest) {
	k, ok := kindOf(q.GetTypeUrl())
	if !ok {
		return // the guard has refused it
	}
	nack, healed := s.request(s.subs[k], q)
	if nack != nil {
		s.server.metrics.nacks.WithLabelValues(nack.Type).Inc()
	}
	s.logRefusals(k, nack, healed, "accepted")
}

// request is receive under the lock. It returns the NACK that q is, if it is one, and the resources
// that Envoy accepts after having refused them.
func (s *session) request(t *subscription, q *discoveryv3.DeltaDiscoveryRequest) (nack *NACK, healed []string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := t.answer(q.GetResponseNonce()); r != nil {
		nack, healed = s.answered(t, r, q, now)
	}
	first := !t.asked
	if t.kind == listeners && first {
		s.returning = len(q.GetInitialResourceVersions()) > 0
	}
	t.update(q)
	if first {
		s.recall(t.kind)
	}
	for _, name := range q.GetResourceNamesUnsubscribe() {
		if _, ok := t.held[name]; !ok {
			s.loses(t.kind, name)
		}
	}
	if t.kind == secrets {
		s.accepted()
	}
	s.pump(now)
	return nack, healed
}

// outgoing takes the next response off the queue and gives it its nonce; nil: there is none.
func (s *session) outgoing() *discoveryv3.DeltaDiscoveryResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.queue) == 0 {
		return nil
	}
	r := s.queue[0]
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil
	}
	s.nonce++
	r.Nonce = strconv.FormatUint(s.nonce, 10)
	return r
}

// queued reports whether there is something to send.
func (s *session) queued() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && len(s.queue) > 0
}

// answered notes the ACK of r, or its NACK; both returns are those of request.
func (s *session) answered(t *subscription, r *discoveryv3.DeltaDiscoveryResponse, q *discoveryv3.DeltaDiscoveryRequest, now time.Time) (*NACK, []string) {
	if q.GetErrorDetail() == nil {
		s.report.lastACK, t.ackedAt = now, now
		s.takes(t.kind, r)
		return nil, t.accepted(r)
	}
	n := &NACK{Type: t.kind.String(), TypeURL: t.kind.url(), Message: cut(q.GetErrorDetail().GetMessage(), maxNACKText), Time: now}
	for _, r := range r.GetResources() {
		n.Resources = append(n.Resources, r.GetName())
	}
	if len(n.Resources) == 0 {
		n.Resources = slices.Clone(r.GetRemovedResources())
	}
	t.rejected(r, now)
	s.misses(t.kind, r)
	s.report.lastNACK = n
	return n, nil
}

// set gives the session a new target. since is when the change behind it was seen, and change its
// number; zero: it is not a change of the catalog.
func (s *session) set(t *target, since time.Time, change uint64) {
	for k, withdrawn := range s.replace(t, since, change) {
		s.logRefusals(kind(k), nil, withdrawn, "withdrawn")
	}
}

// replace is set under the lock. It returns what Envoy had refused and is to have no more.
func (s *session) replace(t *target, since time.Time, change uint64) (withdrawn [kinds][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return withdrawn
	}
	if t != s.target {
		s.replaced(t)
	}
	if change != 0 {
		s.deliver(change)
	}
	if t == s.target { // the change needs no update of this Envoy
		s.delivered(time.Now())
		return withdrawn
	}
	s.report.inSync = false
	// The first target is not measured: it waits for Envoy to start.
	if s.target.whole() && s.changed.IsZero() {
		s.changed = since
	}
	old := s.target
	s.target = t
	s.plan()
	for k, sub := range s.subs {
		if old == nil || !t.resources[k].Is(old.resources[k]) {
			withdrawn[k] = sub.retarget(s.due(kind(k)), t.whole())
		}
	}
	s.pump(time.Now())
	return withdrawn
}

// replaced notes what t has otherwise than the target that it is to replace.
func (s *session) replaced(t *target) {
	earlier := s.undelivered
	differences := t.differences(s.target)
	for _, r := range differences {
		if !slices.Contains(earlier, r) {
			s.undelivered = append(s.undelivered, r)
		}
	}
	s.follow(t, differences)
	if s.target != nil {
		s.turnAway(t)
	}
}

// turnAway notes which listeners and routes lead to a cluster in the present target and not in t: as
// long as Envoy has them as they were, the cluster has to stay. It may leave with a later target.
func (s *session) turnAway(t *target) {
	for cluster, names := range s.leaving {
		if names = slices.DeleteFunc(names, s.isSettled); len(names) == 0 {
			delete(s.leaving, cluster)
		} else {
			s.leaving[cluster] = names
		}
	}
	if t.resources[listeners].Is(s.target.resources[listeners]) && t.resources[routes].Is(s.target.resources[routes]) {
		return
	}
	for name, to := range s.target.leadsTo {
		for _, cluster := range to {
			if slices.Contains(t.leadsTo[name], cluster) || slices.Contains(s.leaving[cluster], name) {
				continue
			}
			if s.leaving == nil {
				s.leaving = map[string][]string{}
			}
			s.leaving[cluster] = append(s.leaving[cluster], name)
		}
	}
}

// isSettled reports whether Envoy has the listener and the routes of that name as it is to have them.
func (s *session) isSettled(name string) bool {
	return s.settled(ref{listeners, name}) && s.settled(ref{routes, name})
}

// tick runs what was delayed until now.
func (s *session) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAt = time.Time{}
	s.pump(time.Now())
}

// close ends all sending. The report is for the proxy's record.
func (s *session) close() (r report, nacked [kinds]map[string]bool, last memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = s.remember()
	s.closed = true
	s.stages, s.target, s.before = nil, nil, nil
	for k, sub := range s.subs {
		nacked[k], sub.nacked = sub.nacked, nil
	}
	return s.report, nacked, s.last
}

// pump queues what may be sent now. It is the whole ordering, and level triggered: it depends on
// the state and not on events, and is called after each request, for each new target and at wakeAt.
// The caller holds the lock.
//
// Secrets, clusters, endpoints and extensions are sent right after each other: Envoy delays the ACK
// of a cluster until it has the endpoints, so waiting for that ACK first would never end. Routes
// follow when Envoy has the clusters that they name; see order.go. Of a cluster whose targets change
// what is sent is a step on the way; see step.go. When Envoy has all but the
// routes, or does not answer in time, listeners follow, with their removals; only a new name of the
// inbound chain waits longer. An old cluster is removed when nothing that Envoy has leads to it.
func (s *session) pump(now time.Time) {
	if s.closed || s.target == nil {
		return
	}
	if s.target.partial {
		for _, k := range [...]kind{secrets, extensions, routes} {
			s.send(k, false, now)
			for _, f := range s.subs[k].refused {
				s.wakeAfter(f.retry, now)
			}
		}
		return
	}
	s.unblockClusters(now)
	s.plan()
	for _, k := range dependencies() {
		s.send(k, false, now)
	}
	s.send(routes, false, now)
	if s.holdBack(now) {
		s.updateSync(now)
		return
	}
	s.send(listeners, true, now)
	s.send(clusters, true, now)
	s.updateSync(now)
}

// quiet reports whether nothing of kind k is to be sent or is unanswered.
func (s *session) quiet(k kind, now time.Time) bool {
	t := s.subs[k]
	if t.out != nil {
		return false
	}
	add, removed := t.todo(s.due(k), now)
	return len(add)+len(removed) == 0
}

// send sends what is to be sent of kind k, if another response of that kind may be sent.
func (s *session) send(k kind, removals bool, now time.Time) {
	t := s.subs[k]
	if !t.mayFollow(s.server.ackTimeout, now) {
		return
	}
	add, removed := t.todo(s.due(k), now)
	add = t.batch(s.inOrder(k, add, now))
	switch {
	case !removals:
		removed = nil
	case k == clusters:
		removed = slices.DeleteFunc(removed, func(name string) bool { return s.inUse(name, now) })
	}
	if len(add)+len(removed) == 0 {
		return
	}
	for _, r := range add {
		t.held[r.GetName()] = r.GetVersion()
		delete(t.resend, r.GetName())
		delete(t.unanswered, r.GetName())
		if k == clusters {
			// Envoy waits for the endpoints of a changed cluster anew without asking for them, even
			// if its request for endpoints is still to come on this stream, and lists them as held.
			s.subs[endpoints].resend[r.GetName()] = true
			s.subs[endpoints].upToDate = false
		}
	}
	for _, name := range removed {
		t.forget(name)
		s.loses(k, name)
		if k == clusters {
			delete(s.subs[endpoints].resend, name)
			delete(s.leaving, name)
		}
	}
	// Each stream has a response of its own, as it holds the nonce; the resources are shared.
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: k.url(), Resources: slices.Clone(add), RemovedResources: removed}
	s.gives(k, out)
	// With one unanswered response per kind there is always room; to wait would block the
	// publisher.
	if len(s.queue) >= maxQueue {
		s.end(status.Error(codes.Internal, "the stream's queue is full"))
		return
	}
	s.queue = append(s.queue, out)
	if k == secrets {
		s.gave(out.GetResources())
	}
	s.deliverySent(now)
	s.signal()
	if t.out != nil {
		t.before = append(t.before, t.out)
	}
	t.out, t.sentAt = &outstanding{response: out, at: now}, now
	s.plan()
}

// updateSync notes whether Envoy has all of the target, and when pump has to run next.
func (s *session) updateSync(now time.Time) {
	all := s.started()
	for k, t := range s.subs {
		for _, f := range t.refused {
			s.wakeAfter(f.retry, now)
		}
		all = all && s.steps[k] == nil && s.quiet(kind(k), now) && len(s.refused(kind(k))) == 0
	}
	if t := s.subs[clusters]; t.out != nil {
		if add, removed := t.todo(s.due(clusters), now); len(add)+len(removed) > 0 {
			s.wakeAfter(t.out.at.Add(s.server.ackTimeout), now)
		}
	}
	s.report.inSync = all
	s.delivered(now)
	if all && !s.changed.IsZero() {
		s.server.metrics.changeToACK.Observe(now.Sub(s.changed).Seconds())
		s.changed = time.Time{}
	}
	switch g := s.target.generation; {
	case g == 0:
		s.report.applied = 0
	case g != s.report.applied && s.subs[listeners].asked && s.settled(ref{listeners, s.target.inbound}) && len(s.awaited()) == 0:
		if s.report.applied != 0 {
			s.report.drainsUntil = now.Add(s.features.DrainTime)
		}
		s.report.applied = g
	}
}

// started reports whether Envoy has asked, on this stream, for what it asks for without names.
func (s *session) started() bool { return s.subs[listeners].asked && s.subs[clusters].asked }

// refused are the names of the resources of kind k whose next version Envoy refuses, sorted.
func (s *session) refused(k kind) []string { return s.subs[k].refuses(s.due(k)) }

// settled reports whether Envoy has of a resource what it is to have, as far as it asks for it.
func (s *session) settled(r ref) bool {
	t, want := s.subs[r.kind], s.target.resources[r.kind].Get(r.name)
	switch _, held := t.held[r.name]; {
	case want == nil:
		return !t.kind.hasWildcard() || !held && !t.inFlight(r.name)
	case !t.wildcard && !t.names[r.name]:
		return true
	}
	return t.has(want) && !t.resend[r.name]
}

// wakeAfter is wake, unless at is past.
func (s *session) wakeAfter(at, now time.Time) {
	if now.Before(at) {
		s.wake(at)
	}
}

// wake schedules a call of tick for that time, or keeps an earlier one.
func (s *session) wake(at time.Time) {
	if !s.wakeAt.IsZero() && !at.Before(s.wakeAt) {
		return
	}
	s.wakeAt = at
	s.signal()
}

// signal wakes the goroutine of the stream. It does not block.
func (s *session) signal() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// next is how long until tick is to be called; ok is false if it is not.
func (s *session) next() (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wakeAt.IsZero() {
		return 0, false
	}
	return time.Until(s.wakeAt), true
}

// stalled reports whether Envoy has left a response unanswered since before the given time.
// Clusters do not count: Envoy delays the ACK of one until it is warm.
func (s *session) stalled(before time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.subs {
		if kind(k) != clusters && t.out != nil && t.out.at.Before(before) {
			return true
		}
	}
	return false
}

// room reports whether the stream may subscribe to more names.
func (s *session) room(k kind, more int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs[k].names)+more <= maxNames
}
