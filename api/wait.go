package api

import (
	"maps"
	"net/http"
	"sync"
)

// maxWaits bounds how many questions of one caller wait at a time. Of Consul's clients the busiest known watch some hundred services.
const maxWaits = 1000

// waits counts the questions that wait, by caller.
type waits struct{ shares }

// enter counts one wait of a caller. leave is its end. The error is that the caller has too many.
func (w *waits) enter(caller string) (leave func(), err error) {
	if !w.take(caller, maxWaits, maxConns) {
		return nil, failed(http.StatusTooManyRequests, "%d questions of this caller wait already, as many as may: ask for less at a time, or with a token each", maxWaits)
	}
	return func() { w.give(caller) }, nil
}

// shares counts what is in use at a time, in all and by owner. The zero value is ready.
type shares struct {
	mu  sync.Mutex
	all int
	of  map[string]int
}

// take takes one for an owner, unless it has most of them, or all together have mostAll.
func (s *shares) take(owner string, most, mostAll int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[owner] >= most || s.all >= mostAll {
		return false
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.of[owner]++
	s.all++
	return true
}

// give gives one back.
func (s *shares) give(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[owner]--; s.of[owner] == 0 {
		delete(s.of, owner)
	}
}

// each is how many each owner has.
func (s *shares) each() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.of)
}

// used is how many are in use.
func (s *shares) used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.all)
}
