package consul

import "time"

// queryState is what one query has found out, and how the query is doing.
type queryState[T any] struct {
	value T
	ok    bool // there is a value
	health
}

// health is how a query is doing.
type health struct {
	answered time.Time // the last answer, with a new value or not
	index    uint64    // of that one; 0: it had none
	filtered bool      // ACLs left something out of it
	// stale is for how long the servers that answered had not been in touch with the leader, if
	// that is long.
	stale     time.Duration
	err       error     // why it cannot be read now; nil: it can
	since     time.Time // when it first could not; zero: it can
	failed    time.Time // when it last could not
	recovered time.Time // when it could be read again after it could not
}

// longContact is how long an agent, or a server, may have been out of touch with the leader before
// what it says is called stale.
const longContact = 10 * time.Second

// news is what an answer tells that was not known before.
type news uint8

const (
	noNews   news = iota
	newValue      // another value of what was known and could be read, and nothing else
	newState      // that it is known, can be read or cannot, or lacks something
)

// take takes an answer to q in.
func (f *queryState[T]) take(value T, m meta, q *query[T]) news {
	n := newState
	if f.ok && f.err == nil && f.filtered == m.filtered {
		n = newValue
	}
	back := m.index > 0 && m.index < f.index
	f.confirm(m)
	f.filtered = m.filtered
	switch {
	case m.authoritative() || q.merge == nil:
	case f.ok:
		value = q.merge(f.value, value)
	case q.wary:
		return n
	}
	if f.value, f.ok = value, true; q.taken != nil {
		q.taken(value, m, back)
	}
	return n
}

// confirm takes in that an answer is what the last one was.
func (h *health) confirm(m meta) news {
	n := noNews
	if h.err != nil {
		n, h.recovered = newState, time.Now()
	}
	h.err, h.since, h.answered, h.stale, h.index = nil, time.Time{}, time.Now(), 0, m.index
	if m.noLeader || m.age > longContact {
		h.stale = max(m.age, time.Second)
	}
	return n
}

// fail takes in that no answer came.
func (h *health) fail(err error) news {
	n := noNews
	if h.err == nil || h.err.Error() != err.Error() {
		n = newState
	}
	h.err, h.failed = err, time.Now()
	if h.since.IsZero() {
		h.since = h.failed
	}
	return n
}
