package sds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
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

// Credentials are the leafs and roots that the proxies use now. Make them with New; Run fetches them.
type Credentials struct {
	source   Source
	log      *slog.Logger
	rejected *prometheus.CounterVec
	// registration is what went wrong when the metrics were registered; Run returns it.
	registration error

	bundles latest.Value[*Bundles]
	// wake makes Run look at pending, at the roots and at what begins.
	wake chan struct{}

	mu      sync.Mutex
	running bool
	watches map[watchKey]*watch
	pending []*watch        // to be started by Run
	begins  map[*watch]bool // those whose leaf's time has not begun
}

// watchKey is what a watch is shared by. The token is part of it: what one token was given is never shown to the holder of another.
type watchKey struct {
	token string
	id    identity.Service
}

// watch is one leaf that somebody uses.
type watch struct {
	caller Caller
	id     identity.Service
	// served is the last leaf that passed verify; nil until there is one.
	served atomic.Pointer[served]

	// mu is held while a leaf is verified and those who use it are woken: one after the other.
	mu sync.Mutex
	// offered is what the source gave last; given says that there is one.
	offered *x509svid.SVID
	given   bool
	// begins is when a leaf that was refused is looked at again; zero: not because of the time.
	begins time.Time

	// Guarded by Credentials.mu.
	leafs map[*Leaf]struct{}
	stop  context.CancelFunc // nil: not started
}

// served is a leaf that passed, and the secret that was made of it.
type served struct {
	svid   *x509svid.SVID
	secret *discoveryv3.Resource
}

// The values of the label "type" of sallyport_sds_rejected_total.
const (
	rejectedLeaf   = "leaf"
	rejectedBundle = "bundle"
)

// New returns Credentials that hold nothing until Run runs. An error in registering the metrics is returned by Run.
func New(cfg Config) *Credentials {
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
	if cfg.Registerer != nil {
		expiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_leaf_expiry_timestamp_seconds",
			Help: "When the first of all leafs in use ends, as Unix time. +Inf while no leaf is in use.",
		}, c.earliestExpiry)
		c.registration = errors.Join(cfg.Registerer.Register(c.rejected), cfg.Registerer.Register(expiry))
	}
	return c
}

// String names the type alone: nothing of what it holds is for a log.
func (c *Credentials) String() string { return "sds.Credentials" }

// GoString is String.
func (c *Credentials) GoString() string { return c.String() }

// LogValue is String.
func (c *Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Run watches the roots and every leaf that Watch asks for, until ctx ends; then it waits for all it started and returns nil. A watch
// that ends early is begun again after 1 s to 60 s, and what it gave last stays in use meanwhile. The errors are that Run runs
// already and that the metrics could not be registered. It may be run again after it returned.
func (c *Credentials) Run(ctx context.Context) error {
	if c.registration != nil {
		return fmt.Errorf("sds metrics: %w", c.registration)
	}
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
	all.Go(func() { c.watchBundles(ctx) })
	due := time.NewTimer(0)
	defer due.Stop()
	bundles := c.bundles.Changed()
	for {
		c.start(ctx, &all)
		if at := c.look(time.Now()); !at.IsZero() {
			due.Reset(time.Until(at))
		}
		select {
		case <-c.wake:
		case <-bundles:
			bundles = c.bundles.Changed() // before they are looked at, so that no change is missed
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
		c.consider(w)
	}
}

// look looks again at the leafs whose time has begun (the source's clock may be ahead), and returns when the next one's does; zero: none.
func (c *Credentials) look(now time.Time) (next time.Time) {
	c.mu.Lock()
	waiting := slices.Collect(maps.Keys(c.begins))
	c.mu.Unlock()
	for _, w := range waiting {
		at := w.beginning()
		if !at.IsZero() && !now.Before(at) {
			c.consider(w)
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
		if len(w.leafs) == 0 { // closed before it began
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
		c.pending = append(c.pending, w)
	}
}

// Watch asks for the leaf of id, fetched in the name of caller, and returns at once; Run does the work, and need not run yet. All who
// ask with the same token for the same id share one leaf; the first one's proxy is who the source hears of. wake is called after each
// new secret, also for the first, by a goroutine that serves others too: it must not block, and may call all of this package meanwhile. It may be called a last time while Close runs or just after. The caller must Close the Leaf.
func (c *Credentials) Watch(caller Caller, id identity.Service, wake func()) *Leaf {
	key := watchKey{caller.Token, id}
	l := &Leaf{credentials: c, key: key, wake: wake}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watches[key]
	if w == nil {
		w = &watch{caller: caller, id: id, leafs: make(map[*Leaf]struct{})}
		c.watches[key] = w
		c.pending = append(c.pending, w)
		c.rouse()
	}
	l.watch = w
	w.leafs[l] = struct{}{}
	return l
}

// release ends a watch with the last of its Leafs.
func (c *Credentials) release(l *Leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(l.watch.leafs, l)
	if len(l.watch.leafs) > 0 || c.watches[l.key] != l.watch {
		return
	}
	delete(c.watches, l.key)
	delete(c.begins, l.watch)
	if l.watch.stop != nil {
		l.watch.stop()
	} else {
		c.forget(l.watch)
	}
}

// forget takes a watch that never began out of the queue, which nobody empties while Run does not run.
func (c *Credentials) forget(w *watch) {
	for i, p := range c.pending {
		if p == w {
			c.pending = append(c.pending[:i], c.pending[i+1:]...)
			return
		}
	}
}

// Bundles returns the roots; ok is false as long as the source gave none that passed. It does not block.
func (c *Credentials) Bundles() (b *Bundles, ok bool) { return c.bundles.Load() }

// BundlesChanged returns a channel that is closed when Bundles has something new. Take it before Bundles.
func (c *Credentials) BundlesChanged() <-chan struct{} { return c.bundles.Changed() }

// watchLeaf keeps w.offered at what the source has.
func (c *Credentials) watchLeaf(ctx context.Context, w *watch) {
	c.keep(ctx, func() (delivered bool, err error) {
		err = c.source.WatchSVID(ctx, w.caller, w.id, func(svid *x509svid.SVID) {
			delivered = true
			// Verifying takes a deep stack, which the watch's goroutine would keep for as long as it waits for the next leaf.
			var verifying sync.WaitGroup
			verifying.Go(func() { c.offer(w, svid) })
			verifying.Wait()
		})
		return delivered, wrap("leaf for "+w.id.String(), err)
	})
}

// watchBundles keeps c.bundles at what the source has.
func (c *Credentials) watchBundles(ctx context.Context) {
	c.keep(ctx, func() (delivered bool, err error) {
		err = c.source.WatchBundles(ctx, func(set *x509bundle.Set) {
			delivered = true
			c.accept(set)
		})
		return delivered, wrap("roots", err)
	})
}

// accept takes new roots, or keeps those there are.
func (c *Credentials) accept(set *x509bundle.Set) {
	next, err := newBundles(set, time.Now())
	if err != nil {
		c.rejected.WithLabelValues(rejectedBundle).Inc()
		c.log.Error("roots refused, the last good ones stay", "err", err)
		return
	}
	if old, ok := c.bundles.Load(); ok && old.same(next) {
		return
	}
	c.bundles.Set(next)
}

// offer takes a leaf from the source.
func (c *Credentials) offer(w *watch, svid *x509svid.SVID) {
	w.mu.Lock()
	w.offered, w.given = svid, true
	w.mu.Unlock()
	c.consider(w)
}

// consider makes a secret of the leaf that the source offers, if it passes. One that does not is looked at again when the roots change
// and when its time begins. It is called for each offer and for each change of the roots, so that none is missed.
func (c *Credentials) consider(w *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	roots, known := c.bundles.Load()
	if s := w.served.Load(); !w.given || !known || s != nil && s.svid == w.offered {
		return
	}
	w.begins = time.Time{}
	if err := c.take(w, w.offered, roots); err != nil {
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
	case len(w.leafs) > 0:
		c.begins[w] = true
		c.rouse()
	}
}

// take puts svid in use and wakes those who use it, or says why not.
func (c *Credentials) take(w *watch, svid *x509svid.SVID, roots *Bundles) error {
	if err := verify(svid, w.id, roots, time.Now()); err != nil {
		return err
	}
	secret, err := leafSecret(w.id, svid)
	if err != nil {
		return err
	}
	old := w.served.Swap(&served{svid, secret})
	if old != nil && old.secret.GetVersion() == secret.GetVersion() {
		return nil
	}
	c.mu.Lock()
	wake := make([]func(), 0, len(w.leafs))
	for l := range w.leafs {
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
			earliest = min(earliest, float64(s.svid.Certificates[0].NotAfter.Unix()))
		}
	}
	return earliest
}

// keep calls watch again when it returns, until ctx ends. watch says whether it got anything: then the waiting begins anew.
func (c *Credentials) keep(ctx context.Context, watch func() (delivered bool, err error)) {
	for failures := 1; ; failures++ {
		delivered, err := watch()
		if ctx.Err() != nil {
			return
		}
		if delivered {
			failures = 1
		}
		wait := backoff.Delay(failures, 2*time.Second, time.Minute)
		c.log.Warn("watch of certificates ended, trying again", "err", err, "duration", wait)
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
