package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// turns bounds how many queries wait at the agent at one time. As long as there is room each waits as long as it likes; when there is none
// those that have waited longest give way, first come first served, and all wait briefly until there is room again.
type turns struct {
	mu      sync.Mutex
	most    int
	free    int
	queue   []chan struct{} // of those who want a turn, first come first; closed when it is theirs
	holders map[*holder]struct{}
	firm    map[*holder]struct{} // those that take no turns
	epochs  uint64               // see epoch
	begun   time.Time            // the last of them
}

type holder struct {
	since  time.Time
	cancel context.CancelCauseFunc
}

// errTurn is why a query was ended that had waited long enough while others had no turn.
var errTurn = errors.New("somebody else's turn")

// shortWait is how long a query waits at the agent while others have no turn.
const shortWait = time.Second

func newTurns(n int) *turns {
	return &turns{most: n, free: n, holders: map[*holder]struct{}{}, firm: map[*holder]struct{}{}}
}

// hold is take for a query that takes no turns and never gives way.
func (t *turns) hold(ctx context.Context, epoch uint64) (context.Context, time.Duration, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	h := &holder{cancel: cancel}
	t.mu.Lock()
	t.firm[h] = struct{}{}
	if t.epochs != epoch {
		cancel(errRestored)
	}
	t.mu.Unlock()
	return ctx, longWait(), func() {
		cancel(nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.firm, h)
	}
}

// longWait is how long a query waits at the agent that nobody waits for.
func longWait() time.Duration {
	return longestWait - time.Duration(rand.Float64()*float64(longestWait/5))
}

// take waits for a turn. It returns the context to ask with, how long to let the agent wait, and what to call afterwards. If ctx ends there
// is no turn, and the context has ended; if epoch is over it ends at once.
func (t *turns) take(ctx context.Context, epoch uint64) (context.Context, time.Duration, func()) {
	if !t.enter(ctx) {
		return ctx, 0, func() {}
	}
	wait := longWait()
	ctx, cancel := context.WithCancelCause(ctx)
	h := &holder{since: time.Now(), cancel: cancel}
	t.mu.Lock()
	if len(t.queue) > 0 {
		wait = shortWait
	}
	t.holders[h] = struct{}{}
	if t.epochs != epoch {
		cancel(errRestored)
	}
	t.mu.Unlock()
	return ctx, wait, func() {
		cancel(nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.holders, h)
		t.pass()
	}
}

// pass hands a turn that was given back to the first who waits. t.mu is held.
func (t *turns) pass() {
	if len(t.queue) == 0 {
		t.free++
		return
	}
	close(t.queue[0])
	t.queue = slices.Delete(t.queue, 0, 1)
}

// enter waits for a turn, and makes the query that has waited longest give way if that takes more than a short wait; false if ctx ended.
func (t *turns) enter(ctx context.Context) bool {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return true
	}
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	t.mu.Unlock()
	impatience := time.NewTicker(shortWait)
	defer impatience.Stop()
	for {
		select {
		case <-mine:
			return true
		case <-impatience.C:
			t.giveWay()
		case <-ctx.Done():
			t.mu.Lock()
			defer t.mu.Unlock()
			if i := slices.Index(t.queue, mine); i >= 0 {
				t.queue = slices.Delete(t.queue, i, i+1)
			} else {
				t.pass() // it became ours just now
			}
			return false
		}
	}
}

// giveWay ends the query that has waited longest.
func (t *turns) giveWay() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var oldest *holder
	for h := range t.holders {
		if oldest == nil || h.since.Before(oldest.since) {
			oldest = h
		}
	}
	if oldest != nil && time.Since(oldest.since) >= 2*shortWait { // those that wait briefly end by themselves
		delete(t.holders, oldest) // so that the next who waits ends another
		oldest.cancel(errTurn)
	}
}
