package sidecar

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/backoff"
)

// How long a renewal that failed waits for its next attempt. The control plane is on this machine,
// so asking again costs little, and after an outage the first stream that Envoy opens should find a
// token that is valid.
const (
	renewalRetry, renewalRetryMax = 200 * time.Millisecond, 2 * time.Second
	renewalTimeout                = 10 * time.Second
)

// renewal keeps a proxy's token fresh.
type renewal struct {
	log  *slog.Logger
	mint func(ctx context.Context) (admin.TokenResponse, error)
	// write puts a token where Envoy finds it.
	write func(token string) error
	// lost asks for a fresh token at once, as the present one may not be taken any more. Nil: nobody
	// asks.
	lost <-chan struct{}
}

// run replaces the token that ends at expires, and each one after it, at about two thirds of its
// life, until ctx ends. It tries again after a failure, and logs one once for as long as it stays
// the same. A failure to replace a token that is lost says nothing that Envoy does not say: the
// control plane is away.
func (r renewal) run(ctx context.Context, expires time.Time) {
	failures, logged := 0, ""
	next := renewAt(time.Now(), expires, rand.Float64())
	for {
		due, lost := r.wait(ctx, next)
		if !due && !lost {
			return
		}
		expires, err := r.try(ctx)
		if err != nil && !due {
			continue
		}
		if err == nil && lost {
			r.log.Info("envoy does not reach the control plane, token renewed")
		}
		if err == nil {
			if logged != "" {
				r.log.Info("token renewed")
			}
			failures, logged = 0, ""
			next = renewAt(time.Now(), expires, rand.Float64())
			continue
		}
		if text := err.Error(); text != logged && ctx.Err() == nil {
			logged = text
			r.log.Warn("token not renewed, trying again: once it has ended Envoy cannot reach the control plane anew", "err", err)
		}
		failures++
		next = time.Now().Add(backoff.Delay(failures, renewalRetry, renewalRetryMax))
	}
}

// wait returns at next, when a token is lost, or, with neither, when ctx ends.
func (r renewal) wait(ctx context.Context, next time.Time) (due, lost bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	woken := make(chan bool, 1)
	go func() { woken <- sleepUntil(ctx, next) }()
	select {
	case due = <-woken:
		return due, false
	case <-r.lost:
		cancel()
		return <-woken, true
	}
}

func (r renewal) try(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
	defer cancel()
	resp, err := r.mint(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return resp.Expires, r.write(resp.Token)
}

// renewAt is when a token that ends at expires is renewed: at 60 to 73 % of what is left of its
// life, as jitter in [0, 1) says, so that sidecars which started together do not ask together. It
// is never at once: a control plane that gives out tokens which have already ended is not asked
// without a pause.
func renewAt(now, expires time.Time, jitter float64) time.Time {
	life := float64(expires.Sub(now))
	return now.Add(max(time.Second, time.Duration(life*(0.60+jitter*2/15))))
}

// sleepUntil returns true at t, or false when ctx ends before. It looks at the clock on the wall
// now and then: while a machine is suspended timers stand still and tokens do not.
func sleepUntil(ctx context.Context, t time.Time) bool {
	for t = t.Round(0); time.Until(t) > 0; {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(min(time.Until(t), 30*time.Second)):
		}
	}
	return ctx.Err() == nil
}
