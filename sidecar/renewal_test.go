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

// mint is a control plane that gives out tokens of a fixed life, or fails.
type mint struct {
	life time.Duration

	mu    sync.Mutex
	err   error
	calls int
}

func (m *mint) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *mint) mint(context.Context) (admin.TokenResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.err != nil {
		return admin.TokenResponse{}, m.err
	}
	return admin.TokenResponse{Token: "token", Expires: time.Now().Add(m.life)}, nil
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := &mint{life: time.Hour}
		var written []time.Duration // of the life of the token before
		last := time.Now()
		r := renewal{log: slog.New(slog.DiscardHandler), mint: m.mint, write: func(token string) error {
			if token != "token" {
				t.Errorf("write(%q)", token)
			}
			written = append(written, time.Since(last))
			last = time.Now()
			return nil
		}}
		done := make(chan struct{})
		go func() { r.run(ctx, time.Now().Add(time.Hour)); close(done) }()
		time.Sleep(24 * time.Hour)
		cancel()
		<-done
		if len(written) < 32 {
			t.Errorf("%d renewals in 24 lives, want one per 0.60-0.74 lives", len(written))
		}
		for _, d := range written {
			if d < 36*time.Minute || d > 44*time.Minute {
				t.Errorf("renewed after %s of an hour", d)
			}
		}
	})
}

func TestRenewalOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var log bytes.Buffer
		m := &mint{life: time.Minute, err: errors.New("nobody answers")}
		writes := 0
		r := renewal{log: slog.New(slog.NewTextHandler(&log, nil)), mint: m.mint, write: func(string) error { writes++; return nil }}
		done := make(chan struct{})
		go func() { r.run(ctx, time.Now().Add(time.Minute)); close(done) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if writes != 0 {
			t.Errorf("%d tokens written without a control plane", writes)
		}
		if m.calls < 1500 || m.calls > 4000 {
			t.Errorf("%d attempts in an hour, want one per 1-2 s", m.calls)
		}
		m.fail(errors.New("not allowed"))
		time.Sleep(time.Minute)
		synctest.Wait()
		m.fail(nil)
		time.Sleep(renewalRetryMax)
		synctest.Wait()
		if writes != 1 {
			t.Errorf("%d tokens written within %s of the control plane's return, want 1", writes, renewalRetryMax)
		}
		for text, want := range map[string]int{"nobody answers": 1, "not allowed": 1, "token renewed": 1} {
			if got := strings.Count(log.String(), text); got != want {
				t.Errorf("%q logged %d times, want %d", text, got, want)
			}
		}
		cancel()
		<-done
	})
}

func TestRenewalKeepsFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m := &mint{life: time.Hour}
		fail := 3
		r := renewal{log: slog.New(slog.DiscardHandler), mint: m.mint, write: func(string) error {
			if fail--; fail >= 0 {
				return errors.New("disk full")
			}
			cancel()
			return nil
		}}
		r.run(ctx, time.Now())
		if m.calls != 4 {
			t.Errorf("%d attempts, want 3 that failed and 1", m.calls)
		}
	})
}

// TestRenewalOfEnded: tokens that have ended when they come must not be asked for without a pause.
func TestRenewalOfEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m := &mint{life: -time.Hour}
		renewal{log: slog.New(slog.DiscardHandler), mint: m.mint, write: func(string) error { return nil }}.run(ctx, time.Now())
		if m.calls > 60 {
			t.Errorf("%d renewals in a minute, want at most one a second", m.calls)
		}
	})
}

// TestLostToken: a token that is not taken any more is replaced at once, and an outage of the control
// plane is no reason to hurry or to complain.
func TestLostToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		m := &mint{life: time.Hour}
		var mu sync.Mutex
		writes := 0
		lost := make(chan struct{}, 1)
		r := renewal{log: slog.New(slog.NewTextHandler(&log, nil)), mint: m.mint, lost: lost, write: func(string) error {
			mu.Lock()
			defer mu.Unlock()
			writes++
			return nil
		}}
		done := make(chan struct{})
		go func() { r.run(ctx, time.Now().Add(time.Hour)); close(done) }()
		wrote := func(want int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if writes != want {
				t.Errorf("%d tokens written, want %d", writes, want)
			}
			writes = 0
		}
		time.Sleep(time.Minute)
		lost <- struct{}{}
		wrote(1)
		time.Sleep(35 * time.Minute) // 60 % of the new one's life are not over
		wrote(0)
		m.fail(errors.New("nobody answers"))
		lost <- struct{}{}
		wrote(0)
		m.fail(nil)
		time.Sleep(10 * time.Minute) // as if nothing had been lost
		wrote(1)
		cancel()
		<-done
		if s := log.String(); strings.Contains(s, "WARN") || strings.Count(s, "does not reach") != 1 {
			t.Errorf("log:\n%s", s)
		}
	})
}
