package consul

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// turns bounds how many queries wait at the agent at one time. As long as there is room each waits as long as it likes; when there is none
// those that wait give way one after another, and all wait briefly until there is room again.
type turns struct {
	slots chan struct{}

	mu      sync.Mutex
	waiting int                  // who want a slot
	holders map[*holder]struct{} // who have one
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
	return &turns{slots: make(chan struct{}, n), holders: map[*holder]struct{}{}}
}

// take waits for a turn. It returns the context to ask with, how long to let the agent wait, and what to call afterwards. If ctx ends there
// is no turn, and the context has ended.
func (t *turns) take(ctx context.Context) (context.Context, time.Duration, func()) {
	wait := longestWait - time.Duration(rand.Float64()*float64(longestWait/5))
	select {
	case t.slots <- struct{}{}:
	default:
		if !t.queue(ctx) {
			return ctx, 0, func() {}
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	h := &holder{since: time.Now(), cancel: cancel}
	t.mu.Lock()
	if t.waiting > 0 {
		wait = shortWait
	}
	t.holders[h] = struct{}{}
	t.mu.Unlock()
	return ctx, wait, func() {
		cancel(nil)
		t.mu.Lock()
		delete(t.holders, h)
		t.mu.Unlock()
		<-t.slots
	}
}

// queue waits for a slot, and ends the query that has waited longest if that takes more than a short wait; false if ctx ended.
func (t *turns) queue(ctx context.Context) bool {
	t.mu.Lock()
	t.waiting++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.waiting--
		t.mu.Unlock()
	}()
	for {
		timer := time.NewTimer(shortWait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case t.slots <- struct{}{}:
			timer.Stop()
			return true
		case <-timer.C:
			t.giveWay()
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
	if oldest != nil && time.Since(oldest.since) >= shortWait {
		delete(t.holders, oldest) // so that the next who waits ends another
		oldest.cancel(errTurn)
	}
}
