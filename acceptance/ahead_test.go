package acceptance

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/clocktest"
	"github.com/sallyport/sallyport/sds"
)

// TestStepOfTheClock: a silent holder is waited for until its leaf has ended by a clock that can be believed, not as soon as a step says so:
// who steps it back makes the leaf good again.
func TestStepOfTheClock(t *testing.T) {
	const life = 2 * time.Hour
	type event struct {
		after time.Duration // since the event before
		step  time.Duration // then the wall clock moves
		waits time.Duration // then it is waited for so long yet, by the wall clock; 0: not at all
	}
	for name, events := range map[string][]event{
		"none": {{time.Hour, 0, time.Hour}, {time.Hour + time.Minute, 0, 0}},
		"ahead and back": {
			{time.Hour, 30 * 24 * time.Hour, time.Hour}, {30 * time.Minute, -30 * 24 * time.Hour, 30 * time.Minute}, {31 * time.Minute, 0, 0},
		},
		"ahead for good":        {{time.Hour, 5 * time.Hour, time.Hour}, {61 * time.Minute, 0, 0}, {life, 0, 0}},
		"ahead twice":           {{time.Minute, 5 * time.Hour, life - time.Minute}, {time.Hour, 5 * time.Hour, 59 * time.Minute}, {time.Hour, 0, 0}},
		"back":                  {{time.Hour, -5 * time.Hour, 6 * time.Hour}, {5 * time.Hour, 0, time.Hour}, {61 * time.Minute, 0, 0}},
		"back and ahead":        {{time.Minute, -5 * time.Hour, 7*time.Hour - time.Minute}, {time.Minute, 5 * time.Hour, 7*time.Hour - 2*time.Minute}, {life, 0, 0}},
		"synchronised":          {{time.Hour, 0, time.Hour}, {0, 900 * time.Millisecond, time.Hour}, {61 * time.Minute, 0, 0}},
		"ahead by half an hour": {{time.Hour, 30 * time.Minute, time.Hour}, {61 * time.Minute, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t)
				r, _ := m.open()
				r.cfg.Life = life
				var off atomic.Int64 // of the wall clock
				r.now = func() time.Time { return clocktest.Stepped(time.Now(), time.Duration(off.Load())) }
				defer running(t, r)()
				s := r.Open(proxy("web"))
				leaf := m.leaf("web", false, life)
				s.Give(m.one, leaf)
				s.Accept(m.one, []*sds.SVID{leaf})
				s.Close(false)
				m.now = m.both
				for i, e := range events {
					time.Sleep(e.after)
					off.Add(int64(e.step))
					// Before and after it was noticed.
					for range 2 {
						for what, got := range map[string][]ca.Holder{"outdated": r.Outdated(m.next.Cert)} {
							switch {
							case e.waits == 0 && len(got) == 0:
							case e.waits == 0 || len(got) != 1:
								t.Errorf("event %d: %s: %s", i, what, text(got))
							default:
								if rest := got[0].Ends.Sub(r.now()).Round(time.Minute); rest != e.waits {
									t.Errorf("event %d: %s: it is waited for for %s, want %s", i, what, rest, e.waits)
								}
							}
						}
						time.Sleep(3 * time.Second)
					}
				}
			})
		})
	}
}

// TestAheadIsForgotten: what was given after a step is waited for as its own end says once all of before has ended.
func TestAheadIsForgotten(t *testing.T) {
	start := time.Now()
	at := func(after, off time.Duration) time.Time { return clocktest.Stepped(start, off).Add(after) }
	var a ahead
	for i, e := range []struct{ after, off, want time.Duration }{
		{0, 0, 0},
		{time.Minute, time.Hour, time.Hour},
		{time.Hour, time.Hour, time.Hour},
		{2 * time.Hour, time.Hour, time.Hour},
		{2*time.Hour + 2*time.Minute, time.Hour, 0},
		{3 * time.Hour, -time.Hour, 0},
		{3 * time.Hour, 0, time.Hour},
		{4 * time.Hour, -time.Hour / 2, time.Hour / 2},
		{4 * time.Hour, -5 * time.Hour, 0},
	} {
		if a.look(at(e.after, e.off), 2*time.Hour); a.by != e.want {
			t.Errorf("look %d: ahead by %s, want %s", i, a.by, e.want)
		}
	}
}
