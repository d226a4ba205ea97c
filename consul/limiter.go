package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// limiter bounds how many queries wait at the agent at one time. As long as there is room each
// waits as long as it likes; when there is none those that have waited longest give way, first come
// first served, and all wait briefly until there is room again.
//
// It also ends all that wait when Consul's state was put back to an earlier one (consul snapshot
// restore). Its indexes are lower then, and a query that asks for what came after an index of
// before waits in vain until its time is over. Consul ends the queries that wait at that moment
// without anything new, by which it is noticed; then all queries begin anew without an index, also
// those that did not wait just then.
type limiter struct {
	mu      sync.Mutex
	most    int
	free    int
	queue   []chan struct{} // of those who want a place, first come first; closed when it is theirs
	waiting map[*place]struct{}
	epochs  uint64    // how often Consul's state was put back
	begun   time.Time // the last of them
}

// place is what a query has that waits at the agent.
type place struct {
	since  time.Time // zero: it never gives way
	cancel context.CancelCauseFunc
}

var (
	// errGaveWay is why a query was ended that had waited long enough while others had no place.
	errGaveWay = errors.New("another query is to wait")
	// errRestored is why a query was ended that may wait for an index that does not come.
	errRestored = errors.New("consul's state was put back")
)

const (
	// shortWait is how long a query waits at the agent while others have no place.
	shortWait = time.Second
	// restoredEvery bounds how often all queries begin anew.
	restoredEvery = 5 * time.Second
)

func newLimiter(n int) *limiter {
	return &limiter{most: n, free: n, waiting: map[*place]struct{}{}}
}

// acquire waits for a place, unless the query always has one. It returns the context to ask with,
// how long to let the agent wait, and what to call afterwards. If ctx ends there is no place, and
// the context has ended; if epoch is over it ends at once.
func (l *limiter) acquire(
	ctx context.Context, epoch uint64, always bool,
) (context.Context, time.Duration, func()) {
	if !always && !l.enter(ctx) {
		return ctx, 0, func() {}
	}
	wait := longestWait - time.Duration(rand.Float64()*float64(longestWait/5))
	ctx, cancel := context.WithCancelCause(ctx)
	p := &place{cancel: cancel}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !always {
		p.since = time.Now()
		if len(l.queue) > 0 {
			wait = shortWait
		}
	}
	l.waiting[p] = struct{}{}
	if l.epochs != epoch {
		cancel(errRestored)
	}
	return ctx, wait, func() {
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.waiting, p); !always {
			l.pass()
		}
	}
}

// pass hands a place that was given back to the first who wants one. l.mu is held.
func (l *limiter) pass() {
	if len(l.queue) == 0 {
		l.free++
		return
	}
	close(l.queue[0])
	l.queue = slices.Delete(l.queue, 0, 1)
}

// enter waits for a place, and makes the query that has waited longest give way if that takes more
// than a short wait; false if ctx ended.
func (l *limiter) enter(ctx context.Context) bool {
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.mu.Unlock()
		return true
	}
	mine := make(chan struct{})
	l.queue = append(l.queue, mine)
	l.mu.Unlock()
	impatience := time.NewTicker(shortWait)
	defer impatience.Stop()
	for {
		select {
		case <-mine:
			return true
		case <-impatience.C:
			l.giveWay()
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			if i := slices.Index(l.queue, mine); i >= 0 {
				l.queue = slices.Delete(l.queue, i, i+1)
			} else {
				l.pass() // it became ours just now
			}
			return false
		}
	}
}

// giveWay ends the query that has waited longest.
func (l *limiter) giveWay() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var oldest *place
	for p := range l.waiting {
		if !p.since.IsZero() && (oldest == nil || p.since.Before(oldest.since)) {
			oldest = p
		}
	}
	// those that wait briefly end by themselves
	if oldest != nil && time.Since(oldest.since) >= 2*shortWait {
		delete(l.waiting, oldest) // so that the next who wants a place ends another
		oldest.cancel(errGaveWay)
	}
}

// epoch says how often Consul's state was put back: an index of another epoch says nothing.
func (l *limiter) epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs
}

// restored ends all queries that wait, to begin anew, and returns the new epoch.
func (l *limiter) restored() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.epochs > 0 && now.Sub(l.begun) < restoredEvery {
		return l.epochs
	}
	l.epochs++
	l.begun = now
	for p := range l.waiting {
		p.cancel(errRestored)
	}
	return l.epochs
}
