package ca

import (
	"crypto/x509"
	"slices"
	"time"
)

// told is r in which all holders trust the roots for which these returns true.
func (r record) told(these func(anchor) bool) record {
	next := r.clone()
	for i, a := range next.Roots {
		next.Roots[i].Told = a.Told || these(a)
	}
	return next
}

// isToldOf reports whether all know the root of a fingerprint.
func (r record) isToldOf(sha string) bool {
	return slices.ContainsFunc(r.Roots, func(a anchor) bool { return a.Told && fingerprint(a.Certificate.Certificate) == sha })
}

// isTold reports whether all roots that come are known to all.
func (r record) isTold() bool {
	return !slices.ContainsFunc(r.Roots, func(a anchor) bool { return r.next(a) && !a.Told })
}

// untold reports whether a is a root under which nothing is signed, and of which not all were told.
func untold(a anchor) bool { return a.State == prepared && !a.Told }

// telling is what tell knows of the roots that not all were told of.
type telling struct {
	roots       []*x509.Certificate
	since, free time.Time // since when they are in the bundle, and since when nobody lacks them
}

// tell notes that all were told of the roots that a provider has brought since the activation, if they were: then it is followed when it
// signs under one, before the rotation ends, as a provider that signs each leaf has nothing else to give. It returns after how long to
// look again, 0: when something changes, and whether the record is another one.
func (c *CA) tell(rec record, version int, now time.Time) (after time.Duration, changed bool, err error) {
	fresh := rec.certificates(untold)
	if len(fresh) == 0 || c.cfg.Gate == nil {
		c.telling = telling{}
		return 0, false, nil
	}
	t := &c.telling
	if !slices.Equal(t.roots, fresh) {
		*t = telling{roots: fresh, since: now}
	}
	if len(c.cfg.Gate.Untold(fresh)) > 0 {
		t.free = time.Time{}
		return 0, false, nil
	}
	if t.free.IsZero() {
		t.free = now
	}
	if after := max(c.cfg.Settle-now.Sub(t.free), refreshHints*c.cfg.FederationHint-now.Sub(t.since)); after > 0 {
		return after, false, nil
	}
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	if a.version != version {
		return 0, true, nil
	}
	if err := a.commit(a.rec.told(untold), nil); err != nil {
		return 0, false, err
	}
	c.log().Info("all know the roots that the provider has brought meanwhile", "audit", "rotation", "provider", a.rec.Provider, "count", len(fresh))
	c.askNow = true // it may sign under one already
	c.signal()
	return 0, true, nil
}

// sooner is the first of two times to look again, of which 0 is when something changes.
func sooner(a, b time.Duration) time.Duration {
	if a <= 0 || b <= 0 {
		return max(a, b)
	}
	return min(a, b)
}
