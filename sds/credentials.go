package sds

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
)

// Config says what Credentials are made of.
type Config struct {
	// Source is where certificates come from. Required.
	Source Source
	// Logger gets refused certificates and watches that ended. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Credentials are the leafs and roots that the proxies use now. Make them with New; Run fetches
// them.
type Credentials struct {
	source   Source
	log      *slog.Logger
	rejected *prometheus.CounterVec

	roots latest.Value[*Roots]
	// wake makes Run start what is pending and verify what is due.
	wake chan struct{}

	mu      sync.Mutex
	running bool
	watches map[watchKey]*watch
	pending []*watch // to be started by Run
	// notYetValid are the watches whose newest leaf is refused until its validity begins.
	notYetValid map[*watch]bool
}

// watchKey is what the users of one watch have in common. The token is part of it: a leaf that was
// fetched with one token is never shown to the holder of another.
type watchKey struct {
	token string
	// application is empty for proxies: applications share no leaf with them, or with each other.
	application string
	id          identity.Service
}

func keyOf(c identity.Caller, id identity.Service) watchKey {
	return watchKey{c.Token, c.Application, id}
}

// watch is one leaf that somebody uses.
type watch struct {
	caller identity.Caller
	id     identity.Service
	// served is the last leaf that passed verify; nil until there is one.
	served atomic.Pointer[SVID]

	// mu is held while a leaf is verified and its users are woken, so that leafs are installed in
	// the order in which they came.
	mu sync.Mutex
	// received is the last leaf of the source, which may be nil; hasReceived reports whether there
	// was one.
	received    *SVID
	hasReceived bool
	// retryAt is when a leaf that was not valid yet is verified again; zero: the time is not why it
	// was refused.
	retryAt time.Time

	// Guarded by Credentials.mu.
	users   map[*Leafs]bool
	stop    context.CancelFunc // nil: not started
	rotated []chan<- error     // by those who wait in Rotate
}

// The values of the label "type" of sallyport_sds_rejected_total.
const (
	rejectedLeaf   = "leaf"
	rejectedBundle = "bundle"
)

// New returns Credentials that hold nothing until Run runs. The error is that the metrics cannot be
// registered.
func New(cfg Config) (*Credentials, error) {
	c := &Credentials{source: cfg.Source, log: cfg.Logger, watches: make(map[watchKey]*watch), wake: make(chan struct{}, 1), notYetValid: map[*watch]bool{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.rejected = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_sds_rejected_total",
		Help: "Certificates that the source gave and that were refused, by type: leaf or bundle. The last good one stays in use.",
	}, []string{"type"})
	c.rejected.WithLabelValues(rejectedLeaf)
	c.rejected.WithLabelValues(rejectedBundle)
	if cfg.Registerer == nil {
		return c, nil
	}
	expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_leaf_expiry_timestamp_seconds",
		Help: "When the first of all leafs in use ends, as Unix time. +Inf while no leaf is in use.",
	}, c.earliestExpiry)
	if err := errors.Join(cfg.Registerer.Register(c.rejected), cfg.Registerer.Register(expiry)); err != nil {
		return nil, fmt.Errorf("sds metrics: %w", err)
	}
	return c, nil
}

// String names the type alone: nothing of what it holds is for a log.
func (c *Credentials) String() string { return "sds.Credentials" }

// GoString is String.
func (c *Credentials) GoString() string { return c.String() }

// LogValue is String.
func (c *Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Run watches the roots and every leaf in use until ctx ends; then it waits for all goroutines that
// it started and returns nil. A watch that ends early is started again after 1 s to 60 s, and its
// last leaf or roots stay in use meanwhile. The error is that Run runs already. It may be called
// again after it returned.
func (c *Credentials) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return errors.New("sds: Run runs already")
	}
	c.running = true
	c.mu.Unlock()

	var all sync.WaitGroup
	defer func() {
		all.Wait()
		c.reset()
	}()
	all.Go(func() { c.watchRoots(ctx) })
	due := time.NewTimer(0)
	defer due.Stop()
	roots := c.roots.Changed()
	for {
		c.start(ctx, &all)
		if at := c.verifyDue(time.Now()); !at.IsZero() {
			due.Reset(time.Until(at))
		}
		select {
		case <-c.wake:
		case <-roots:
			roots = c.roots.Changed() // before they are loaded, so that no change is missed
			c.verifyAll()
		case <-due.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// signal wakes Run. It does not block.
func (c *Credentials) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// verifyAll verifies every leaf again after a change of the roots, which may come after the leafs
// that they verify.
func (c *Credentials) verifyAll() {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.watches))
	c.mu.Unlock()
	for _, w := range all {
		_ = c.verifyPending(w) // which has logged it
	}
}

// verifyDue verifies again the leafs that have become valid (the source's clock may be ahead), and
// returns when the next one does; zero: there is none.
func (c *Credentials) verifyDue(now time.Time) (next time.Time) {
	c.mu.Lock()
	waiting := slices.Collect(maps.Keys(c.notYetValid))
	c.mu.Unlock()
	for _, w := range waiting {
		at := w.nextRetry()
		if !at.IsZero() && !now.Before(at) {
			_ = c.verifyPending(w) // which has logged it
			at = w.nextRetry()
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func (w *watch) nextRetry() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.retryAt
}

// start starts the pending watches.
func (c *Credentials) start(ctx context.Context, all *sync.WaitGroup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.pending {
		if len(w.users) == 0 { // closed before it began
			continue
		}
		watching, stop := context.WithCancel(ctx)
		w.stop = stop
		all.Go(func() { c.watchLeaf(watching, w) })
	}
	c.pending = nil
}

// reset stops all watches and makes them pending, for the next Run.
func (c *Credentials) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	c.pending = nil
	for _, w := range c.watches {
		if w.stop != nil {
			w.stop()
			w.stop = nil
		}
		w.endRotation(errUnused)
		c.pending = append(c.pending, w)
	}
}

// Rotate has the source issue a new leaf of the service called name for each user of one, and
// returns when they have it. The error is that nobody uses one, or why there is no new one.
func (c *Credentials) Rotate(name identity.Name) error {
	c.mu.Lock()
	var rotated []<-chan error
	for key, w := range c.watches {
		if key.id.Name != name || !c.running {
			continue
		}
		if w.stop != nil {
			w.stop()
			w.stop = nil
			c.pending = append(c.pending, w)
		}
		done := make(chan error, 1)
		w.rotated = append(w.rotated, done)
		rotated = append(rotated, done)
	}
	c.signal()
	c.mu.Unlock()
	if len(rotated) == 0 {
		return fmt.Errorf("nobody uses a leaf of the service %q", name)
	}
	var failed error
	for _, done := range rotated {
		failed = errors.Join(failed, <-done)
	}
	return failed
}

// endRotation gives the callers of Rotate that wait for a new leaf of w its outcome.
func (c *Credentials) endRotation(w *watch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.endRotation(err)
}

func (w *watch) endRotation(err error) {
	for _, done := range w.rotated {
		done <- err
	}
	w.rotated = nil
}

// errUnused is the outcome of a rotation whose leaf lost its last user.
var errUnused = errors.New("nobody uses the leaf any more")

// Roots returns the roots; ok is false as long as the source gave none that passed. It does not
// block.
func (c *Credentials) Roots() (r *Roots, ok bool) { return c.roots.Load() }

// RootsChanged returns a channel that is closed when Roots has something new. Take it before Roots.
func (c *Credentials) RootsChanged() <-chan struct{} { return c.roots.Changed() }

// watchLeaf takes in the leafs of w from the source until ctx ends.
func (c *Credentials) watchLeaf(ctx context.Context, w *watch) {
	c.watchAgain(ctx, func() (delivered bool, err error) {
		err = c.source.WatchSVID(ctx, w.caller, w.id, func(svid *SVID) {
			delivered = true
			// Verifying takes a deep stack, which the watch's goroutine would keep for as long as
			// it waits for the next leaf.
			var verifying sync.WaitGroup
			verifying.Go(func() { c.endRotation(w, c.receive(w, svid)) })
			verifying.Wait()
		})
		if ctx.Err() == nil {
			c.endRotation(w, watchEnded("leaf for "+w.id.String(), err))
		}
		return delivered, watchEnded("leaf for "+w.id.String(), err)
	})
}

// watchRoots takes in the roots from the source until ctx ends.
func (c *Credentials) watchRoots(ctx context.Context) {
	c.watchAgain(ctx, func() (delivered bool, err error) {
		err = c.source.WatchRoots(ctx, func(r *Roots) {
			delivered = true
			c.accept(r)
		})
		return delivered, watchEnded("roots", err)
	})
}

// accept replaces the roots, unless next fails its check or changes nothing.
func (c *Credentials) accept(next *Roots) {
	if err := next.check(time.Now()); err != nil {
		c.rejected.WithLabelValues(rejectedBundle).Inc()
		c.log.Error("roots refused, the last good ones stay", "err", err)
		return
	}
	if old, ok := c.roots.Load(); ok && old.same(next) {
		return
	}
	c.roots.Set(next)
	c.log.Info("roots changed", "audit", "rotation", "count", len(next.list))
}

// receive takes in a leaf from the source.
func (c *Credentials) receive(w *watch, svid *SVID) error {
	w.mu.Lock()
	w.received, w.hasReceived = shaped(svid), true
	w.mu.Unlock()
	return c.verifyPending(w)
}

// verifyPending installs the leaf that was received last, if it passes verify. One that does not is
// verified again when the roots change and when its validity begins. It is called for each leaf and
// for each change of the roots, so that none is missed. The error is why the leaf was refused; it
// is logged.
func (c *Credentials) verifyPending(w *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	roots, known := c.roots.Load()
	if s := w.served.Load(); !w.hasReceived || !known || s != nil && s == w.received {
		return nil
	}
	w.retryAt = time.Time{}
	err := c.install(w, w.received, roots)
	if err != nil {
		c.rejected.WithLabelValues(rejectedLeaf).Inc()
		c.log.Error("leaf refused, the last good one stays", "service", w.id.Service, "err", err)
		if early := untilValid(w.received, time.Now()); early > 0 {
			w.retryAt = time.Now().Add(early)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w.retryAt.IsZero():
		delete(c.notYetValid, w)
	case len(w.users) > 0:
		c.notYetValid[w] = true
		c.signal()
	}
	return err
}

// install serves svid from now on and wakes the users of w. The error is why svid must not be
// served.
func (c *Credentials) install(w *watch, svid *SVID, roots *Roots) error {
	if err := verify(svid, w.id, roots, time.Now()); err != nil {
		return err
	}
	if old := w.served.Load(); old != nil && slices.EqualFunc(old.Certificates, svid.Certificates, (*x509.Certificate).Equal) {
		w.received = old
		return nil
	}
	w.served.Store(svid)
	leaf := svid.Certificates[0]
	c.log.Info("leaf issued", "audit", "rotation", "service", w.id.Service, "serial", leaf.SerialNumber.Text(16), "expires", leaf.NotAfter)
	c.mu.Lock()
	wake := make([]func(), 0, len(w.users))
	for l := range w.users {
		if l.wake != nil {
			wake = append(wake, l.wake)
		}
	}
	c.mu.Unlock()
	for _, f := range wake {
		f()
	}
	return nil
}

// earliestExpiry is when the first leaf in use ends.
func (c *Credentials) earliestExpiry() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	earliest := math.Inf(1)
	for _, w := range c.watches {
		if s := w.served.Load(); s != nil {
			earliest = min(earliest, float64(s.Certificates[0].NotAfter.Unix()))
		}
	}
	return earliest
}

// watchAgain calls watch again whenever it returns, with growing delays, until ctx ends. delivered
// reports whether watch got anything: then the delays begin anew.
func (c *Credentials) watchAgain(ctx context.Context, watch func() (delivered bool, err error)) {
	last := ""
	for failures := 1; ; failures++ {
		delivered, err := watch()
		if ctx.Err() != nil {
			return
		}
		if delivered {
			failures, last = 1, ""
		}
		wait := backoff.Delay(failures, 2*time.Second, time.Minute)
		// Each watch logs a reason once: thousands may fail for the same one.
		if err.Error() != last {
			last = err.Error()
			c.log.Warn("watch of certificates ended, trying again", "err", err, "duration", wait)
		}
		if !backoff.Sleep(ctx, wait) {
			return
		}
	}
}

var errEnded = errors.New("the source ended it without an error")

func watchEnded(what string, err error) error {
	if err == nil {
		err = errEnded
	}
	return fmt.Errorf("%s: %w", what, err)
}
