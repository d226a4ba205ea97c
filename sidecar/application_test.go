package sidecar

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// TestApplication: an application is said not to answer when attempts fail and no byte is
// exchanged, once until it changes, and a new control plane is told again.
func TestApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var now counters
		var told []admin.Application
		var away bool
		lost := 0
		var text bytes.Buffer
		w := application{
			log: slog.New(slog.NewTextHandler(&text, nil)),
			read: func(context.Context) (counters, error) {
				mu.Lock()
				defer mu.Unlock()
				return now, nil
			},
			tell: func(_ context.Context, a admin.Application) error {
				mu.Lock()
				defer mu.Unlock()
				if away {
					return errors.New("away")
				}
				told = append(told, a)
				return nil
			},
			lost: func() {
				mu.Lock()
				defer mu.Unlock()
				lost++
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.run(ctx) }()
		step := func(c counters, d time.Duration) int {
			mu.Lock()
			now = c
			before := len(told)
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			return len(told) - before
		}
		leave := func(b bool) {
			mu.Lock()
			defer mu.Unlock()
			away = b
		}
		if n := step(counters{}, time.Minute); n != 0 {
			t.Errorf("told %d times of an application that nobody asked", n)
		}
		if n := step(counters{bytes: 10, failed: 1}, 10*time.Second); n != 0 {
			t.Errorf("told %d times of one that answered after a failure", n)
		}
		if n := step(counters{bytes: 10, failed: 4}, 10*time.Second); n != 1 || told[0].Failed != 3 || told[0].Answers {
			t.Errorf("told %d times: %+v, want once that 3 attempts failed", n, told)
		}
		if n := step(counters{bytes: 10, failed: 4}, 61*time.Second); n < 2 {
			t.Errorf("told %d times within a minute, want it said again", n)
		}
		leave(true)
		step(counters{bytes: 20, failed: 4}, 10*time.Second)
		leave(false)
		if n := step(counters{bytes: 20, failed: 4}, 10*time.Second); n != 1 || !told[len(told)-1].Answers {
			t.Errorf("told %d times after the control plane was away: %+v, want that it answers", n, told[len(told)-1])
		}
		for _, looks := range []struct {
			c           counters
			d           time.Duration
			least, most int // calls of lost
		}{
			{counters{bytes: 20, failed: 4, lost: true}, applicationEvery, 0, 0}, // a moment
			{counters{bytes: 20, failed: 4}, time.Hour, 0, 0},
			{counters{bytes: 20, failed: 4, lost: true}, 5 * applicationEvery, 1, 1},
			{counters{bytes: 20, failed: 4, lost: true}, 5 * time.Minute, 8, 10},
		} {
			mu.Lock()
			lost = 0
			mu.Unlock()
			step(looks.c, looks.d)
			mu.Lock()
			if lost < looks.least || lost > looks.most {
				t.Errorf("%+v for %s: a fresh token was asked for %d times, want %d to %d", looks.c, looks.d, lost, looks.least, looks.most)
			}
			mu.Unlock()
		}
		cancel()
		<-done
		if s := text.String(); strings.Count(s, "does not answer") != 1 || strings.Count(s, "answers again") != 1 {
			t.Errorf("log:\n%s", s)
		}
	})
}
