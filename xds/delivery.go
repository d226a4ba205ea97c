package xds

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// keptDeliveries is how many of the last deliveries a stream remembers.
const keptDeliveries = 16

// delivery is what became of a change on its way to one Envoy.
type delivery struct {
	number   uint64 // of the newest change that it brings, with all before it that concern the proxy
	sent     time.Time
	accepted time.Time
}

// changesOf are what w brings to an Envoy that was told all up to number told: the number of the
// newest change, and when the first of them was seen. Zero: no change concerned the proxy since.
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

// deliver notes that what is told from now on brings the changes up to number. The caller holds the
// lock.
func (s *session) deliver(number uint64) {
	if n := len(s.deliveries); n == keptDeliveries {
		s.deliveries = slices.Delete(s.deliveries, 0, 1)
	}
	s.deliveries = append(s.deliveries, delivery{number: number})
}

// delivered notes, when something was sent or when Envoy has all, the deliveries that this is
// about.
func (s *session) delivered(now time.Time, accepted bool) {
	for i := range slices.Backward(s.deliveries) {
		d := &s.deliveries[i]
		if !d.accepted.IsZero() {
			return
		}
		if accepted {
			d.accepted = now
		} else if d.sent.IsZero() {
			d.sent = now
		}
	}
}

// ChangeStatus is what became of one change of the catalog.
type ChangeStatus struct {
	// Number grows from change to change, over restarts too.
	Number uint64 `json:"number"`
	// Seen is when the source noticed it.
	Seen    time.Time     `json:"seen"`
	Proxies []ProxyChange `json:"proxies"`
}

// ProxyChange is what became of a change at one stream of a proxy, or at a proxy without streams.
type ProxyChange struct {
	ID identity.ProxyID `json:"id"`
	// State says it in words: "accepted", "sent", "does not concern it", "not connected", why it
	// waits.
	State string `json:"state"`
	// Sent is when the first response went out that it led to; zero: none did.
	Sent time.Time `json:"sent,omitzero"`
	// Accepted is when Envoy had accepted all that it led to; zero: it has not.
	Accepted time.Time `json:"accepted,omitzero"`
}

// Change says what became of the change with that number; 0 is the newest. Of older ones than the
// last 64 it knows nothing, which is an error. It blocks for no I/O.
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
		return ChangeStatus{}, fmt.Errorf("there is no change %d among the last ones; the newest is %d", number, view.Change().Number)
	}
	out := ChangeStatus{Number: number, Seen: list[0].Seen, Proxies: []ProxyChange{}}
	for p := range view.Proxies() {
		w := view.Proxy(p.ID)
		switch first := w.Changes[0]; {
		case slices.Contains(w.Changes, number):
			out.Proxies = append(out.Proxies, s.reached(p.ID, number)...)
		case number < first && len(w.Changes) == catalog.KeptOfProxy: // the older ones are forgotten
			out.Proxies = append(out.Proxies, ProxyChange{ID: p.ID, State: "not known any more"})
		default:
			out.Proxies = append(out.Proxies, ProxyChange{ID: p.ID, State: "does not concern it"})
		}
	}
	return out, nil
}

// reached is how far a change that concerns the proxy has come.
func (s *Server) reached(id identity.ProxyID, number uint64) (out []ProxyChange) {
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
				c.State = "accepted"
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
