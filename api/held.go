package api

import "net/http"

// What the answers that somebody waits for may take: those that one caller waits for, and all. An answer for which several callers wait
// counts once in all, and for each of them.
const (
	maxHeldOfCaller = 32 << 20
	maxHeld         = 256 << 20
)

// errors for whom there is no memory.
var (
	errHeldOfCaller = failed(http.StatusTooManyRequests, "the answers that this caller waits for take %d MiB, as much as they may: ask for less at a time, or with a filter", maxHeldOfCaller>>20)
	errHeld         = failed(http.StatusTooManyRequests, "the answers that callers wait for take %d MiB, as much as they may: ask again later, or without an index", maxHeld>>20)
)

// held is how much memory answers take that somebody waits for, in bytes.
type held struct {
	most, mostOfCaller int
	all                int
	of                 map[string]int // by caller
}

func (h *held) add(caller string, size int) {
	if h.of == nil {
		h.of = map[string]int{}
	}
	if h.of[caller] += size; h.of[caller] == 0 {
		delete(h.of, caller)
	}
}

// enter notes that a caller waits for t. ts.mu is held.
func (ts *topics) enter(t *topic, caller string) {
	if t.waiting++; t.waiting == 1 {
		ts.held.all += t.size
		t.waiters = map[string]int{}
	}
	if t.waiters[caller]++; t.waiters[caller] == 1 {
		ts.held.add(caller, t.size)
	}
}

// exit is the end of enter. ts.mu is held.
func (ts *topics) exit(t *topic, caller string) {
	if t.waiters[caller]--; t.waiters[caller] == 0 {
		delete(t.waiters, caller)
		ts.held.add(caller, -t.size)
	}
	if t.waiting--; t.waiting == 0 {
		ts.held.all -= t.size
		t.waiters = nil
	}
}

// hold is why a caller that has entered may not wait for t; nil: it may. What somebody else waits for as well takes nothing more.
func (ts *topics) hold(t *topic, caller string) error {
	size := t.weight()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.weighed(t, size)
	switch {
	case t.waiters[caller] > 1:
		return nil
	case ts.held.of[caller] > ts.held.mostOfCaller:
		return errHeldOfCaller
	case t.waiting == 1 && ts.held.all > ts.held.most:
		return errHeld
	}
	return nil
}

// fits is why one more answer of a size may not be watched for a token; nil: it may. rl.mu is held.
func (rl *relay) fits(token string, size int) error {
	all, of := size, size
	for _, e := range rl.watched {
		e.mu.Lock()
		n := len(e.reply.Body)
		e.mu.Unlock()
		if all += n; e.question.Token == token {
			of += n
		}
	}
	switch {
	case of > maxHeldOfCaller:
		return errHeldOfCaller
	case all > maxHeld:
		return errHeld
	}
	return nil
}

// outgrown forgets e if answers have become larger than they may be.
func (rl *relay) outgrown(e *watched) bool {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if rl.watched[e.key] != e || rl.fits(e.question.Token, 0) == nil {
		return false
	}
	delete(rl.watched, e.key)
	return true
}
