package ca

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var _ sds.Source = (*CA)(nil)

// leafKey is what a leaf is shared by. The CA looks at no token, but what one token was given is not for another.
type leafKey struct {
	token string
	id    identity.Service
}

// leaf is the newest leaf of an identity that somebody watches.
type leaf struct {
	id       identity.Service
	svid     latest.Value[*x509svid.SVID]
	watchers int // guarded by CA.mu

	mu   sync.Mutex // one at a time signs a new one
	term term
}

// tick is how often all leafs are compared with the wall clock, which a suspended machine or an operator moves, and how soon one that
// could not be renewed is tried again. It is well below the earliest renewal there is, 60 % of MinLeafTTL.
const tick = 5 * time.Second

// maxID is how many bytes a SPIFFE ID has at most (SPIFFE-ID, 2.3 "Maximum SPIFFE ID Length").
const maxID = 2048

// Run renews leafs that are watched and the intermediate, until ctx ends; then it returns nil. Without it leafs expire.
func (c *CA) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(c.tend(time.Now()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// tend renews all that is due at now and returns how long nothing else will be, tick at most.
func (c *CA) tend(now time.Time) time.Duration {
	c.authority.tend(now)
	c.mu.Lock()
	leafs := make([]*leaf, 0, len(c.leafs))
	for _, l := range c.leafs {
		leafs = append(leafs, l)
	}
	c.mu.Unlock()
	next := tick
	var failures int
	var failure error
	for _, l := range leafs {
		wait, err := c.tendLeaf(l, now)
		if err != nil {
			failures, failure = failures+1, err
		}
		next = min(next, wait)
	}
	if failure != nil {
		c.log.Error("leafs cannot be renewed, the last ones stay", "resources", failures, "err", failure, "duration", tick)
	}
	return next
}

// tendLeaf renews l if it is due, and says how long it will not be.
func (c *CA) tendLeaf(l *leaf, now time.Time) (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term.begin.IsZero() { // the first one is on its way
		return tick, nil
	}
	if last := !l.term.notAfter.Before(c.authority.root.cert.NotAfter); last && now.Before(l.term.notAfter) {
		return tick, nil // it ends with the root, and so would the next
	}
	elapsed := now.Sub(l.term.begin)
	if l.term.due(now, elapsed) {
		return tick, c.issue(l)
	}
	return max(l.term.renew-elapsed, time.Millisecond), nil
}

// WatchSVID calls f with the leaf of id, at once and after each renewal by Run or Rotate, until ctx ends; then it returns nil. All
// watchers of an identity with the same token share key and certificate, which end with the last of them. The error is that id is not
// an identity of the CA's trust domain, or that the first leaf cannot be signed.
func (c *CA) WatchSVID(ctx context.Context, caller identity.Caller, id identity.Service, f func(*x509svid.SVID)) error {
	if id.ID().IsZero() {
		return fmt.Errorf("leaf for service %q in datacenter %q of trust domain %q: not a valid identity", id.Service, id.Datacenter, id.TrustDomain)
	}
	if n := len(id.String()); n > maxID {
		return fmt.Errorf("leaf for service %.32q...: its SPIFFE ID has %d bytes, %d are allowed", id.Service, n, maxID)
	}
	if id.TrustDomain != c.TrustDomain() {
		return fmt.Errorf("leaf for %s: this CA is of the trust domain %s", id, c.TrustDomain())
	}
	key := leafKey{caller.Token, id}
	l := c.join(key)
	defer c.leave(key, l)
	if err := c.first(l); err != nil {
		return err
	}
	var last *x509svid.SVID
	for {
		changed := l.svid.Changed()
		if svid, ok := l.svid.Load(); ok && svid != last {
			f(svid)
			last = svid
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *CA) join(key leafKey) *leaf {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leafs[key]
	if l == nil {
		l = &leaf{id: key.id}
		c.leafs[key] = l
	}
	l.watchers++
	return l
}

func (c *CA) leave(key leafKey, l *leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.watchers--; l.watchers == 0 {
		delete(c.leafs, key)
	}
}

// first signs a leaf if there is none yet.
func (c *CA) first(l *leaf) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.term.begin.IsZero() {
		return nil
	}
	// Signing takes a deep stack, which the watcher's goroutine would keep for as long as it waits.
	var err error
	var signing sync.WaitGroup
	signing.Go(func() { err = c.issue(l) })
	signing.Wait()
	return err
}

// Rotate signs a new leaf, with a new key, for the service name, and hands it to those who watch it. That nobody does is an error.
func (c *CA) Rotate(name identity.Name) error {
	c.mu.Lock()
	var leafs []*leaf
	for key, l := range c.leafs {
		if key.id.Name == name {
			leafs = append(leafs, l)
		}
	}
	c.mu.Unlock()
	if len(leafs) == 0 {
		return fmt.Errorf("no proxy uses a leaf of the service %q", name)
	}
	var failed error
	for _, l := range leafs {
		l.mu.Lock()
		failed = errors.Join(failed, c.issue(l))
		l.mu.Unlock()
	}
	return failed
}

// issue signs a new leaf and publishes it. l.mu is held.
func (c *CA) issue(l *leaf) error {
	now := time.Now()
	own, chain, err := c.authority.issue(leafProfile(), l.id.ID(), c.authority.leafTTL, now)
	if err != nil {
		return fmt.Errorf("leaf for %s: %w", l.id, err)
	}
	c.issued.Inc()
	l.term = newTerm(now, own.cert.NotBefore, own.cert.NotAfter, rand.Float64())
	l.svid.Set(&x509svid.SVID{ID: l.id.ID(), Certificates: chain, PrivateKey: own.key})
	return nil
}

// WatchBundles calls f with the roots, at once and once: they change only when another CA is opened. It returns nil when ctx ends.
func (c *CA) WatchBundles(ctx context.Context, f func(*x509bundle.Set)) error {
	f(x509bundle.NewSet(x509bundle.FromX509Authorities(c.TrustDomain(), c.Roots())))
	<-ctx.Done()
	return nil
}
