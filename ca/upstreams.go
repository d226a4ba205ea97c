package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/backoff"
)

// UpstreamConfig is a CA that may sign instead of the built-in root.
type UpstreamConfig struct {
	// Upstream is that CA. Required.
	Upstream Upstream
	// EachLeaf has it sign each leaf; else it signs an intermediate, and leafs are signed here, also while it is away.
	EachLeaf bool
}

// maxRoots bounds the roots in a bundle: each is in each sidecar.
const maxRoots = 16

// checkUpstreams returns an error unless the names of cfg.Upstreams are some, and cfg.Provider is one.
func (cfg Config) checkUpstreams() error {
	for name, u := range cfg.Upstreams {
		if name == "" || name == Builtin || u.Upstream == nil {
			return fmt.Errorf("provider %.100q: a name other than %q, and a CA behind it, are required", name, Builtin)
		}
	}
	if _, ok := cfg.Upstreams[cfg.Provider]; cfg.Provider != "" && cfg.Provider != Builtin && !ok {
		return cfg.notConfigured(cfg.Provider)
	}
	return nil
}

func (cfg Config) notConfigured(name string) error {
	names := append(slices.Sorted(maps.Keys(cfg.Upstreams)), Builtin)
	return fmt.Errorf("the provider %.100q is not configured: there are %s", name, strings.Join(names, ", "))
}

// watchUpstreams notes the roots of all providers, until the function that it returns is called.
func (c *CA) watchUpstreams(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watches sync.WaitGroup
	for name, u := range c.cfg.Upstreams {
		watches.Go(func() {
			for {
				err := u.Upstream.WatchRoots(ctx, func(roots []*x509.Certificate) { c.know(name, roots) })
				if ctx.Err() == nil {
					c.log().Error("the roots of a provider cannot be watched", "provider", name, "err", err)
				}
				if !backoff.Sleep(ctx, time.Minute) {
					return
				}
			}
		})
	}
	return func() {
		cancel()
		watches.Wait()
	}
}

// know notes the roots of a provider.
func (c *CA) know(name string, roots []*x509.Certificate) {
	bundle, left := certpath.Bundle(roots, true, c.cfg.now())
	a := c.authority
	a.mu.Lock()
	delete(c.early, name)
	if len(left) > 0 {
		c.early[name] = roots
	}
	for _, root := range bundle {
		if a.rec.distrusts(root) {
			left = append(left, certpath.LeftOut{Certificate: root, Reason: "it is distrusted: remove it there"})
		}
	}
	problem := c.takeRoots(name, bundle)
	a.unlock()
	for _, l := range left {
		c.log().Warn("a root of a provider is not taken", "provider", name, "reason", l.Reason, "serial", l.Certificate.SerialNumber.Text(16))
	}
	if problem != nil {
		c.log().Error("the roots of a provider are not taken", "provider", name, "err", problem)
	}
	c.signal()
}

// takeRoots makes bundle, without what is distrusted, what is known of a provider, unless it is too little or too much. a.mu is held.
func (c *CA) takeRoots(name string, bundle []*x509.Certificate) (problem error) {
	bundle = slices.DeleteFunc(slices.Clone(bundle), c.authority.rec.distrusts)
	switch n := len(bundle); {
	case n == 0:
		problem = fmt.Errorf("of the roots of %s none is taken: the log says why", name)
	case n > maxRoots:
		problem = fmt.Errorf("%s has %d roots: %d at most, as each sidecar has all: remove those that sign nothing there", name, n, maxRoots)
	default:
		c.known[name] = bundle
	}
	c.unknown[name] = problem
	return problem
}

// review takes the roots that were not taken as they were not valid yet, and are now: a provider names its roots when they change, and its
// clock may be ahead of ours. a.mu is held.
func (c *CA) review(now time.Time) {
	for name, roots := range c.early {
		before := len(c.known[name])
		bundle, _ := certpath.Bundle(roots, true, now)
		if err := c.takeRoots(name, bundle); err == nil && len(c.known[name]) > before {
			c.log().Info("roots of a provider that were not valid yet are taken", "provider", name, "count", len(c.known[name]))
		}
	}
}

// forgetDistrusted forgets what is known of roots that are distrusted. a.mu is held.
func (c *CA) forgetDistrusted() {
	for name, known := range c.known {
		if c.takeRoots(name, known) != nil {
			delete(c.known, name)
		}
	}
}

// rootsProblem is why nothing is known of a provider's roots; nil: something is, or nothing is known of that either. a.mu is held.
func (c *CA) rootsProblem(name string) error {
	u, ok := c.cfg.Upstreams[name].Upstream.(RootsProblem)
	if !ok || len(c.known[name]) > 0 {
		return nil
	}
	if err := u.RootsProblem(); err != nil {
		return fmt.Errorf("the roots of %s are not known: %w", name, err)
	}
	return nil
}

// firstRoots is why the provider that signs has none of its roots in the bundles, so that nothing is signed; nil: it has some, or is asked
// for them. One that is away later is no problem before something is to be signed. a.mu is held.
func (c *CA) firstRoots(rec record) error {
	if slices.ContainsFunc(rec.Roots, func(r anchor) bool { return r.Provider == rec.Provider }) {
		return nil
	}
	return c.rootsProblem(rec.Provider)
}

// listed reports whether a root is one that its provider, which signs, still names, or may. a.mu is held.
func (c *CA) listed(rec record, r anchor) bool {
	if r.Provider == Builtin || r.Provider != rec.Provider {
		return false
	}
	known, ok := c.known[r.Provider]
	return !ok || slices.ContainsFunc(known, r.Certificate.Equal)
}

// beginUpstream is begin for the roots of a provider. a.mu is held.
func (c *CA) beginUpstream(from record, rot rotation) error {
	a := c.authority
	if _, ok := c.cfg.Upstreams[rot.To]; !ok {
		return c.cfg.notConfigured(rot.To)
	}
	known := slices.DeleteFunc(slices.Clone(c.known[rot.To]), func(root *x509.Certificate) bool { return !lasts(root, rot.Since) })
	if err := c.unknown[rot.To]; err != nil {
		return err
	}
	if err := c.rootsProblem(rot.To); err != nil {
		return err
	}
	if len(known) == 0 {
		return fmt.Errorf("%w: the roots of %s are not known: is it reached?", ErrUnavailable, rot.To)
	}
	if rot.To == a.rec.Provider {
		c.askNow = true
		c.signal()
		return fmt.Errorf("%s signs, and its root is replaced there, which is followed here by itself; it is asked for a new intermediate now", rot.To)
	}
	return c.prepareUpstream(from, known, rot)
}

// prepareUpstream is begin for some roots of a provider. a.mu is held.
func (c *CA) prepareUpstream(from record, roots []*x509.Certificate, rot rotation) error {
	a := c.authority
	rot.CrossSigned = a.pairs[a.rec.Active] != nil
	next := from.prepare(roots, rot)
	if len(next.Roots) > maxRoots {
		return fmt.Errorf("%d roots, with those of %s: %d at most, as each sidecar has all: remove those that sign nothing there", len(next.Roots), rot.To, maxRoots)
	}
	if err := a.commit(next, nil); err != nil {
		return fmt.Errorf("no rotation has begun: %w", err)
	}
	c.began(rot)
	return nil
}

// sameKey reports whether two roots verify the same certificates: one is the other, renewed.
func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// newer reports whether of two roots of one key a is the one to trust.
func (c *CA) newer(a, b *x509.Certificate) bool {
	bundle, _ := certpath.Bundle([]*x509.Certificate{b, a}, true, c.cfg.now())
	return len(bundle) == 1 && bundle[0].Equal(a)
}

// followRoots brings the record to what the provider that signs, or is to, says of its roots: one that was renewed replaces the old one,
// a new one begins a rotation, and one that is gone, and under which nothing is valid, leaves. The error is one of the disk, or why a
// root is not taken.
func (c *CA) followRoots(now time.Time) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	c.review(now)
	next, reasons := a.rec.clone(), []string{}
	leave := func(r anchor) bool {
		// It left the bundles when it ended. If the clock was wrong, it comes back.
		over := now.After(r.Certificate.NotAfter.Add(keepRoots))
		gone := next.Rotation == nil && r.Provider != Builtin && r.Provider == next.Provider && next.Active != "" && !c.listed(next, r)
		return r.State != active && (over || gone) && !next.next(r)
	}
	name := next.Provider
	if next.Rotation != nil {
		name = next.Rotation.To
	}
	fresh, problem := c.renewed(&next, name, now, &reasons)
	if len(fresh) == 0 { // else these come first
		next = next.withoutEnded(now, &reasons)
	}
	if n := len(next.Roots); n > 0 {
		if next.Roots = slices.DeleteFunc(next.Roots, leave); len(next.Roots) < n {
			reasons = append(reasons, "roots have ended, or are gone there")
		}
	}
	if r := next.Rotation; r != nil && r.Phase == Preparing && r.follows() {
		if _, known := c.known[name]; known && !slices.ContainsFunc(next.Roots, func(x anchor) bool { return next.next(x) && c.listed(next, x) }) {
			next, reasons = next.cancel(), append(reasons, "the new root is gone there")
		}
	}
	if c.unknown[name] != nil {
		problem = c.unknown[name]
	}
	switch r := next.Rotation; {
	case len(fresh) == 0:
	case len(next.Roots)+len(fresh) > maxRoots:
		problem = fmt.Errorf("%s has %d roots that are new, and there are %d: %d at most, as each sidecar has all: remove those that sign nothing there", name, len(fresh), len(next.Roots), maxRoots)
	case next.Active == "": // nothing was signed yet, so nobody has anything else
		for _, root := range fresh {
			next.Roots = append(next.Roots, anchor{Provider: name, Certificate: certificate{root}, State: prepared, Told: true})
		}
		reasons = append(reasons, "the first roots")
	case r == nil:
		rot := rotation{From: name, To: name, Reason: "the provider has a new root", Started: now.Round(0), Since: now.Round(0)}
		next = next.prepare(fresh, rot)
		reasons = append(reasons, rot.Reason)
	case r.Phase == Preparing:
		r.Since = now.Round(0)
		next = next.prepare(fresh, *r)
		reasons = append(reasons, "the provider has one more root")
	case r.Phase == Activating: // it is told of, and signed under as soon as all know it and the provider does
		for _, root := range fresh {
			next.Roots = append(next.Roots, anchor{Provider: name, Certificate: certificate{root}, State: prepared})
		}
		reasons = append(reasons, "the provider has a new root while another one is activated")
	}
	if len(reasons) == 0 {
		return problem
	}
	if err := a.commit(next, nil); err != nil {
		return err
	}
	if a.intermediate != nil { // its root may have been renewed
		if root := anchorOf(a.intermediate.chain(), next.certificates(all)); root != nil {
			s := *a.intermediate // others have it, without the lock
			s.root = root
			a.intermediate = &s
		}
	}
	c.log().Info("the roots of a provider are followed", "audit", "rotation", "provider", name, "reason", strings.Join(reasons, ", "))
	return problem
}

// renewed puts roots of the provider that were renewed in the place of the old ones in next, and returns those that are new, and why one
// stays as it was. a.mu is held.
func (c *CA) renewed(next *record, name string, now time.Time, reasons *[]string) (fresh []*x509.Certificate, problem error) {
	for _, k := range c.known[name] {
		if !lasts(k, now) {
			continue // a list may be of yesterday, as files are that nobody looks after
		}
		i := slices.IndexFunc(next.Roots, func(r anchor) bool { return sameKey(r.Certificate.Certificate, k) })
		switch {
		case i < 0, next.Rotation == nil && untold(next.Roots[i]) && next.Roots[i].Certificate.Equal(k):
			fresh = append(fresh, k)
		case !next.Roots[i].Certificate.Equal(k) && c.newer(k, next.Roots[i].Certificate.Certificate):
			if err := c.vouches(k, next.Roots[i].Certificate.Certificate, now); err != nil {
				problem = fmt.Errorf("%s has renewed its root, and the new one does not verify what is in use, so the old one stays: %w", name, err)
				continue
			}
			was, is := fingerprint(next.Roots[i].Certificate.Certificate), fingerprint(k)
			next.Roots[i].Certificate = certificate{k}
			if next.Active == was {
				next.Active = is
			}
			if r := next.Rotation; r != nil {
				if at := slices.Index(r.Next, was); at >= 0 {
					r.Next[at] = is
				}
			}
			*reasons = append(*reasons, "a root was renewed with its key")
		}
	}
	return fresh, problem
}

// vouches returns an error unless peers that have root in the place of old accept what is signed here. a.mu is held.
func (c *CA) vouches(root, old *x509.Certificate, now time.Time) error {
	s := c.authority.intermediate
	if s == nil || !s.root.Equal(old) {
		return nil
	}
	renewed := signer{pair: s.pair, above: s.above, root: root}
	return c.probe(&candidate{signer: &renewed, root: root, made: now}, nil, []*x509.Certificate{root}, now)
}

// withoutEnded is r whose rotation brings no roots that have left the bundle, as they ended: nobody is ever told of those.
func (r record) withoutEnded(now time.Time, reasons *[]string) record {
	rot := r.Rotation
	if rot == nil || rot.Phase != Preparing {
		return r
	}
	rest := slices.DeleteFunc(slices.Clone(rot.Next), func(sha string) bool { return !lasts(r.root(sha), now) })
	if len(rest) == len(rot.Next) {
		return r
	}
	*reasons = append(*reasons, "roots that were to come have ended")
	if len(rest) == 0 {
		return r.cancel()
	}
	next := r.clone()
	next.Rotation.Next = rest
	return next
}

// Cancel ends a rotation that only prepares: the new roots leave, as nothing was signed under them. The error is that there is none, one
// that has gone further, one that would begin again at once, or a disk that fails.
func (c *CA) Cancel() error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	switch r, root := a.rec.Rotation, a.rec.root(a.rec.Active); {
	case r == nil:
		return errors.New("no root is being replaced")
	case r.Phase != Preparing:
		return fmt.Errorf("the rotation is in the phase %s, and what is signed under the new root cannot be taken back: when it has ended, another rotation brings another root", r.Phase)
	case r.follows():
		return fmt.Errorf("%s has a new root, which is followed: take it out there, or rotate to another provider", r.To)
	case a.rec.Provider == Builtin && c.nearsEnd(root, c.cfg.now()):
		return fmt.Errorf("the root in use ends at %s, so another rotation would begin at once", root.NotAfter.UTC().Format(time.RFC3339))
	}
	next := a.rec.cancel()
	if err := a.commit(next, nil); err != nil {
		return err
	}
	c.log().Warn("the rotation is cancelled", "audit", "rotation")
	c.publish()
	c.signal()
	return nil
}

// cancel is r without the rotation and the roots that it brought.
func (r record) cancel() record {
	next := r.clone()
	next.Roots = slices.DeleteFunc(next.Roots, func(a anchor) bool { return a.State == prepared && r.next(a) })
	next.Rotation = nil
	return next
}
