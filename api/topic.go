package api

import (
	"bytes"
	"container/list"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/sds"
)

// What the answers that nobody waits for may take.
const (
	maxTopics     = 10_000
	maxTopicBytes = 64 << 20
)

// depends are the pointers and values of a state on which an answer depends: if they are equal in two states, so is the answer. All
// must be comparable.
type depends []any

// topic is one question of which the answer is kept: rendered once for all who ask it, and once more when it changed.
type topic struct {
	key string

	mu sync.Mutex
	// seen is the number of the state that the rest was brought to; 0: none.
	seen     uint64
	depends  depends
	answer   *answer       // it is never written to
	question *question     // without its token
	changed  chan struct{} // closed with the next answer; nil: nobody waits

	// Guarded by topics.mu.
	waiting int
	waiters map[string]int // how many of them are of a caller
	size    int
	place   *list.Element // among the idle ones; nil: somebody waits
}

// answer is what a question is answered with.
type answer struct {
	code int
	// index grows with each change of code or body.
	index uint64
	body  []byte
	// kind is the Content-Type; empty: JSON.
	kind string
	// hash is the ContentHash in the body; empty: there is none.
	hash string
	zip  *zipped
	// chain is the leaf in the body and what signed it; nil: it has none.
	chain []*x509.Certificate
	// roots are those in the body; nil: it has none.
	roots *sds.Roots
}

// bring brings t up to date. The result is t's answer and what is closed when there is the next.
func (t *topic) bring(st *state, wait bool) (*answer, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if st.number > t.seen {
		t.advance(st)
	}
	if wait && t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.answer, t.changed
}

func (t *topic) advance(st *state) {
	first := t.seen == 0
	t.seen = st.number
	on, next, same := t.next(st, first)
	if same {
		return
	}
	t.depends = on
	if !first && next.code == t.answer.code && bytes.Equal(next.body, t.answer.body) {
		return
	}
	next.index = st.number
	t.answer = next
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// next is what t depends on in st, and its answer there; same: neither is another. What panics is an answer: no question may keep
// another's from coming.
func (t *topic) next(st *state, first bool) (on depends, next *answer, same bool) {
	defer func() {
		if r := recover(); r != nil {
			on, same = nil, false
			next = &answer{code: http.StatusInternalServerError, body: fmt.Appendf(nil, "sallyport cannot answer this question, which is a mistake of its own: %v", r), kind: textPlain}
		}
	}()
	on = t.question.route.depends(st, t.question)
	if !first && t.depends != nil && slices.Equal(on, t.depends) {
		return nil, nil, true
	}
	return on, rendered(st, t.question), false
}

// topics are those that somebody waits for, and those asked last.
type topics struct {
	mu   sync.Mutex
	all  map[string]*topic
	idle *list.List // of *topic, the one asked last in front
	size int        // of the idle ones, in bytes
	held held       // of the others
}

func (ts *topics) init() {
	ts.all, ts.idle = map[string]*topic{}, list.New()
	ts.held.most, ts.held.mostOfCaller = maxHeld, maxHeldOfCaller
}

// get returns the topic of q. If wait is set it stays until leave.
func (ts *topics) get(q *question, wait bool) *topic {
	key := q.key()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.all[key]
	if t == nil {
		t = &topic{key: key, answer: &answer{}, question: q.kept()}
		ts.all[key] = t
	}
	if wait {
		ts.enter(t, q.caller.ID)
	}
	ts.placed(t)
	return t
}

// leave is the end of a caller's wait.
func (ts *topics) leave(t *topic, caller string) {
	size := t.weight()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.exit(t, caller)
	ts.placed(t)
	ts.weighed(t, size)
}

// weight is about what t takes: answer, what it is compressed to, key and question.
func (t *topic) weight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return 1024 + len(t.answer.body)*5/4 + 3*len(t.key)
}

// placed puts t where it belongs, and keeps the bounds. ts.mu is held.
func (ts *topics) placed(t *topic) {
	switch {
	case t.waiting > 0 && t.place != nil:
		ts.idle.Remove(t.place)
		ts.size -= t.size
		t.place = nil
	case t.waiting == 0 && t.place == nil:
		t.place = ts.idle.PushFront(t)
		ts.size += t.size
	case t.place != nil:
		ts.idle.MoveToFront(t.place)
	}
	ts.bound()
}

// bound drops those that were not asked for the longest time. ts.mu is held.
func (ts *topics) bound() {
	for ts.idle.Len() > maxTopics || ts.size > maxTopicBytes && ts.idle.Len() > 1 {
		last, _ := ts.idle.Remove(ts.idle.Back()).(*topic)
		ts.size -= last.size
		last.place = nil
		delete(ts.all, last.key)
	}
}

// weigh notes how large t is.
func (ts *topics) weigh(t *topic) {
	size := t.weight()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.weighed(t, size)
}

// weighed is weigh while ts.mu is held.
func (ts *topics) weighed(t *topic, size int) {
	if t.place != nil {
		ts.size += size - t.size
	}
	if t.waiting > 0 {
		ts.held.all += size - t.size
	}
	for caller := range t.waiters {
		ts.held.add(caller, size-t.size)
	}
	t.size = size
	ts.bound()
}

// wake brings those up to date that somebody waits for.
func (ts *topics) wake(st *state) {
	ts.mu.Lock()
	waited := make([]*topic, 0, len(ts.all)-ts.idle.Len())
	for _, t := range ts.all {
		if t.waiting > 0 {
			waited = append(waited, t)
		}
	}
	ts.mu.Unlock()
	for _, t := range waited {
		t.bring(st, false)
	}
}
