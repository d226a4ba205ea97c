package acceptance

import "time"

// ahead is how far the wall clock went ahead of the monotonic one. A leaf that has ended by a clock that is wrong for a while is good again
// when the clock is right, and so must be the roots that verify it. So its holder is waited for as long as it would have been without the
// step, which is a leaf's life at most: what was given before the step has ended then whatever the clock says.
type ahead struct {
	by    time.Duration
	since time.Time // of the last step forward
	seen  time.Time // zero: the clock was not looked at yet
}

// least is what counts as a step; less is how clocks are synchronised.
const least = time.Second

// look notes how the clock moved since the last look. life is how long the leafs live.
func (a *ahead) look(now time.Time, life time.Duration) {
	if !a.seen.IsZero() {
		step := now.Round(0).Sub(a.seen.Round(0)) - now.Sub(a.seen)
		switch {
		case step >= least:
			a.by, a.since = a.by+step, now
		case step <= -least: // back to where it was
			a.by = max(0, a.by+step)
		}
	}
	a.seen = now
	if a.by > 0 && now.Sub(a.since) > life {
		a.by = 0
	}
}

// look has r note where the clock is, and returns that. r.mu is held.
func (r *Record) look(now time.Time) time.Time {
	r.ahead.look(now, r.cfg.Life)
	return now
}

// sure is until when leafs have ended, as far as is sure, in Unix seconds. r.mu is held.
func (r *Record) sure(now time.Time) int64 { return now.Add(-r.ahead.by).Unix() }
