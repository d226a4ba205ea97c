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
	// Logger is told about refused certificates and about watches that ended. Nil: nobody is.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are counted for nobody.
	Registerer prometheus.Registerer
}

// Credentials are the leafs and roots that the proxies use now. Make them with New; Run fetches
// them.
type Credentials struct {
	source   Source
	log      *slog.Logger
	rejected *prometheus.CounterVec

	roots latest.Value[*Roots]
	// wake makes Run look at pending, at the roots and at what begins.
	wake chan struct{}

	mu      sync.Mutex
	running bool
	watches map[watchKey]*watch
	pending []*watch        // to be started by Run
	begins  map[*watch]bool // those whose leaf's time has not begun
}

// watchKey is what a watch is shared by. The token is part of it: what one token was given is never
// shown to the holder of another.
type watchKey struct {
	token string
	id    identity.Service
}

// watch is one leaf that somebody uses.
type watch struct {
	caller identity.Caller
	id     identity.Service
	// served is the last leaf that passed verify; nil until there is one.
	served atomic.Pointer[SVID]

	// mu is held while a leaf is verified and those who use it are woken: one after the other.
	mu sync.Mutex
	// offered is what the source gave last; given says that there is one.
	offered *SVID
	given   bool
	// begins is when a leaf that was refused is looked at again; zero: not because of the time.
	begins time.Time

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
	c := &Credentials{source: cfg.Source, log: cfg.Logger, watches: make(map[watchKey]*watch), wake: make(chan struct{}, 1), begins: map[*watch]bool{}}
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

// Run watches the roots and every leaf that is asked for, until ctx ends; then it waits for all it
// started and returns nil. A watch that ends early is begun again after 1 s to 60 s, and what it
// gave last stays in use meanwhile. The error is that Run runs already. It may be run again after
// it returned.
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
		c.rewind()
	}()
	all.Go(func() { c.watchRoots(ctx) })
	due := time.NewTimer(0)
	defer due.Stop()
	roots := c.roots.Changed()
	for {
		c.start(ctx, &all)
		if at := c.look(time.Now()); !at.IsZero() {
			due.Reset(time.Until(at))
		}
		select {
		case <-c.wake:
		case <-roots:
			roots = c.roots.Changed() // before they are looked at, so that no change is missed
			c.lookAll()
		case <-due.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// rouse makes Run look again. It does not block.
func (c *Credentials) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// lookAll looks at every leaf again, for the roots are others now: they may come after the leaf.
func (c *Credentials) lookAll() {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.watches))
	c.mu.Unlock()
	for _, w := range all {
		_ = c.consider(w) // it has said so
	}
}

// look looks again at the leafs whose time has begun (the source's clock may be ahead), and returns
// when the next one's does; zero: none.
func (c *Credentials) look(now time.Time) (next time.Time) {
	c.mu.Lock()
	waiting := slices.Collect(maps.Keys(c.begins))
	c.mu.Unlock()
	for _, w := range waiting {
		at := w.beginning()
		if !at.IsZero() && !now.Before(at) {
			_ = c.consider(w) // it has said so
			at = w.beginning()
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func (w *watch) beginning() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begins
}

// start starts what is pending.
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

// rewind puts everything back to where the next Run starts it again.
func (c *Credentials) rewind() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	c.pending = nil
	for _, w := range c.watches {
		if w.stop != nil {
			w.stop()
			w.stop = nil
		}
		w.settle(errUnused)
		c.pending = append(c.pending, w)
	}
}

// Rotate has the source make a new leaf of the service called name for each who uses one, and
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
	c.rouse()
	c.mu.Unlock()
	if len(rotated) == 0 {
		return fmt.Errorf("no proxy uses a leaf of the service %q", name)
	}
	var failed error
	for _, done := range rotated {
		failed = errors.Join(failed, <-done)
	}
	return failed
}

// settle tells those who wait for a new leaf of w what came of it.
func (c *Credentials) settle(w *watch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.settle(err)
}

func (w *watch) settle(err error) {
	for _, done := range w.rotated {
		done <- err
	}
	w.rotated = nil
}

// errUnused is what a rotation ends with that nobody needs any more.
var errUnused = errors.New("nobody uses the leaf any more")

// Roots returns the roots; ok is false as long as the source gave none that passed. It does not
// block.
func (c *Credentials) Roots() (r *Roots, ok bool) { return c.roots.Load() }

// RootsChanged returns a channel that is closed when Roots has something new. Take it before Roots.
func (c *Credentials) RootsChanged() <-chan struct{} { return c.roots.Changed() }

// watchLeaf keeps w.offered at what the source has.
func (c *Credentials) watchLeaf(ctx context.Context, w *watch) {
	c.keep(ctx, func() (delivered bool, err error) {
		err = c.source.WatchSVID(ctx, w.caller, w.id, func(svid *SVID) {
			delivered = true
			// Verifying takes a deep stack, which the watch's goroutine would keep for as long as
			// it waits for the next leaf.
			var verifying sync.WaitGroup
			verifying.Go(func() { c.settle(w, c.offer(w, svid)) })
			verifying.Wait()
		})
		if ctx.Err() == nil {
			c.settle(w, wrap("leaf for "+w.id.String(), err))
		}
		return delivered, wrap("leaf for "+w.id.String(), err)
	})
}

// watchRoots keeps c.roots at what the source has.
func (c *Credentials) watchRoots(ctx context.Context) {
	c.keep(ctx, func() (delivered bool, err error) {
		err = c.source.WatchRoots(ctx, func(r *Roots) {
			delivered = true
			c.accept(r)
		})
		return delivered, wrap("roots", err)
	})
}

// accept takes new roots, or keeps those there are.
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
}

// offer takes a leaf from the source.
func (c *Credentials) offer(w *watch, svid *SVID) error {
	w.mu.Lock()
	w.offered, w.given = svid, true
	w.mu.Unlock()
	return c.consider(w)
}

// consider puts the leaf that the source offers in use, if it passes. One that does not is looked
// at again when the roots change and when its time begins. It is called for each offer and for each
// change of the roots, so that none is missed. The error is why it was refused.
func (c *Credentials) consider(w *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	roots, known := c.roots.Load()
	if s := w.served.Load(); !w.given || !known || s != nil && s == w.offered {
		return nil
	}
	w.begins = time.Time{}
	err := c.take(w, w.offered, roots)
	if err != nil {
		c.rejected.WithLabelValues(rejectedLeaf).Inc()
		c.log.Error("leaf refused, the last good one stays", "service", w.id.Service, "err", err)
		if early := untilValid(w.offered, time.Now()); early > 0 {
			w.begins = time.Now().Add(early)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w.begins.IsZero():
		delete(c.begins, w)
	case len(w.users) > 0:
		c.begins[w] = true
		c.rouse()
	}
	return err
}

// take puts svid in use and wakes those who use it, or says why not.
func (c *Credentials) take(w *watch, svid *SVID, roots *Roots) error {
	if err := verify(svid, w.id, roots, time.Now()); err != nil {
		return err
	}
	if old := w.served.Load(); old != nil && slices.EqualFunc(old.Certificates, svid.Certificates, (*x509.Certificate).Equal) {
		w.offered = old
		return nil
	}
	w.served.Store(svid)
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

// keep calls watch again when it returns, until ctx ends. watch says whether it got anything: then
// the waiting begins anew.
func (c *Credentials) keep(ctx context.Context, watch func() (delivered bool, err error)) {
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
		if err.Error() != last { // once: there may be thousands of watches that all fail for one reason
			last = err.Error()
			c.log.Warn("watch of certificates ended, trying again", "err", err, "duration", wait)
		}
		if !backoff.Sleep(ctx, wait) {
			return
		}
	}
}

var errEnded = errors.New("the source ended it without an error")

func wrap(what string, err error) error {
	if err == nil {
		err = errEnded
	}
	return fmt.Errorf("%s: %w", what, err)
}
