package vault

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/remote"
)

// scripted is a Login that needs no server: nth says what login n, from 1 on, comes to.
type scripted struct {
	mu  sync.Mutex
	at  []time.Time
	nth func(n int) (*auth, error)
}

func (s *scripted) check(remote.Config) error { return nil }

func (s *scripted) login(context.Context, *CA) (*auth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Now())
	return s.nth(len(s.at))
}

// TestRun: a token is had again before it ends, nothing makes a busy loop, and a server that denies is asked less and less.
func TestRun(t *testing.T) {
	lease := func(seconds int64) func(int) (*auth, error) {
		return func(n int) (*auth, error) { return &auth{Token: strconv.Itoa(n), Lease: seconds}, nil }
	}
	for name, tt := range map[string]struct {
		nth         func(int) (*auth, error)
		least, most int           // logins in six hours
		gap         time.Duration // the longest without a valid token, after the first
	}{
		"no end":           {lease(0), 1, 1, 0},
		"an hour":          {lease(3600), 8, 10, 0},
		"a second":         {lease(1), 18_000, 21_600, 2 * time.Second},
		"less than none":   {lease(math.MinInt64), 18_000, 21_600, 2 * time.Second},
		"longer than time": {lease(math.MaxInt64), 1, 1, 0},
		"refused for ever": {func(int) (*auth, error) { return nil, fmt.Errorf("%w: no", ca.ErrDenied) }, 70, 160, 7 * time.Hour},
		"refused by turns": {func(n int) (*auth, error) {
			if n%2 == 0 {
				return nil, ca.ErrUnavailable
			}
			return lease(3600)(n)
		}, 16, 20, 0},
		"told to come late": {func(int) (*auth, error) {
			return nil, fmt.Errorf("%w: %w", ca.ErrUnavailable, &remote.Error{RetryAfter: time.Hour})
		}, 6, 7, 7 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &scripted{nth: tt.nth}
				c := newCA(t, Config{Server: remote.Config{URL: "https://vault.example:8200"}, Login: l, Mount: "pki"})
				ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
				defer cancel()
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := c.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
				var gap, longest time.Duration
				for ctx.Err() == nil {
					<-time.After(time.Second)
					if s, _ := c.session.Load(); s.valid(time.Now()) {
						gap = 0
					} else {
						gap += time.Second
						longest = max(longest, gap)
					}
				}
				wg.Wait()
				if n := len(l.at); n < tt.least || n > tt.most {
					t.Errorf("%d logins in six hours, want %d to %d", n, tt.least, tt.most)
				}
				if longest > tt.gap {
					t.Errorf("no valid token for %s, want %s at most", longest, tt.gap)
				}
			})
		})
	}
}

// TestRenewal: a token whose renewal is refused, or grants less than the login did, is replaced by a login at once; one that is renewed
// is kept.
func TestRenewal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, map[string]any)
		kept   bool
	}{
		"refused":     {says(403, forbidden), false},
		"grants less": {says(200, `{"auth": {"client_token": "1", "lease_duration": 2, "renewable": true}}`), false},
		"granted":     {says(200, `{"auth": {"client_token": "1", "lease_duration": 3, "renewable": true}}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			f.answers["/v1/auth/token/renew-self"] = []func(http.ResponseWriter, *http.Request, map[string]any){tt.answer}
			l := &scripted{nth: func(n int) (*auth, error) { return &auth{Token: strconv.Itoa(n), Lease: 3, Renewable: true}, nil }}
			f.cfg.Login = l
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := newCA(t, f.cfg).Run(ctx); err != nil {
				t.Error(err)
			}
			logins := 1 + len(f.asked)
			if tt.kept {
				logins = 1
			}
			if len(f.asked) == 0 || len(f.asked) > 3 || len(l.at) != logins {
				t.Errorf("%d logins, %d renewals in 5 s", len(l.at), len(f.asked))
			}
		})
	}
}
