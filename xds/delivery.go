package xds

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// keptDeliveries is how many of the last deliveries a stream keeps.
const keptDeliveries = 16

// delivery is the progress of a change to one Envoy.
type delivery struct {
	number   uint64 // of the newest change in it, after all older ones that concern the proxy
	sent     time.Time
	accepted time.Time
	// changed are the resources that the target has otherwise since the delivery before; nil once
	// they are accepted.
	changed []ref
}

// changesOf returns, of the changes of w after number after, the number of the newest, and when the
// first was seen. Zero: no change concerned the proxy since.
func changesOf(view *catalog.View, w *catalog.ProxyView, after uint64) (number uint64, seen time.Time) {
	for _, n := range w.Changes {
		if n <= after {
			continue
		}
		number = n
		if list := view.ChangesSince(n - 1); seen.IsZero() && len(list) > 0 && list[0].Number == n {
			seen = list[0].Seen
		}
	}
	return number, seen
}

// deliver notes that responses from now on have the changes up to number. The caller holds the
// lock.
func (s *session) deliver(number uint64) {
	if n := len(s.deliveries); n == keptDeliveries {
		s.deliveries = slices.Delete(s.deliveries, 0, 1)
	}
	s.deliveries = append(s.deliveries, delivery{number: number, changed: s.undelivered})
	s.undelivered = nil
}

// deliverySent notes that a response is sent.
func (s *session) deliverySent(now time.Time) {
	for i := range s.deliveries {
		if d := &s.deliveries[i]; d.sent.IsZero() && d.accepted.IsZero() {
			d.sent = now
		}
	}
}

// delivered notes which deliveries Envoy has accepted all of.
func (s *session) delivered(now time.Time) {
	pending := func(r ref) bool { return !s.settled(r) }
	for i := range s.deliveries {
		if d := &s.deliveries[i]; d.accepted.IsZero() && s.started() && !slices.ContainsFunc(d.changed, pending) {
			d.accepted, d.changed = now, nil
		}
	}
}

// refuses reports whether Envoy refuses what it is to have of a resource.
func (s *session) refuses(r ref) bool {
	return s.target != nil && slices.Contains(s.refused(r.kind), r.name)
}

// ChangeStatus is the progress of one change of the catalog.
type ChangeStatus struct {
	// Number grows from change to change, over restarts too.
	Number uint64 `json:"number"`
	// Seen is when the source noticed it.
	Seen    time.Time     `json:"seen"`
	Proxies []ProxyChange `json:"proxies"`
	// Held are the grants that wait now, and what for, in words: of all that are said and not in force,
	// those of services whose last change this is, or all if it is the newest of the catalog.
	Held []string `json:"held,omitempty"`
}

// ProxyChange is the progress of a change at one stream of a proxy, or at a proxy without streams.
type ProxyChange struct {
	ID identity.ProxyID `json:"id"`
	// State is the progress in words: "accepted", "sent", "refused" (Envoy refuses a resource of
	// it), "does not concern it", "not connected", or why it waits. "accepted, but a grant waits":
	// Envoy has all that is in force, and ChangeStatus.Held says what is not. "accepted, and ends live
	// connections in 4s": a revocation refuses new ones already; StreamStatus.RevocationAt says why.
	State string `json:"state"`
	// Sent is when the first response with the change was sent; zero: none was.
	Sent time.Time `json:"sent,omitzero"`
	// Accepted is when Envoy had accepted all that the change has changed; zero: it has not.
	Accepted time.Time `json:"accepted,omitzero"`
}

// Change returns the progress of the change with that number; 0 is the newest. The error is that it
// is not among the last 64, or that there is no catalog yet. Change does no I/O.
func (s *Server) Change(number uint64) (ChangeStatus, error) {
	view, ok := s.views.Load()
	if !ok {
		return ChangeStatus{}, fmt.Errorf("change %d: the catalog is not known yet", number)
	}
	if number == 0 {
		number = view.Change().Number
	}
	list := view.ChangesSince(number - 1)
	if len(list) == 0 || list[0].Number != number {
		return ChangeStatus{}, fmt.Errorf("change %d is not among the last ones: the newest is %d", number, view.Change().Number)
	}
	out := ChangeStatus{Number: number, Seen: list[0].Seen, Proxies: []ProxyChange{}}
	held := heldOf(view)
	if number == view.Change().Number {
		for _, d := range held {
			out.Held = append(out.Held, d.texts...)
		}
	}
	for p := range view.Proxies() {
		w := view.Proxy(p.ID)
		switch first := w.Changes[0]; {
		case slices.Contains(w.Changes, number):
			last := w.Changes[len(w.Changes)-1] == number
			reached := s.reached(p.ID, number, last)
			if last {
				out.hold(held, p.Service, reached)
			}
			out.Proxies = append(out.Proxies, reached...)
		case number < first && len(w.Changes) == catalog.KeptOfProxy: // older ones were dropped
			out.Proxies = append(out.Proxies, ProxyChange{ID: p.ID, State: "not known any more"})
		default:
			out.Proxies = append(out.Proxies, ProxyChange{ID: p.ID, State: "does not concern it"})
		}
	}
	return out, nil
}

// heldGrants are those of a destination that are said and not in force.
type heldGrants struct {
	destination identity.Name
	texts       []string
}

// heldOf are the grants of view that wait.
func heldOf(view *catalog.View) (out []heldGrants) {
	for d := range view.Intentions() {
		h := heldGrants{destination: d.Name}
		for _, i := range d.Intentions {
			if i.Held != "" {
				h.texts = append(h.texts, fmt.Sprintf("%s => %s (allow) at %s waits until %s", i.Source, i.Destination, i.Origin, i.Held))
			}
		}
		if len(h.texts) > 0 {
			out = append(out, h)
		}
	}
	return out
}

// hold notes of a proxy of service, whose last change c is, which of its grants wait.
func (c *ChangeStatus) hold(all []heldGrants, service identity.Name, reached []ProxyChange) {
	waits := false
	for _, h := range all {
		if !h.destination.IsWildcard() && h.destination.Fold() != service.Fold() {
			continue
		}
		waits = true
		for _, text := range h.texts {
			if !slices.Contains(c.Held, text) {
				c.Held = append(c.Held, text)
			}
		}
	}
	for i := range reached {
		if waits && reached[i].State == "accepted" {
			reached[i].State = "accepted, but a grant waits"
		}
	}
}

// reached is the progress of a change that concerns the proxy, at each of its streams. last: it is the
// last one that does.
func (s *Server) reached(id identity.ProxyID, number uint64, last bool) (out []ProxyChange) {
	for _, n := range s.sessionsOf(id) {
		n.mu.Lock()
		c := ProxyChange{ID: id, State: "waiting"}
		if n.report.waiting != "" {
			c.State = "waiting: " + n.report.waiting
		}
		if n.report.failure != "" {
			c.State = "its configuration could not be made"
		}
		for _, d := range n.deliveries {
			if d.number < number {
				continue
			}
			c.Sent, c.Accepted = d.sent, d.accepted
			switch {
			case !d.accepted.IsZero():
				if c.State = "accepted"; last && !n.report.renameAt.IsZero() {
					c.State = fmt.Sprintf("accepted, and ends live connections in %s", max(time.Until(n.report.renameAt), 0).Round(time.Second))
				}
			case slices.ContainsFunc(d.changed, n.refuses):
				c.State = "refused"
			case !d.sent.IsZero():
				c.State = "sent"
			}
			break
		}
		n.mu.Unlock()
		out = append(out, c)
	}
	if len(out) == 0 {
		out = append(out, ProxyChange{ID: id, State: "not connected"})
	}
	return out
}
