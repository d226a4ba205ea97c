package xds

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxQueue bounds the responses of one stream that wait to be sent.
const maxQueue = 4 * int(kinds)

// session is what one stream's Envoy asked for, has and is to have. Whose stream it is was settled
// before it was made and never changes.
type session struct {
	server   *Server
	caller   identity.Caller
	features snapshot.Features
	opened   time.Time
	leafs    *sds.Leafs
	// kick makes the stream's goroutine look at queue and wakeAt; end ends the stream with a
	// status.
	kick chan struct{}
	end  context.CancelCauseFunc
	// published is the publisher's.
	published published

	mu     sync.Mutex
	closed bool
	target *target // nil: not all of it is in hand yet, and nothing is answered
	subs   [kinds]*subscription
	// queue is what waits to be sent, and nonce that of the last response that was.
	queue []*discoveryv3.DeltaDiscoveryResponse
	nonce uint64
	// heldBack is since when listeners wait for what they name; zero: they do not.
	heldBack time.Time
	// changed is since when a new target is on its way; zero: Envoy has all of it.
	changed time.Time
	// wakeAt is when pump has to run although nothing happened; zero: not.
	wakeAt time.Time
	// returning: Envoy ran listeners already when the stream was opened.
	returning bool
	// mended is when endpoints were sent again because Envoy was silent about its clusters; see
	// mend.
	mended time.Time
	report report
	// deliveries are how the last changes reached Envoy, oldest first.
	deliveries []delivery
}

func newSession(s *Server, caller identity.Caller, features snapshot.Features, end context.CancelCauseFunc) *session {
	n := &session{server: s, caller: caller, features: features, opened: time.Now(), end: end, kick: make(chan struct{}, 1)}
	n.leafs = s.credentials.Open(caller, func() { s.refresh(n) })
	for k := range kinds {
		n.subs[k] = newSubscription(k)
	}
	return n
}

// receive takes a request in.
func (s *session) receive(q *discoveryv3.DeltaDiscoveryRequest) {
	k, ok := kindOf(q.GetTypeUrl())
	if !ok {
		return // the guard lets none through
	}
	if nack := s.request(s.subs[k], q); nack != nil { // without the lock, as a log may be slow
		s.server.metrics.nacks.WithLabelValues(nack.Type).Inc()
		s.server.log.Warn("envoy refused resources", "proxy", s.caller.Proxy, "type_url", nack.TypeURL, "resources", nack.Resources, "err", nack.Message)
	}
}

// request is receive under the lock. It returns the NACK that q is, if it is one.
func (s *session) request(t *subscription, q *discoveryv3.DeltaDiscoveryRequest) (nack *NACK) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := t.answer(q.GetResponseNonce()); r != nil {
		nack = s.answered(t, r, q, now)
	}
	if t.kind == listeners && !t.asked {
		s.returning = len(q.GetInitialResourceVersions()) > 0
	}
	t.take(q)
	s.pump(now)
	return nack
}

// outgoing is the next response to be sent, which gets its nonce here; nil: there is none.
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

// answered accounts for an ACK, or for the NACK that it returns, of r.
func (s *session) answered(t *subscription, r *discoveryv3.DeltaDiscoveryResponse, q *discoveryv3.DeltaDiscoveryRequest, now time.Time) *NACK {
	if q.GetErrorDetail() == nil {
		t.accepted(r)
		s.report.lastACK = now
		return nil
	}
	n := &NACK{Type: t.kind.String(), TypeURL: t.kind.url(), Message: cut(q.GetErrorDetail().GetMessage(), maxNACKText), Time: now}
	for _, r := range r.GetResources() {
		n.Resources = append(n.Resources, r.GetName())
	}
	if len(n.Resources) == 0 {
		n.Resources = slices.Clone(r.GetRemovedResources())
	}
	t.rejected(r, now)
	s.report.lastNACK = n
	return n
}

// set gives the session a new target. since is when the change behind it was seen, and change its
// number; zero: it is none of the catalog.
func (s *session) set(t *target, since time.Time, change uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if change != 0 {
		s.deliver(change)
	}
	if t == s.target { // nothing has to be told for it
		if s.report.inSync {
			s.delivered(time.Now(), true)
		}
		return
	}
	s.report.inSync = false
	if s.target != nil && s.changed.IsZero() { // the first is not a change: it waits for Envoy to start
		s.changed = since
	}
	s.target = t
	for k, sub := range s.subs {
		sub.retarget(t.resources[k])
	}
	s.pump(time.Now())
}

// tick runs what was put off until now.
func (s *session) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAt = time.Time{}
	s.pump(time.Now())
}

// close ends all sending. The report is for the proxy's record.
func (s *session) close() report {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.target = nil
	return s.report
}

// pump sends what may be sent now. It is the whole ordering, and level triggered: it looks at what
// is, not at what happened, and is called after each request, each new target and each time that it
// asked for. The caller holds the lock.
//
// Secrets, clusters, endpoints and extensions go out right behind each other: Envoy keeps back the
// ACK of a cluster until it has the endpoints, so waiting for that ACK first would be waiting for
// ever. Routes follow when Envoy has the clusters that they name; see order.go. When Envoy has all
// but routes, or does not answer in time, come the listeners, their removals with them. When these
// and the routes are ACKed too and none is refused, nothing names the old clusters any more, and
// they are removed.
func (s *session) pump(now time.Time) {
	if s.closed || s.target == nil {
		return
	}
	s.mend(now)
	for _, k := range made() {
		s.send(k, false, now)
	}
	s.send(routes, false, now)
	if s.holdBack(now) {
		s.settle(now)
		return
	}
	s.send(listeners, true, now)
	if !s.clustersInUse(now) {
		s.send(clusters, true, now)
	}
	s.settle(now)
}

// clustersInUse reports whether Envoy may still run something that names a cluster which is to be
// removed: a listener or route that it has not replaced yet, or refuses to replace.
func (s *session) clustersInUse(now time.Time) bool {
	// On a new stream Envoy asks for clusters first, and may run listeners that it has not spoken
	// of yet. An Envoy that is still starting asks for no listeners before its clusters are ready,
	// so this wait too has an end.
	if at := s.opened.Add(s.server.ackTimeout); !s.subs[listeners].asked && now.Before(at) {
		s.wake(at)
		return true
	}
	for _, k := range made() {
		if s.adding(k, now) {
			return true
		}
	}
	for _, k := range [...]kind{listeners, routes} {
		if !s.quiet(k, now) || s.refusing(k) {
			return true
		}
	}
	return false
}

// holdBack reports whether there are listeners to send, or to remove, that have to wait for what
// they may name.
func (s *session) holdBack(now time.Time) bool {
	if add, removed := s.subs[listeners].todo(s.target.resources[listeners], now); len(add)+len(removed) == 0 {
		s.heldBack = time.Time{}
		return false
	}
	timeout := s.server.ackTimeout
	if at := later(s.opened, s.mended).Add(timeout); !s.repeated() && now.Before(at) {
		s.wake(at)
		return true
	}
	until := time.Time{}
	for _, k := range made() {
		switch t := s.subs[k]; {
		case t.out != nil:
			// What was given up waiting for once is not waited for again.
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
	// However often something new comes in between, the wait has an end.
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

// repeated reports whether Envoy has asked, on this stream, for what the listeners that it runs
// name. It does so at once, but in an order of its own, and for clusters not before those it has
// are warm. A listener must not come before its cluster; and a filter chain that got its new name
// before the secret and the rules were replaced would let in somebody whom they deny, on a
// connection that nothing ends any more.
func (s *session) repeated() bool {
	asked := func(k kind) bool { return len(s.target.resources[k]) == 0 || s.subs[k].asked }
	return asked(clusters) && (!s.returning || asked(secrets) && asked(extensions))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// mend gets clusters out of a wait that would have no end. Envoy that waits for the endpoints of a
// changed cluster sends no request for clusters, not even the first of a new stream, and does not
// ask for those endpoints again. If the stream broke between the two, the new one shows it:
// endpoints are asked for, clusters are not.
func (s *session) mend(now time.Time) {
	e := s.subs[endpoints]
	if !s.mended.IsZero() || s.subs[clusters].asked || !e.asked {
		return
	}
	if at := s.opened.Add(s.server.ackTimeout); now.Before(at) {
		s.wake(at)
		return
	}
	s.mended = now
	e.settled = false
	for name := range e.names {
		e.again[name] = true
	}
}

// adding reports whether resources of kind k may be sent; removals do not count.
func (s *session) adding(k kind, now time.Time) bool {
	add, _ := s.subs[k].todo(s.target.resources[k], now)
	return len(s.inOrder(k, add, now)) > 0
}

// quiet reports whether nothing of kind k is to be sent, and nothing is unanswered.
func (s *session) quiet(k kind, now time.Time) bool {
	t := s.subs[k]
	if t.out != nil {
		return false
	}
	add, removed := t.todo(s.target.resources[k], now)
	return len(add)+len(removed) == 0
}

func (s *session) refusing(k kind) bool {
	return len(s.subs[k].refused) > 0 && len(s.subs[k].refuses(s.target.resources[k])) > 0
}

// send sends what is to be sent of kind k, if another response of that kind may be sent.
func (s *session) send(k kind, removals bool, now time.Time) {
	t := s.subs[k]
	if !t.mayFollow(s.server.ackTimeout, now) {
		return
	}
	add, removed := t.todo(s.target.resources[k], now)
	add = t.batch(s.inOrder(k, add, now))
	if !removals {
		removed = nil
	}
	if len(add)+len(removed) == 0 {
		return
	}
	for _, r := range add {
		t.held[r.GetName()] = r.GetVersion()
		delete(t.again, r.GetName())
		if k == clusters {
			// Envoy waits for the endpoints of a changed cluster anew, and does not ask for them;
			// also where the request for them is yet to come on this stream, saying that they are
			// held.
			s.subs[endpoints].again[r.GetName()] = true
			s.subs[endpoints].settled = false
		}
	}
	for _, name := range removed {
		t.forget(name)
		if k == clusters {
			delete(s.subs[endpoints].again, name)
		}
	}
	// The response is this stream's own, as a nonce is written into it; the resources are shared.
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: k.url(), Resources: slices.Clone(add), RemovedResources: removed}
	if len(s.queue) >= maxQueue { // with one unanswered response per kind there is always room; waiting here would block the publisher
		s.end(status.Error(codes.Internal, "the stream's queue is full"))
		return
	}
	s.queue = append(s.queue, out)
	s.delivered(now, false)
	s.rouse()
	if t.out != nil {
		t.before = append(t.before, t.out)
	}
	t.out = &outstanding{response: out, at: now}
}

// settle notes whether Envoy has all of the target, and when to look again if nothing happens.
func (s *session) settle(now time.Time) {
	all := s.subs[listeners].asked && s.subs[clusters].asked
	for k, t := range s.subs {
		for _, f := range t.refused {
			s.wakeAfter(f.retry, now)
		}
		all = all && s.quiet(kind(k), now) && !s.refusing(kind(k))
	}
	if t := s.subs[clusters]; t.out != nil {
		if add, removed := t.todo(s.target.resources[clusters], now); len(add)+len(removed) > 0 {
			s.wakeAfter(t.out.at.Add(s.server.ackTimeout), now)
		}
	}
	s.report.inSync = all
	if !all {
		return
	}
	s.delivered(now, true)
	if !s.changed.IsZero() {
		s.server.metrics.changeToACK.Observe(now.Sub(s.changed).Seconds())
		s.changed = time.Time{}
	}
	if g := s.target.generation; g != s.report.applied {
		if s.report.applied != 0 {
			s.report.drainsUntil = now.Add(s.features.DrainTime)
		}
		s.report.applied = g
	}
}

// wakeAfter is wake, for times that are not past.
func (s *session) wakeAfter(at, now time.Time) {
	if now.Before(at) {
		s.wake(at)
	}
}

// wake asks for a call of tick at that time.
func (s *session) wake(at time.Time) {
	if !s.wakeAt.IsZero() && !at.Before(s.wakeAt) {
		return
	}
	s.wakeAt = at
	s.rouse()
}

// rouse makes the stream's goroutine look at what there is to do. It does not block.
func (s *session) rouse() {
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
// Clusters do not count: the ACK of one is kept back until it is warm.
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

// room reports whether a request leaves the number of names that the stream has subscribed to
// within bounds.
func (s *session) room(k kind, more int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs[k].names)+more <= maxNames
}
