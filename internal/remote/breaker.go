package remote

import (
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

const (
	// breakAfter is how many attempts in a row find the server unavailable before it is left alone.
	breakAfter = 5
	// firstRest and longestRest are for how long.
	firstRest, longestRest = 5 * time.Second, time.Minute
)

// breaker keeps a server that is unavailable from being asked by everybody. After a rest one question is let through, and what becomes
// of that decides for all. The zero breaker lets through.
type breaker struct {
	mu       sync.Mutex
	failures int // in a row
	until    time.Time
	trying   bool
}

// enter returns an Error unless the server may be asked now. Whoever was let in says afterwards what became of it.
func (b *breaker) enter(now time.Time) *Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rest := b.until.Sub(now); rest > 0 {
		return &Error{RetryAfter: rest, Err: fmt.Errorf("not asked, as %d questions in a row found it unavailable or it wants to be left alone", b.failures)}
	}
	if b.failures < breakAfter {
		return nil
	}
	if b.trying {
		return &Error{RetryAfter: time.Second, Err: fmt.Errorf("not asked, as %d questions in a row found it unavailable and another one is tried now", b.failures)}
	}
	b.trying = true
	return nil
}

// answered notes that the server is there, whatever it said.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.until, b.trying = 0, time.Time{}, false
}

// abandoned notes that nobody waited for what became of the question.
func (b *breaker) abandoned() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}

// failed notes that the server was unavailable and, if retryAfter is not zero, for how long it wants to be left alone. It reports
// whether it is left alone beyond that.
func (b *breaker) failed(now time.Time, retryAfter time.Duration) (open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.trying = false
	var rest time.Duration
	if b.failures >= breakAfter {
		open = true
		rest = backoff.Delay(b.failures-breakAfter+1, firstRest, longestRest)
	}
	if t := now.Add(max(rest, retryAfter)); t.After(b.until) {
		b.until = t
	}
	return open
}
