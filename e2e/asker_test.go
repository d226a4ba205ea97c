//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// asker asks for a URL at a fixed rate, on connections that it keeps, and remembers when each request began and how it was answered.
type asker struct {
	stop    context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	answers []answered
}

type answered struct {
	began  time.Time
	status int
	err    error
}

func newAsker(url string, rate int) *asker {
	ctx, stop := context.WithCancel(context.Background())
	a := &asker{stop: stop}
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	a.wg.Go(func() {
		defer tr.CloseIdleConnections()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			a.wg.Go(func() { //nolint:contextcheck // it has a deadline of its own
				began := time.Now()
				r := meshtest.Get(tr, url)
				a.mu.Lock()
				defer a.mu.Unlock()
				a.answers = append(a.answers, answered{began, r.Status, r.Err})
			})
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return a
}

// Stop ends the asking and waits for what is under way.
func (a *asker) Stop() {
	a.stop()
	a.wg.Wait()
}

// Since is nil if at least n requests that began after t were answered, the last of them with status.
func (a *asker) Since(t time.Time, status, n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	count, last := 0, answered{}
	for _, r := range a.answers {
		if r.began.After(t) {
			count, last = count+1, r
		}
	}
	if count < n || last.status != status {
		return fmt.Errorf("%d answers since, the last %d, %w", count, last.status, last.err)
	}
	return nil
}

// Wrong counts requests that began after t and were not answered with status.
func (a *asker) Wrong(t time.Time, status int) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.answers {
		if r.began.After(t) && r.status != status {
			n++
		}
	}
	return n
}

// LastWrong is how long after t the last request began that was not answered with status; 0 if none did.
func (a *asker) LastWrong(t time.Time, status int) (d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.answers {
		if since := r.began.Sub(t); r.status != status && since > d {
			d = since
		}
	}
	return d
}

// getH2C asks for a URL over HTTP/2 without TLS.
func getH2C(url string) meshtest.Answer {
	tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	return meshtest.Get(tr, url)
}
