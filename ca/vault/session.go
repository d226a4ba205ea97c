package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/remote"
)

// session is a token that a login came to.
type session struct {
	token     string
	granted   time.Time     // when the login or its last renewal was
	lease     time.Duration // from then on; 0: no end
	first     time.Duration // what the login granted
	renewable bool
}

// longestLease is what longer ones are taken for.
const longestLease = 10 * 365 * 24 * time.Hour

func newSession(a *auth, now time.Time) *session {
	lease := leastWait // of one that has ended: so that it makes no busy loop
	if a.Lease >= 0 {
		lease = time.Duration(min(a.Lease, int64(longestLease/time.Second))) * time.Second
	}
	return &session{token: a.Token, granted: now, lease: lease, first: lease, renewable: a.Renewable}
}

func (s *session) valid(now time.Time) bool {
	return s != nil && (s.lease == 0 || now.Before(s.granted.Add(s.lease)))
}

// sessionBut returns a session that is valid, as far as can be known, and not refused; it logs in if there is none.
func (c *CA) sessionBut(ctx context.Context, refused *session) (*session, error) {
	good := func() *session {
		if s, _ := c.session.Load(); s != refused && s.valid(time.Now()) {
			return s
		}
		return nil
	}
	if s := good(); s != nil {
		return s, nil
	}
	select {
	case c.logins <- struct{}{}:
		defer func() { <-c.logins }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ca.ErrUnavailable, ctx.Err())
	}
	if s := good(); s != nil { // somebody else has logged in meanwhile
		return s, nil
	}
	return c.login(ctx)
}

// login logs in anew. The caller holds logins.
func (c *CA) login(ctx context.Context) (*session, error) {
	now := time.Now()
	a, err := c.cfg.Login.login(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if _, looked := c.cfg.Login.(*Token); c.cfg.Namespace != "" && !looked {
		if _, err := c.lookup(ctx, a.Token); err != nil {
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	s := newSession(a, now)
	c.session.Set(s)
	return s, nil
}

const (
	// firstRetry and longestRetry are between attempts to log in, beyond those of the client.
	firstRetry, longestRetry = 2 * time.Second, 5 * time.Minute
	// leastWait is between a login or a renewal and the next, so that no lease makes a busy loop.
	leastWait = time.Second
)

// Run keeps a token, renewing it or logging in anew before it ends, until ctx ends; then it returns nil. Without it Sign logs in when it
// has to, and a Token ends with its TTL.
func (c *CA) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		changed := c.session.Changed()
		if err := c.keep(ctx); err != nil && ctx.Err() == nil {
			failures++
			c.log.Warn("no token of the CA", "err", err, "count", failures)
			delay := backoff.Delay(failures, firstRetry, longestRetry)
			if e, ok := errors.AsType[*remote.Error](err); ok {
				delay = max(delay, e.RetryAfter)
			}
			backoff.Sleep(ctx, delay)
			continue
		}
		failures = 0
		s, _ := c.session.Load()
		waiting, stop := ctx, context.CancelFunc(func() {})
		if s != nil && s.lease > 0 {
			waiting, stop = context.WithDeadline(ctx, s.granted.Add(s.due()+rand.N(s.lease/20+1)))
		}
		select {
		case <-changed:
		case <-waiting.Done():
		}
		stop()
	}
	return nil
}

// due is how long after it was granted a session is to be renewed: at two thirds of its lease.
func (s *session) due() time.Duration { return max(s.lease*2/3, leastWait) }

// keep renews the session if that is due, and logs in if there is none or its renewal granted less than the login: then it comes to its
// end, which is not waited for.
func (c *CA) keep(ctx context.Context) error {
	s, _ := c.session.Load()
	if !s.valid(time.Now()) {
		_, err := c.sessionBut(ctx, s)
		return err
	}
	if s.lease == 0 || time.Since(s.granted) < s.due() {
		return nil
	}
	if s.renewable {
		renewed, err := c.renew(ctx, s)
		switch {
		case err == nil && renewed.lease >= s.first-s.first/60: // whatever is rounded
			c.session.Set(renewed)
			return nil
		case err == nil:
			c.log.Info("a renewal of the token granted less than the login: logging in anew", "duration", renewed.lease)
		case errors.Is(err, ca.ErrDenied):
			c.log.Warn("the token may not be renewed: logging in anew", "err", err)
		default:
			return err
		}
	}
	_, err := c.sessionBut(ctx, s)
	return err
}

func (c *CA) renew(ctx context.Context, s *session) (*session, error) {
	now := time.Now()
	a, err := c.do(ctx, s.token, http.MethodPost, "auth/token/renew-self", map[string]any{"increment": seconds(s.first)}, false)
	switch {
	case err != nil:
		return nil, err
	case a.Auth == nil:
		return nil, fmt.Errorf("%w: the renewal says nothing about the token", ca.ErrInvalid)
	}
	renewed := newSession(a.Auth, now)
	renewed.token, renewed.first = s.token, s.first
	return renewed, nil
}
