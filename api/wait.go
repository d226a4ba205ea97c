package api

import (
	"net/http"
	"sync"
	"sync/atomic"
)

// maxWaits bounds how many questions of one caller wait at a time. Of Consul's clients the busiest known watch some hundred services.
const maxWaits = 1000

// waits counts the questions that wait.
type waits struct {
	all atomic.Int64

	mu sync.Mutex
	of map[string]int
}

// enter counts one wait of a caller. leave is its end. The error is that the caller has too many.
func (w *waits) enter(caller string) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[caller] >= maxWaits {
		return nil, failed(http.StatusTooManyRequests, "%d questions of this caller wait already, as many as may: ask for less at a time, or with a token each", maxWaits)
	}
	if w.of == nil {
		w.of = map[string]int{}
	}
	w.of[caller]++
	w.all.Add(1)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all.Add(-1)
		if w.of[caller]--; w.of[caller] == 0 {
			delete(w.of, caller)
		}
	}, nil
}
