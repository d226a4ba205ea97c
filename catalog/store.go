package catalog

import (
	"sync"

	"github.com/sallyport/sallyport/internal/latest"
)

// Store holds the newest View. Its zero value is ready for use. Views wakes those who wait for the next one.
type Store struct {
	Views latest.Value[*View]
	mu    sync.Mutex
}

// Publish makes the next View out of c, and tells nobody if that is the one there is. It is what a Source is given; it does
// not block for longer than View.Next takes and may be called by several goroutines.
func (s *Store) Publish(c Contents) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.Views.Load()
	if !ok {
		old = &View{}
	}
	if next := old.Next(c); next != old {
		s.Views.Set(next)
	}
}
