package consul

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What takes no turns is seen at once, however many others wait for theirs.
func TestFirstTakesNoTurns(t *testing.T) {
	bubble(t, func(c *Config) { c.MaxQueries = 1 }, func(t *testing.T, f *fake, a *Agent) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for i := range 5 {
			path := "/other" + strconv.Itoa(i)
			f.set(path, "a")
			q := query[string]{client: a.client, metrics: a.metrics, path: path, got: func(string, meta) {}}
			q.failed = func(err error) bool { t.Errorf("%v", err); return false }
			running.Go(func() { _ = q.run(ctx) })
		}
		f.set("/q", []string{"a"})
		r := read(t, a, func(q *query[[]string]) { q.first = true })
		for i := range 5 {
			after(10 * time.Second)
			f.set("/q", []string{strconv.Itoa(i)})
			after(time.Millisecond)
			if got := r.values(); !strings.Contains(got, fmt.Sprintf(" %d@", i)) {
				t.Errorf("the change is not there: %q", got)
			}
		}
		cancel()
		running.Wait()
	})
}

// More things than the agent grants connections for are watched in turns.
func TestTurns(t *testing.T) {
	bubble(t, func(c *Config) { c.MaxQueries = 4 }, func(t *testing.T, f *fake, a *Agent) {
		const all = 20
		var mu sync.Mutex
		seen := map[string]string{}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for i := range all {
			path := "/q" + strconv.Itoa(i)
			f.set(path, "a")
			q := query[string]{client: a.client, metrics: a.metrics, path: path}
			q.got = func(v string, _ meta) {
				mu.Lock()
				defer mu.Unlock()
				seen[path] = v
			}
			q.failed = func(err error) bool { t.Errorf("%v", err); return false }
			running.Go(func() { _ = q.run(ctx) })
		}
		after(time.Minute)
		for i := range all {
			if n := len(f.of("/q" + strconv.Itoa(i))); n < 5 {
				t.Errorf("/q%d had %d turns in a minute", i, n)
			}
		}
		f.mu.Lock()
		if f.dials > 100 {
			t.Errorf("%d connections in a minute: turns are to end by themselves, not by being cut", f.dials)
		}
		f.mu.Unlock()
		// One that changes alone is seen too, though nothing else that is watched does.
		for i := range all {
			path := "/q" + strconv.Itoa(i)
			f.set(path, "alone")
			after(15 * time.Second)
			mu.Lock()
			if seen[path] != "alone" {
				t.Errorf("%s is %q", path, seen[path])
			}
			mu.Unlock()
		}
		for i := range all {
			f.set("/q"+strconv.Itoa(i), "b")
		}
		after(15 * time.Second)
		mu.Lock()
		for path, v := range seen {
			if v != "b" {
				t.Errorf("%s is %q", path, v)
			}
		}
		mu.Unlock()
		// The agent learns a little later than the next query begins that the one before has ended.
		if _, most := f.counts(); len(seen) != all || most > 2*4 {
			t.Errorf("%d of %d were read; %d waited at one time, and 4 are allowed", len(seen), all, most)
		}
		cancel()
		running.Wait()
	})
}

func TestLimiterEndsWithContext(t *testing.T) {
	l := newLimiter(1)
	_, _, end := l.acquire(t.Context(), 0, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ctx, _, _ := l.acquire(ctx, 0, false); !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("a place after the context has ended: %v", ctx.Err())
	}
	end()
	if _, wait, end := l.acquire(t.Context(), 0, false); wait < time.Minute {
		t.Errorf("alone a query waits %s", wait)
	} else {
		end()
	}
}
