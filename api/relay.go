package api

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/recent"
)

// Relay is where questions go that are not answered from the catalog: the local Consul agent.
type Relay struct {
	// Ask asks the agent. It is as consul.Agent.Relay.
	Ask func(ctx context.Context, q RelayQuestion) (RelayReply, error)
	// Writes lets writes through, with the asker's token.
	Writes bool
}

// RelayQuestion is a question for the agent.
type RelayQuestion struct {
	Method, Path string
	Query        url.Values
	Header       http.Header // beside the token
	Token        string      // the asker's, never another's
	Index        uint64      // 0: the agent answers at once
	Wait         time.Duration
	Body         []byte
}

// RelayReply is what the agent answered.
type RelayReply struct {
	Code   int
	Header http.Header
	Body   []byte
	Index  uint64 // 0: it says none, so nobody can wait for another one
}

// Bounds of what is asked of the agent. It grants a client 200 connections, by default, most of which the control plane's own watches
// may need.
const (
	// mostAsked is how many questions are with the agent at a time, of which mostWatched wait for a change.
	mostAsked   = 20
	mostWatched = 16
	// mostOfToken is how many of them are of one token, and mostOfNobody of those who have none.
	mostOfToken, mostOfNobody = 12, 8
	// mostOfPeer is how many are of one user or address, and mostWatchedOfPeer how many of these wait: where Consul has no ACLs tokens can be
	// invented, and who does keeps no room from others.
	mostOfPeer, mostWatchedOfPeer = 18, 14
	// queueTime is how long a question waits for its turn.
	queueTime = time.Second
	// verdict is how old the agent's last word may be on whether a caller may have an answer.
	verdict = 5 * time.Second
	// idleWatch is how long an answer is watched that nobody asks for any more, and spareWatch how long at least if others need its place.
	idleWatch  = 2 * time.Minute
	spareWatch = 5 * time.Second
	// watchWait is how long the agent is asked to wait.
	watchWait = 5 * time.Minute
	// Between tries when the agent does not answer.
	firstRetry, lastRetry = time.Second, 30 * time.Second
)

// relay keeps answers of the agent: one for each question and token, watched as long as somebody asks for it, so that those who ask
// the same, or wait for the same, cost the agent nothing.
type relay struct {
	Relay
	slots chan struct{}
	all   sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of Run, under which watches run; nil: it does not run
	watched map[string]*watched
	asked   map[string]*asking
	peers   map[string]*turns

	checks *recent.Table[*checked] // by relayKey
	// passing are waits that are passed on as they are. They are no watches, and count with them.
	passing shares
}

// watched is one answer that is kept up to date.
type watched struct {
	key      string
	peer     string
	question RelayQuestion
	stop     context.CancelFunc

	mu       sync.Mutex
	reply    RelayReply
	came     time.Time     // when it did
	verified time.Time     // when the agent last gave it to this token
	lost     time.Time     // since when the agent does not answer; zero: it does
	ended    bool          // it is watched no more
	changed  chan struct{} // closed with the next reply

	// Guarded by relay.mu.
	users int
	used  time.Time
}

func (rl *relay) init(r *Relay) {
	if r != nil {
		rl.Relay = *r
	}
	rl.slots = make(chan struct{}, mostAsked)
	rl.checks = recent.New[*checked](maxChecked)
	rl.watched, rl.asked, rl.peers = map[string]*watched{}, map[string]*asking{}, map[string]*turns{}
}

// run has watches run until ctx ends, and waits for them.
func (rl *relay) run(ctx context.Context) {
	rl.mu.Lock()
	rl.ctx = ctx
	rl.mu.Unlock()
	tick := time.NewTicker(idleWatch / 4)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			rl.mu.Lock()
			for key, e := range rl.watched {
				if e.users == 0 && now.Sub(e.used) > idleWatch {
					e.stop()
					delete(rl.watched, key)
				}
			}
			rl.mu.Unlock()
		case <-ctx.Done():
			rl.mu.Lock()
			rl.ctx = nil
			clear(rl.watched)
			rl.mu.Unlock()
			rl.all.Wait()
			return
		}
	}
}

// busy is the error for whom there is no turn.
var errBusy = failed(http.StatusTooManyRequests, "the Consul agent is asked %d questions by sallyport's callers already, as many as may be: ask for less at a time", mostAsked)

// ask asks the agent once, in its turn.
func (rl *relay) ask(ctx context.Context, peer string, q RelayQuestion) (RelayReply, error) {
	leave, err := rl.turn(ctx, peer)
	if err != nil {
		return RelayReply{}, err
	}
	defer leave()
	return rl.Ask(ctx, q)
}

// begin asks the agent once, and watches the answer from then on if there is room; else the result is nil, and full says why.
func (rl *relay) begin(ctx context.Context, key, peer string, q RelayQuestion) (e *watched, first RelayReply, full, err error) {
	leave, err := rl.turn(ctx, peer)
	if err != nil {
		return nil, RelayReply{}, nil, err
	}
	kept := false // the slot is the watch's from now on: one that was given up for it may have its own for a while
	defer func() {
		if !kept {
			leave()
		}
	}()
	if first, err = rl.Ask(ctx, q); err == nil && first.watchable() {
		e, kept, full = rl.watch(key, peer, q, first, leave) //nolint:contextcheck // it outlives the question
	}
	return e, first, full, err
}

// watchable reports whether one may wait for another answer than r.
func (r RelayReply) watchable() bool {
	return r.Index > 0 && (r.Code == http.StatusOK || r.Code == http.StatusNotFound)
}

// asking is one question that is with the agent.
type asking struct {
	began time.Time
	done  chan struct{} // closed when there is what follows
	reply RelayReply
	err   error
}

// together has ask ask the agent for all of one peer who ask the same under one key, and returns when. Who comes while the agent is asked
// already may know of a change that the agent did not when it answered, and waits for the next time, with all who do: thousands who come at
// once are two questions. Peers are apart, as one may have taken all of its turns.
func (rl *relay) together(ctx context.Context, peer, key string, ask func(context.Context) (RelayReply, error)) (reply RelayReply, asked time.Time, err error) {
	key = peer + "\x00" + key
	came := time.Now()
	for {
		rl.mu.Lock()
		a := rl.asked[key]
		if a == nil {
			a = &asking{began: time.Now(), done: make(chan struct{})}
			rl.asked[key] = a
			rl.mu.Unlock()
			rl.answer(ctx, key, ask, a)
			return a.reply, a.began, a.err
		}
		rl.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
			return RelayReply{}, came, ctx.Err()
		}
		if !a.began.Before(came) && !errors.Is(a.err, context.Canceled) { // a client that went takes no other's answer with it
			return a.reply, a.began, a.err
		}
	}
}

// answer has a be answered.
func (rl *relay) answer(ctx context.Context, key string, ask func(context.Context) (RelayReply, error), a *asking) {
	a.err = context.Canceled // if the agent's answer panics
	defer func() {
		rl.mu.Lock()
		delete(rl.asked, key)
		rl.mu.Unlock()
		close(a.done)
	}()
	if a.reply, a.err = ask(ctx); a.err != nil && ctx.Err() != nil {
		a.err = ctx.Err() // whatever it was called below
	}
}

// enter returns the watched answer of a question, if it is watched. release is the end of its use.
func (rl *relay) enter(key string) *watched {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	e := rl.watched[key]
	if e != nil {
		e.users++
	}
	return e
}

func (rl *relay) release(e *watched) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	e.users--
	e.used = time.Now()
}

// watch begins to watch an answer, if there is room, with the slot of whoever calls it, which leave gives back, or finds it watched. The error is
// that there is no room.
func (rl *relay) watch(key, peer string, q RelayQuestion, first RelayReply, leave func()) (e *watched, begun bool, err error) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if e := rl.watched[key]; e != nil {
		e.users++
		return e, false, nil
	}
	if err := rl.room(q.Token, peer, len(first.Body)); err != nil {
		return nil, false, err
	}
	q.Query = maps.Clone(q.Query)
	for _, name := range []string{"stale", "cached", "max_stale"} { // others may not take such an answer
		delete(q.Query, name)
	}
	ctx, stop := context.WithCancel(rl.ctx)
	e = &watched{key: key, peer: peer, question: q, stop: stop, reply: first, came: time.Now(), verified: time.Now(), changed: make(chan struct{}), users: 1}
	rl.watched[key] = e
	rl.all.Go(func() {
		defer leave()
		defer stop()
		rl.follow(ctx, e)
	})
	return e, true, nil
}

// room is why there is none for one more watch; nil: there is, if need be that of one which nobody asks for any more. rl.mu is held.
func (rl *relay) room(token, peer string, size int) error {
	anybody := func(*watched) bool { return true }
	most := mostOfToken
	if token == "" {
		most = mostOfNobody
	}
	switch {
	case rl.ctx == nil,
		!rl.below(most, func(e *watched) bool { return e.question.Token == token }),
		!rl.below(mostWatchedOfPeer, func(e *watched) bool { return e.peer == peer }),
		!rl.below(mostWatched-int(rl.passing.used()), anybody):
		return errBusy
	}
	for err := rl.fits(token, size); err != nil; err = rl.fits(token, size) {
		whose := anybody
		if errors.Is(err, errHeldOfCaller) {
			whose = func(e *watched) bool { return e.question.Token == token }
		}
		if !rl.evict(whose) {
			return err
		}
	}
	return nil
}

// below reports whether there are less watches of a kind than there may be, if need be after one of them that nobody asks for any more has
// ended. rl.mu is held.
func (rl *relay) below(most int, kind func(*watched) bool) bool {
	n := 0
	for _, e := range rl.watched {
		if kind(e) {
			n++
		}
	}
	return n < most || rl.evict(kind)
}

// evict ends the watch that was not asked for the longest time, of those that may be ended. rl.mu is held.
func (rl *relay) evict(may func(*watched) bool) bool {
	var last *watched
	for _, e := range rl.watched {
		if may(e) && e.users == 0 && time.Since(e.used) > spareWatch && (last == nil || e.used.Before(last.used)) {
			last = e
		}
	}
	if last == nil {
		return false
	}
	last.stop()
	delete(rl.watched, last.key)
	return true
}

// follow keeps e up to date until ctx ends, or the caller may not have it any more.
func (rl *relay) follow(ctx context.Context, e *watched) {
	defer e.end()
	retry := firstRetry
	for ctx.Err() == nil {
		q := e.question
		e.mu.Lock()
		q.Index, q.Wait = e.reply.Index, watchWait
		if !e.lost.IsZero() {
			q.Index = 0 // who comes back may have lower ones, and would wait
		}
		e.mu.Unlock()
		asked := time.Now()
		reply, err := rl.Ask(ctx, q)
		if waited := q.Index > 0 && time.Since(asked) > verdict; waited && err == nil && reply.Index > 0 {
			// The agent judged the token when it was asked, and the token may be worth less now.
			again := q
			again.Index = 0
			reply, err = rl.Ask(ctx, again)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil || reply.Code >= http.StatusInternalServerError:
			e.lose()
		case !reply.watchable():
			e.set(reply)
			rl.forget(e)
			return // it is an error, and the next who asks is told of it by the agent
		default:
			if e.set(reply); rl.outgrown(e) {
				return // who waits has the answer; whoever asks again is told
			}
			if reply.Index != q.Index || time.Since(asked) > time.Second {
				retry = firstRetry
				continue
			}
		}
		select {
		case <-time.After(retry):
			retry = min(2*retry, lastRetry)
		case <-ctx.Done():
			return
		}
	}
}

func (rl *relay) forget(e *watched) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if rl.watched[e.key] == e {
		delete(rl.watched, e.key)
	}
}

// set is a reply of the agent. Who waits is woken if it is another.
func (e *watched) set(r RelayReply) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verified, e.lost = time.Now(), time.Time{}
	if r.Code == e.reply.Code && r.Index == e.reply.Index && bytes.Equal(r.Body, e.reply.Body) {
		return
	}
	e.reply, e.came = r, time.Now()
	close(e.changed)
	e.changed = make(chan struct{})
}

// verify is a reply to a question beside the watch, and when it was asked: this token may have the answer. What the watch had meanwhile is
// newer; what it had before is older, even with a higher index, as after a restore of Consul's servers, and with the same one: Consul leaves
// out of it what the token may not see any more. That wakes nobody who waits.
func (e *watched) verify(r RelayReply, asked time.Time) (newest RelayReply, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verified = time.Now()
	if r.Index <= e.reply.Index && !asked.After(e.came) {
		return e.reply, e.changed
	}
	wakes := r.Index != e.reply.Index
	e.reply, e.came = r, time.Now()
	if wakes {
		close(e.changed)
		e.changed = make(chan struct{})
	}
	return e.reply, e.changed
}

func (e *watched) lose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost.IsZero() {
		e.lost = time.Now()
	}
}

func (e *watched) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	close(e.changed)
	e.changed = make(chan struct{})
}

// over reports whether e is watched no more: who waits on it would not be woken.
func (e *watched) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

// now is the reply, if the agent's word on it is not too old; stale is how long ago the agent was heard of, if it is not any more.
func (e *watched) now() (r RelayReply, changed <-chan struct{}, fresh bool, stale time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh = !e.ended && (time.Since(e.verified) < verdict || !e.lost.IsZero())
	if !e.lost.IsZero() {
		stale = time.Since(e.lost)
	}
	return e.reply, e.changed, fresh, stale
}
