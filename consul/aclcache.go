package consul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// aclKey is what a verdict is about. The token is kept as its hash.
type aclKey struct {
	token   [sha256.Size]byte
	service string
}

// aclCache is what the agent said last of tokens, for those who open streams and for leafs. All
// methods may be called by several goroutines.
type aclCache struct {
	client *client
	log    *slog.Logger

	mu    sync.Mutex
	by    map[aclKey]*aclEntry
	swept time.Time // when was last looked for what may be forgotten

	// Where ACLs are off one answer is about all tokens. As long as they may be off, one asks for
	// all.
	asking chan struct{}
	off    time.Time // when the agent last answerDigest so; zero: not since it said something else
	on     bool      // it said something else
	open   string    // the services that the anonymous token may write, in words; empty: none
}

// access is a question to the agent, and its answer.
type access struct {
	Resource, Segment, Access string
	// of the answer: a question that has it is refused
	Allow bool `json:",omitempty"`
}

func newACLCache(c *client, log *slog.Logger) *aclCache {
	return &aclCache{client: c, log: log, by: map[aclKey]*aclEntry{}, asking: make(chan struct{}, 1)}
}

// aclEntry is what the agent said last of a token and a service.
type aclEntry struct {
	asking  chan struct{} // full while the agent is asked
	mu      sync.Mutex
	known   bool
	err     error // nil: it may
	off     bool  // because there were no ACLs
	checked time.Time
	used    time.Time
}

const (
	// freshStream is how old a verdict may be on which a stream is opened, or left open. Agents
	// themselves remember tokens for 30 s (acl_token_ttl), and that together with how often streams
	// are authorized again is to be less than a minute.
	freshStream = 5 * time.Second
	// freshCall is how old one may be on which a call of ext_authz is answered: there is one for
	// each request, and the streams of the same proxy keep it younger.
	freshCall = 60 * time.Second
	// askTimeout bounds how long the agent is waited for.
	askTimeout = 2 * time.Second
	// forgetAfter is when a verdict that nobody asks for is forgotten, and forgetOffAfter when one is that there were no ACLs, where
	// tokens can be invented. Streams ask more often.
	forgetAfter    = 10 * time.Minute
	forgetOffAfter = time.Minute
	// mostACLEntries bounds how many are remembered: beyond it those of tokens that may not are
	// forgotten first. sweepEvery is how often is looked for them.
	mostACLEntries = 10_000
	sweepEvery     = time.Second
)

// check says whether a token has service:write, on a verdict that is not older than fresh. As long
// as the agent does not say, the last one holds.
func (z *aclCache) check(ctx context.Context, token, service string, fresh time.Duration) error {
	v := z.entry(aclKey{sha256.Sum256([]byte(token)), service})
	if err, ok := z.load(v, fresh); ok {
		return err
	}
	if !z.client.contact.state().lost.IsZero() {
		if err, ok := z.load(v, 0); ok {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err, ok := z.ask(ctx, v, token, service, fresh)
	if !ok {
		z.log.Warn("token not checked, the last verdict holds", "service", service, "err", err)
		if err, ok := z.load(v, 0); ok {
			return err
		}
		return status.Error(codes.Unavailable, "the token cannot be checked: the Consul agent does not answer as it should")
	}
	return err
}

// knows reports whether check would answer at once, by a verdict that is not older than fresh.
func (z *aclCache) knows(token, service string, fresh time.Duration) bool {
	z.mu.Lock()
	v := z.by[aclKey{sha256.Sum256([]byte(token)), service}]
	z.mu.Unlock()
	if v == nil {
		return false
	}
	_, ok := z.load(v, fresh)
	return ok
}

// checkNow is check for what is better not given than given on an old verdict: ok is false if the agent
// did not say, and err says why not then.
func (z *aclCache) checkNow(ctx context.Context, token, service string) (err error, ok bool) {
	v := z.entry(aclKey{sha256.Sum256([]byte(token)), service})
	if err, ok := z.load(v, freshStream); ok {
		return err, true
	}
	return z.ask(ctx, v, token, service, freshStream)
}

// ask asks the agent, unless somebody else just did. Of those who ask for the same, or for whatever
// while ACLs may be off, one does.
func (z *aclCache) ask(ctx context.Context, v *aclEntry, token, service string, fresh time.Duration) (err error, ok bool) {
	locks := []chan struct{}{v.asking}
	z.mu.Lock()
	if !z.on {
		locks = append(locks, z.asking)
	}
	z.mu.Unlock()
	for _, l := range locks {
		select {
		case l <- struct{}{}:
			defer func() { <-l }()
		case <-ctx.Done():
			return ctx.Err(), false
		}
		if err, ok := z.load(v, fresh); ok { // somebody else has asked meanwhile
			return err, true
		}
		if at, off := z.offSince(fresh); off {
			v.store(nil, true, at)
			return nil, true
		}
	}
	began := time.Now()
	off, ok, err := z.mayWrite(ctx, token, service)
	if ok {
		z.mu.Lock()
		if z.on, z.off = !off, began; z.on {
			z.off = time.Time{}
		}
		z.mu.Unlock()
		v.store(err, off, began)
	}
	return err, ok
}

// aclsOff reports whether the agent said last that it has no ACLs.
func (z *aclCache) aclsOff() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return !z.off.IsZero()
}

// aclsOn reports whether the agent said last that it has ACLs.
func (z *aclCache) aclsOn() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.on
}

// openServices are the services that the anonymous token may write, in words; empty: none, or it is
// not known.
func (z *aclCache) openServices() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.open
}

// offSince reports whether ACLs are off, by an answer that is not older than fresh. An agent that
// was away since may have been started anew, with ACLs.
func (z *aclCache) offSince(fresh time.Duration) (at time.Time, ok bool) {
	c := z.client.contact.state()
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.off, !z.off.IsZero() && time.Since(z.off) <= fresh && c.lost.IsZero() && c.back.Before(z.off)
}

// mayWrite asks the agent whether a token has service:write; off says that it has no ACLs. ok is
// false if it did not say; err is why not then.
func (z *aclCache) mayWrite(ctx context.Context, token, service string) (off, ok bool, err error) {
	answer, off, err := z.rights(ctx, token, []string{service})
	var no *statusError
	switch {
	case off:
		return true, true, nil
	case errors.As(err, &no) && no.code == http.StatusForbidden:
		return false, true, status.Errorf(codes.Unauthenticated, "Consul does not take the token: %s", no.text)
	case err != nil:
		return false, false, err
	case !answer[0].Allow:
		return false, true, status.Errorf(codes.PermissionDenied, "the token has no service:write on %q", service)
	}
	return false, true, nil
}

// rights asks the agent which of these services a token may write, and returns its answers in their
// order; off says that it has no ACLs. The error is a statusError of 403 if Consul does not know the
// token.
func (z *aclCache) rights(ctx context.Context, token string, services []string) (answers []access, off bool, err error) {
	var questions []access
	for _, s := range services {
		questions = append(questions, access{Resource: "service", Segment: s, Access: "write"})
	}
	got, err := z.client.do(ctx, request{
		path: "/v1/internal/acl/authorize", caller: true, token: token, patience: askTimeout, body: questions,
	})
	var no *statusError
	switch {
	case errors.As(err, &no) && no.code == http.StatusUnauthorized && no.text == "ACL support disabled":
		return nil, true, nil
	case err != nil:
		return nil, false, err
	}
	if answers, err = decodeJSON[[]access](got.body); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errGarbled, err)
	}
	same := func(question, answer access) bool { answer.Allow = false; return question == answer }
	if !slices.EqualFunc(questions, answers, same) {
		return nil, false, fmt.Errorf("%w: it is about something else", errGarbled)
	}
	return answers, false, nil
}

// entry is what is remembered under a key. If there is no room it is not kept, and the agent is asked each time.
func (z *aclCache) entry(k aclKey) *aclEntry {
	now := time.Now()
	z.mu.Lock()
	defer z.mu.Unlock()
	v := z.by[k]
	if v == nil {
		v = &aclEntry{asking: make(chan struct{}, 1)}
		if len(z.by) >= mostACLEntries && now.Sub(z.swept) >= sweepEvery {
			z.sweep(now)
		}
		if len(z.by) < mostACLEntries {
			z.by[k] = v
		}
	}
	v.mu.Lock()
	v.used = now
	v.mu.Unlock()
	return v
}

// sweep forgets what nobody asks for, and what denies. z.mu is held.
func (z *aclCache) sweep(now time.Time) {
	z.swept = now
	maps.DeleteFunc(z.by, func(_ aclKey, v *aclEntry) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		after := forgetAfter
		if v.off {
			after = forgetOffAfter
		}
		return now.Sub(v.used) > after || !v.known || v.err != nil
	})
}

// load is the verdict, if there is one and it is not older than fresh; 0: however old. That there were no ACLs is none any more once there
// are.
func (z *aclCache) load(v *aclEntry, fresh time.Duration) (err error, ok bool) {
	on := z.aclsOn()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err, v.known && (fresh == 0 || time.Since(v.checked) <= fresh) && (!v.off || !on)
}

func (v *aclEntry) store(err error, off bool, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known, v.err, v.off, v.checked = true, err, off, at
}
