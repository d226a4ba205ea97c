package xds

import "time"

// How changes of the catalog and of the roots are merged. The first one after a quiet time is
// published at once, so that a quiet mesh gets each change within milliseconds. In a storm, changes
// are published when it pauses for stormQuiet, and at least every stormBound.
const (
	stormQuiet = 20 * time.Millisecond
	stormBound = 500 * time.Millisecond
)

// first is the earliest of the times that are not zero; zero if all are.
func first(times ...time.Time) (t time.Time) {
	for _, o := range times {
		if t.IsZero() || !o.IsZero() && o.Before(t) {
			t = o
		}
	}
	return t
}

// storm schedules the publication of changes. The zero value has none to publish.
type storm struct {
	since time.Time // of the first change that is not published
	at    time.Time // when to publish; zero: there is nothing to publish
	last  time.Time // the last publication
}

func (s *storm) change(now time.Time) {
	switch {
	case s.at.IsZero():
		s.since = now
		s.at = now
		if now.Sub(s.last) < stormQuiet {
			s.at = now.Add(stormQuiet)
		}
	case s.at.After(now):
		s.at = first(now.Add(stormQuiet), s.since.Add(stormBound))
	}
}

func (s *storm) due(now time.Time) bool { return !s.at.IsZero() && !now.Before(s.at) }

func (s *storm) published(now time.Time) { s.at, s.last = time.Time{}, now }
