package consul

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bounds of the destinations that are read because somebody asked about them.
const (
	// mostElsewhere is how many there are, and mostOfCaller how many of them one caller was the first to ask about.
	mostElsewhere, mostOfCaller = 256, 64
	// idleElsewhere is how long one is read that nobody asks about, and spareElsewhere how long at least if others need its place.
	idleElsewhere, spareElsewhere = 10 * time.Minute, 5 * time.Second
)

// elsewhere are the destinations that this node has no sidecar and no application of, and that somebody asked about. What is said of
// them is read from then on, as Consul's agent keeps what it was asked. The names are folded: letter case does not count in destinations.
type elsewhere struct {
	mu  sync.RWMutex
	own map[string]bool // the node's own services, which are read anyway
	by  map[string]*inquiry
}

// inquiry is one of the destinations.
type inquiry struct {
	caller string       // who was the first to ask
	used   atomic.Int64 // when somebody asked last, in nanoseconds
}

// Know has what is said of a destination as a service be read, if it is not, for as long as somebody asks. caller tells those apart who
// ask; known says that it is known what is said, so that nothing but the question has to be noted. Nil: it is read, though it may not have
// been published yet. The errors are gRPC statuses: ResourceExhausted if too many are read already, and Unavailable if it cannot be read
// and was not before. It does not block.
func (a *Agent) Know(caller string, destination identity.Name, known bool) error {
	key := destination.Fold().Service
	own, added := a.elsewhere.ask(caller, key, time.Now())
	switch {
	case own, known && !added:
		return nil
	case added:
		a.mu.Lock()
		a.known.epoch++ // so that contents are put together anew, and with them the queries
		a.mu.Unlock()
		a.wakeUp()
	case !a.elsewhere.has(key):
		return status.Errorf(codes.ResourceExhausted, "intentions of too many services that are not of this node are asked about already, %d, and %d by one caller, are the most: ask for less at a time", mostElsewhere, mostOfCaller)
	}
	contact := a.client.contact.state()
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.known.intentions[key]
	switch {
	case w != nil && w.ok:
		return nil
	case !contact.lost.IsZero():
		return status.Errorf(codes.Unavailable, "failed getting intention match: the Consul agent %s does not answer: %s", a.client.name, contact.cause)
	case w != nil && w.err != nil && !errors.Is(w.err, errUnreachable): // an agent that is back is asked again in a moment
		return status.Errorf(codes.Unavailable, "failed getting intention match: %v", w.err)
	}
	return nil
}

// ask notes a question about a destination. own: it is read anyway; added: it is to be read from now on. If it is neither, it is there
// already, or there is no room.
func (e *elsewhere) ask(caller, key string, now time.Time) (own, added bool) {
	e.mu.RLock()
	own = e.own[key]
	i := e.by[key]
	e.mu.RUnlock()
	switch {
	case own:
		return true, false
	case i != nil:
		i.used.Store(now.UnixNano())
		return false, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.own[key] || e.by[key] != nil || !e.room(caller, now) {
		return e.own[key], false
	}
	i = &inquiry{caller: caller}
	i.used.Store(now.UnixNano())
	if e.by == nil {
		e.by = map[string]*inquiry{}
	}
	e.by[key] = i
	return false, true
}

// room reports whether there is a place for one more of caller's, if need be that of one which nobody asked about for a while. A caller
// with as many as one may have takes none of another's.
func (e *elsewhere) room(caller string, now time.Time) bool {
	count, last, lastOwn := 0, "", ""
	spare := now.Add(-spareElsewhere).UnixNano()
	older := func(key, than string) bool { return than == "" || e.by[key].used.Load() < e.by[than].used.Load() }
	for key, i := range e.by {
		if i.caller == caller {
			count++
		}
		if i.used.Load() > spare {
			continue
		}
		if older(key, last) {
			last = key
		}
		if i.caller == caller && older(key, lastOwn) {
			lastOwn = key
		}
	}
	switch {
	case count >= mostOfCaller:
		last = lastOwn
	case len(e.by) < mostElsewhere:
		return true
	}
	delete(e.by, last)
	return last != ""
}

// has reports whether a destination is read.
func (e *elsewhere) has(key string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.by[key] != nil
}

// belong notes which services are the node's own.
func (e *elsewhere) belong(services map[string]bool) {
	own := make(map[string]bool, len(services))
	for name := range services {
		own[entryKey(name)] = true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.own = own
	maps.DeleteFunc(e.by, func(key string, _ *inquiry) bool { return own[key] })
}

// names are the destinations that are to be read, without those that nobody asks about any more; next is when to look again, zero: if
// one is added. While the agent is away none is forgotten, as it could not be read again.
func (e *elsewhere) names(now time.Time, away bool) (names []string, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, i := range e.by {
		end := time.Unix(0, i.used.Load()).Add(idleElsewhere)
		if !now.Before(end) {
			if !away {
				delete(e.by, key)
				continue
			}
			end = now.Add(spareElsewhere)
		}
		if names = append(names, key); next.IsZero() || end.Before(next) {
			next = end
		}
	}
	return names, next
}

// inquire adds what somebody asks about to what is to be read.
func (b *assembly) inquire(w *wants) {
	names, next := b.agent.elsewhere.names(b.now, !b.basis.contact.lost.IsZero())
	b.inquired = names
	if len(names) == 0 {
		return
	}
	b.wake(next)
	for _, name := range names {
		w.intentions[name] = true
	}
}

// inquiries adds what is said of the destinations that somebody asks about to n, once it is known. Agent.mu is held.
func (b *assembly) inquiries(n *needs) {
	for _, name := range b.inquired {
		w := b.agent.known.intentions[name]
		if _, own := n.intentions[name]; own || w == nil || !w.ok {
			continue
		}
		if n.intentions[name] = w.value.own; w.value.own == nil { // that nothing is said of it is known
			n.intentions[name] = &catalog.Destination{Name: identity.NewName(name)}
		}
	}
}
