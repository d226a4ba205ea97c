package consul

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Consul's state can be put back to an earlier one (consul snapshot restore). Its indexes are lower then, and a query that asks for what
// came after an index of before waits in vain until its time is over. Consul ends the queries that wait at that moment without anything new, by
// which it is noticed; then all queries begin anew without an index, also those that did not wait just then.

// errRestored is why a query was ended that may wait for an index that does not come.
var errRestored = errors.New("consul's state was put back")

// restoredEvery bounds how often all queries begin anew.
const restoredEvery = 5 * time.Second

// epoch says how often Consul's state was put back: an index of another epoch says nothing.
func (t *turns) epoch() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epochs
}

// restored ends all queries that wait, to begin anew, and returns the new epoch.
func (t *turns) restored() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.epochs > 0 && now.Sub(t.begun) < restoredEvery {
		return t.epochs
	}
	t.epochs++
	t.begun = now
	for h := range t.holders {
		h.cancel(errRestored)
	}
	for h := range t.firm {
		h.cancel(errRestored)
	}
	return t.epochs
}

// putBack reports whether an answer is one of a state that was put back. last is the index of the answer before it, of whatever epoch.
func (m meta) putBack(last uint64) bool {
	return m.early || m.index > 0 && m.index < last
}

// spreadOut keeps the queries that begin anew from doing so in the same instant.
func spreadOut() time.Duration { return time.Duration(rand.Float64() * float64(recoverySpread)) }
