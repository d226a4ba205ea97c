package consul

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

// query is one question that is asked again and again: it is answered when the answer has changed.
type query[T any] struct {
	client  *client
	metrics *metrics
	path    string
	params  url.Values
	body    any // as in request
	// caller and token are as in request.
	caller bool
	token  string
	// far says that servers of another datacenter answer: that none do says nothing of the agent.
	far bool
	// every, if not zero, is how often to ask what does not block.
	every time.Duration
	// first says that the query is not limited: it waits at the agent all the time.
	first bool
	// burst is how many requests may follow each other at once. 0: the constant of that name.
	burst float64
	// once says that the query ends with its first answer.
	once bool
	// signal, if not nil, returns a channel; the query asks again when it is closed or after
	// next(). It does not wait at the agent. slots bounds how many such queries ask at one time.
	signal func() <-chan struct{}
	next   func() gap
	slots  chan struct{}
	// retry bounds the time between tries while the agent does not answer. 0: longestRetry.
	retry    time.Duration
	patience time.Duration // as in request
	// absent says that 404 means the zero T; else it is an error as any other.
	absent bool
	// permit, if not nil, is asked whether an answer may be handed on; its error counts as the
	// query's.
	permit func(context.Context) error
	decode func([]byte) (T, error) // nil: JSON
	// doubt, if not nil, reports whether an answer must be confirmed by a consistent read before it
	// is used. What that one says is used.
	doubt func(T) bool
	// got is called with each answer, failed with each error; if that returns true the query ends.
	// same, if not nil, is called instead of got for an answer that is what the last one was, byte
	// by byte.
	got    func(T, meta)
	same   func(meta)
	failed func(error) (end bool)

	// The rest says how answers are taken in, where follow does it.
	//
	// merge is what is known after an answer that may lack something; nil: what the answer says.
	// wary says that such an answer tells nothing if it is the first.
	merge func(old, now T) T
	wary  bool
	// taken, if not nil, is called with what is known after each answer. back: its index is lower
	// than that of the answer before, so Consul's state was put back.
	taken func(value T, m meta, back bool)
	// target is the one whose endpoints are asked for. Nothing else depends on a new value of
	// those. Empty: the query is about something else.
	target string

	last answerDigest // of the last answer that was handed on
}

// answerDigest tells whether two answers say the same.
type answerDigest struct {
	ok       bool
	sum      [sha256.Size]byte
	absent   bool // a 404
	filtered bool
	indexed  bool
}

// gap is a rest between two questions: for a time, or until something is told, and then up to
// spread.
type gap struct {
	time, spread time.Duration
}

const (
	// longestRetry bounds the time between tries that fail.
	longestRetry = 60 * time.Second
	// serverRetry bounds it where the agent answers that its servers do not: they choose a new
	// leader within seconds.
	serverRetry = 8 * time.Second
	// unindexed is how often is asked what should block and does not.
	unindexed = 5 * time.Second
	// longestFilter bounds a filter. Go's servers, and so Consul's, take requests with 1 MiB before
	// the body.
	longestFilter = 200_000
	// unblocked is how often a query may answer at once, with the index that it was asked for,
	// before it is taken for one that does not block.
	unblocked = 3
)

// run asks until ctx ends or failed says so, and returns the error that ended it; nil if ctx did.
func (q *query[T]) run(ctx context.Context) error {
	var index, last uint64 // last is that of the last answer
	var epoch uint64
	var idle int // how often in a row it has not blocked
	most := cmp.Or(q.burst, burst)
	pace := bucket{tokens: most, most: most, at: time.Now()}
	for failures := 0; ; {
		if !backoff.Sleep(ctx, pace.take(time.Now())) {
			return nil
		}
		recovered, doubted := q.client.contact.recovered.Changed(), q.client.contact.doubted.Changed()
		asked := time.Now()
		var signal <-chan struct{}
		if q.signal != nil {
			signal = q.signal()
		}
		if now := q.client.limiter.epoch(); now != epoch {
			epoch, index = now, 0
			q.last = answerDigest{} // it is taken in as one of this epoch
		}
		m, err := q.ask(ctx, index, epoch)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is no failure
		}
		if err != nil {
			if q.failed(err) {
				return err
			}
			failures++
			index = 0 // the next answer is to come at once, whatever has changed
			if !q.rest(ctx, backoff.Delay(failures, time.Second, q.longest(err)), recovered, recoverySpread) {
				return nil
			}
			continue
		}
		failures = 0
		if m.cut {
			index = m.index
			if index == 0 && !backoff.Sleep(ctx, time.Duration(rand.Float64()*float64(recoverySpread))) {
				return nil
			}
			continue
		}
		// of a state that was put back
		if q.every == 0 && (m.early || m.index > 0 && m.index < last) {
			epoch, q.last = q.client.limiter.restored(), answerDigest{}
		}
		last = m.index
		switch {
		case q.once:
			return nil
		case q.signal != nil:
			g := q.next()
			if !q.rest(ctx, g.time, signal, g.spread) {
				return nil
			}
		case q.every > 0:
			if !q.rest(ctx, spread(q.every), doubted, recoverySpread) {
				return nil
			}
		case m.index == 0, m.index == index && time.Since(asked) < time.Second:
			// It does not block: some do not where there is nothing, or not yet. But now and then
			// one does so whose index is not what the agent goes by any more, as it was restarted
			// or its state was put back: that is asked anew.
			index = m.index
			if idle++; idle < unblocked && index > 0 {
				index = 0
				continue
			}
			if !q.rest(ctx, spread(unindexed), recovered, recoverySpread) {
				return nil
			}
		case m.index < index, m.early:
			// Consul, "Blocking queries": an index that goes backwards is forgotten
			idle, index = 0, 0
		default:
			if index > 0 {
				idle = 0
			}
			index = m.index
		}
	}
}

// ask asks once and hands the answer on.
func (q *query[T]) ask(ctx context.Context, index, epoch uint64) (meta, error) {
	r := request{
		path: q.path, params: q.params, body: q.body, caller: q.caller, token: q.token, index: index,
		patience: q.patience,
	}
	waiting := ctx
	if index > 0 {
		var end func()
		waiting, r.wait, end = q.client.limiter.acquire(ctx, epoch, q.first)
		defer end()
	}
	if q.slots != nil {
		select {
		case q.slots <- struct{}{}:
			defer func() { <-q.slots }()
		case <-ctx.Done():
			return meta{}, ctx.Err()
		}
	}
	began := time.Now()
	a, err := q.client.do(waiting, r)
	switch cause := context.Cause(waiting); {
	case err != nil && errors.Is(cause, errGaveWay):
		return meta{index: index, cut: true}, nil // the same is asked again
	case err != nil && errors.Is(cause, errRestored):
		return meta{cut: true}, nil // it may have waited in vain
	}
	took := time.Since(began)
	a.epoch = epoch
	a.early = index > 0 && a.index == index && took >= time.Second && took < r.wait/2
	if ctx.Err() != nil {
		return meta{}, ctx.Err()
	}
	now := answerDigest{ok: true, sum: sha256.Sum256(a.body), filtered: a.filtered, indexed: a.index > 0}
	if q.absent && hasStatus(err, http.StatusNotFound) {
		err, now.absent = nil, true
	}
	same := err == nil && q.same != nil && now == q.last
	value, err := q.take(a, err, began, now.absent || same)
	if err == nil && !same && q.doubt != nil && q.doubt(value) {
		r.params, r.index, r.wait = consistent(q.params), 0, 0
		r.params.Del("cached")
		var sure answer
		began = time.Now()
		sure, err = q.client.do(ctx, r)
		if ctx.Err() != nil {
			return meta{}, ctx.Err()
		}
		// what is doubted is asked about again, though the doubtful answer be the same
		a.filtered, now = !sure.authoritative(), answerDigest{}
		value, err = q.take(sure, err, began, false)
	}
	if err == nil && q.permit != nil {
		err = q.permit(ctx)
	}
	if err != nil {
		return meta{}, fmt.Errorf("%s: %w", q.path, err)
	}
	if same {
		q.same(a.meta)
	} else {
		q.got(value, a.meta)
		q.last = now
	}
	return a.meta, nil
}

// take reads an answer, unless it says nothing, or what came instead of one, and takes account of
// how the request went, which was made at some time.
func (q *query[T]) take(a answer, err error, asked time.Time, nothing bool) (T, error) {
	var value T
	if err == nil && !nothing {
		if value, err = q.read(a.body); err != nil {
			err = fmt.Errorf("%w: %w", errGarbled, err)
		}
	}
	if !q.far || !errors.Is(err, errUnreachable) {
		q.client.contact.note(a, err, asked)
	}
	q.metrics.query(err)
	return value, err
}

func (q *query[T]) read(body []byte) (T, error) {
	if q.decode != nil {
		return q.decode(body)
	}
	return decodeJSON[T](body)
}

func decodeJSON[T any](body []byte) (T, error) {
	var value T
	err := json.Unmarshal(body, &value)
	return value, err
}

// decodeList reads a list. None at all is not an empty one.
func decodeList[T any](body []byte) ([]T, error) {
	list, err := decodeJSON[[]T](body)
	if err == nil && list == nil {
		err = errors.New("it is no list")
	}
	return list, err
}

func (q *query[T]) longest(err error) time.Duration {
	var s *statusError
	switch {
	case errors.As(err, &s) && s.code >= 500:
		return serverRetry
	case errors.Is(err, errUnreachable) && q.retry > 0:
		return q.retry
	}
	return longestRetry
}

// rest waits, but not beyond what ends all rests, such as the return of an agent that was lost;
// false if ctx ended.
func (q *query[T]) rest(ctx context.Context, d time.Duration, over <-chan struct{},
	spread time.Duration,
) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	case <-over:
		return backoff.Sleep(ctx, time.Duration(rand.Float64()*float64(spread)))
	}
}

// recoverySpread keeps all queries from coming back in the same instant.
const recoverySpread = 200 * time.Millisecond

// spread is d, give or take a tenth.
func spread(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Float64()*float64(d/5))
}

// bucket paces a query whose answer changes all the time: after an idle second its first change is
// fetched at once, a storm of them once a second.
type bucket struct {
	tokens, most float64
	at           time.Time
}

// burst is how many requests may follow each other at once: one for the state, and one that waits
// for its change. A third is for the change that comes at once.
const burst = 3

// take takes a token and returns how long to wait before it may be used.
func (b *bucket) take(now time.Time) time.Duration {
	b.tokens = min(b.most, b.tokens+now.Sub(b.at).Seconds())
	b.at = now
	b.tokens--
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens * float64(time.Second))
}

// consistent asks for an answer of a leader that is one and has all that was committed. In every
// other mode a server that was just started may answer, as a leader too, out of a state that it has
// not read back yet: no intentions, no registrations, no protocols, all of it with an index and
// looking like the truth. These answers change seldom, so asking for more costs little. Endpoints
// in the agent's datacenter are read from its own stream instead, as there are many of them and
// none of them allows anything; but an answer that leaves a service without any is confirmed so.
func consistent(params url.Values) url.Values {
	c := url.Values{"consistent": {""}}
	maps.Copy(c, params)
	return c
}
