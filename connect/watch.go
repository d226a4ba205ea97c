package connect

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"
)

const (
	// firstDelay and longestDelay are those between questions that fail.
	firstDelay   = time.Second
	longestDelay = 30 * time.Second
	// longestPause is that between answers that say nothing new although they came at once: of an API
	// that cannot wait for changes.
	longestPause = time.Minute
	// leastGap is how long after the beginning of a question the next one begins at the earliest.
	leastGap = 100 * time.Millisecond
	// quick is an answer that did not wait.
	quick = time.Second
)

// watch asks one question of the API for ever, each time to be answered at the next change.
type watch struct {
	api    *api
	logger *slog.Logger
	// question names it in logs and metrics; path and query are where it is asked.
	question, path string
	query          url.Values
	// changed is told each answer that differs from the one before. If it fails the answer counts
	// for nothing, and the question is asked again.
	changed func(body []byte) error
	// failed is told each failure, and nil when there is none any more.
	failed func(error)
}

// run watches until ctx ends.
func (w *watch) run(ctx context.Context) {
	var (
		index    uint64
		last     []byte
		failures int
		idle     int // answers in a row that came at once and said nothing new
	)
	for ctx.Err() == nil {
		began := time.Now()
		got, err := w.ask(ctx, index)
		if ctx.Err() != nil {
			return
		}
		news := err == nil && (last == nil || !bytes.Equal(last, got.body))
		if news {
			if err = w.changed(got.body); err == nil {
				last = got.body
			}
		}
		if err != nil {
			failures++
			index = 0
			w.say(err, failures)
			w.sleepUnlessToken(ctx, delay(failures, firstDelay, longestDelay))
			continue
		}
		if failures > 0 {
			failures = 0
			w.say(nil, 0)
		}
		switch {
		case got.index == 0, got.index < index:
			// It does not say what to wait for, or it began anew: what comes next is asked as the first time.
			index = 0
			idle++
		case !news && time.Since(began) < quick:
			index = got.index
			idle++
		default:
			index = got.index
			idle = 0
		}
		pause := leastGap - time.Since(began)
		if idle > 0 {
			pause = max(pause, delay(idle, firstDelay, longestPause))
		}
		sleep(ctx, pause)
	}
}

func (w *watch) ask(ctx context.Context, index uint64) (answer, error) {
	query := url.Values{}
	maps.Copy(query, w.query)
	timeout := askTimeout
	if index > 0 {
		query.Set("index", strconv.FormatUint(index, 10))
		query.Set("wait", waitTime.String())
		timeout = waitTime + grace
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return w.api.get(ctx, w.question, w.path, query)
}

// say logs the first of a row of failures and its end.
func (w *watch) say(err error, failures int) {
	w.failed(err)
	switch {
	case err == nil:
		w.logger.Info("the API answers again", "resources", w.question)
	case failures == 1:
		w.logger.Warn("the API does not answer: what it said last is kept, and it is asked again", "resources", w.question, "err", err)
	default:
		w.logger.Debug("the API does not answer", "resources", w.question, "err", err)
	}
}

// sleepUnlessToken waits for d, or until there is another token.
func (w *watch) sleepUnlessToken(ctx context.Context, d time.Duration) {
	if w.api.token.file == "" {
		sleep(ctx, d)
		return
	}
	token := w.api.token.get()
	for d > 0 && ctx.Err() == nil && w.api.token.get() == token {
		step := min(d, time.Second)
		sleep(ctx, step)
		d -= step
	}
}

// delay is between half of first and first after the first time, doubled with each further one, up to
// longest.
func delay(times int, first, longest time.Duration) time.Duration {
	d := first
	for n := 1; n < times && d < longest; n++ {
		d *= 2
	}
	d = min(d, longest)
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
