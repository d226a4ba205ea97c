package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Times of a rotation.
const (
	// defaultSettle is Config.Settle: the time that a sidecar's listener has for a handshake, which may be under older roots.
	defaultSettle = 10 * time.Second
	// refreshHints is how many hints other trust domains have for fetching a new root: SPIFFE_Federation demands three to five.
	refreshHints = 3
	// patience is how long connected holders are waited for when the old root is distrusted.
	patience = 30 * time.Second
)

// wait is for whom a phase waits, and until when.
type wait struct {
	holders   []Holder
	notBefore time.Time
	// version is that of the record of which it is so.
	version int
}

// untoldHolders are those of all, who were not told of the roots that come, for whom the activation waits. Who has the old root's signature of the
// new one in the chains of others needs nothing else; an application may come for more once a day.
func untoldHolders(all []Holder, rot *rotation, crossSigned bool) []Holder {
	return slices.DeleteFunc(slices.Clone(all), func(h Holder) bool {
		return crossSigned && h.Application || (crossSigned || rot.Dangerous) && slices.Contains(rot.Overridden, h.Name)
	})
}

// outdated are those for whom the old root stays. One that the activation did not wait for may have a new leaf, and not what verifies those
// of others.
func (c *CA) outdated(rec record) []Holder {
	root := rec.root(rec.Active)
	holders := c.cfg.Gate.Outdated(root)
	for _, h := range c.cfg.Gate.Untold([]*x509.Certificate{root}) {
		if !slices.ContainsFunc(holders, func(o Holder) bool { return o.Name == h.Name }) {
			holders = append(holders, h)
		}
	}
	return holders
}

// waiting is for whom the rotation of rec waits, also as long as Run has not looked at that record yet.
func (c *CA) waiting(rec record, version int) wait {
	w, _ := c.wait.Load()
	if w.version == version || c.cfg.Gate == nil {
		return w
	}
	switch w = (wait{version: version}); rec.Rotation.Phase {
	case Preparing:
		w.holders = untoldHolders(c.cfg.Gate.Untold(rec.certificates(rec.next)), rec.Rotation, rec.Rotation.CrossSigned)
	case Activating:
		w.holders = c.outdated(rec)
	case Idle, Retiring: // nobody is waited for
	}
	return w
}

// advance takes the next step of the rotation that is running, if it is time, and returns after how long to look again; 0: when something
// changes. Only Run calls it. An error is logged and tried again.
func (c *CA) advance(now time.Time) (time.Duration, error) {
	a := c.authority
	a.mu.Lock()
	rec, version := a.rec, a.version
	a.unlock()
	rot := rec.Rotation
	c.looked = version
	if rot == nil {
		c.waitFor(wait{})
		return 0, nil
	}
	if c.phase != rot.Phase || !c.since.Equal(rot.Since) {
		c.phase, c.since, c.seen, c.free = rot.Phase, rot.Since, now, time.Time{}
	}
	switch rot.Phase {
	case Preparing:
		return c.activate(rec, version, now)
	case Activating:
		again, changed, err := c.tell(rec, version, now)
		if err != nil {
			return renewalRetry, err
		}
		if changed {
			return time.Millisecond, nil
		}
		after, err := c.retire(rec, version, now)
		return sooner(after, again), err
	default:
		return 0, c.end(rec)
	}
}

// elapsed is how long the phase lasts: by the wall clock until this process saw it, then by the monotonic one, so that no step of the wall
// clock makes it shorter or longer.
func (c *CA) elapsed(rot *rotation, now time.Time) time.Duration {
	return max(0, c.seen.Round(0).Sub(rot.Since)) + now.Sub(c.seen)
}

// gated returns after how long a phase may go on that waits for holders and least; 0: when that changes. Without a Gate a phase lasts for a
// leaf's life.
func (c *CA) gated(rot *rotation, holders []Holder, least, distrusted time.Duration, now time.Time) (after time.Duration, open bool) {
	elapsed := c.elapsed(rot, now)
	if rot.Distrust {
		holders = slices.DeleteFunc(slices.Clone(holders), func(h Holder) bool { return !h.Connected })
		if elapsed >= distrusted {
			holders = nil
		}
	} else if c.cfg.Gate == nil {
		least = max(least, c.cfg.LeafTTL)
	}
	if len(holders) > 0 {
		c.free = time.Time{}
		c.waitFor(wait{holders: holders})
		if rot.Distrust {
			return distrusted - elapsed, false
		}
		return 0, false
	}
	if c.free.IsZero() {
		c.free = now
	}
	after = max(c.cfg.Settle-now.Sub(c.free), least-elapsed)
	c.waitFor(wait{notBefore: now.Add(after)})
	return after, after <= 0
}

// activate signs under the new root from now on, if nobody is left who has to be told of it.
func (c *CA) activate(rec record, version int, now time.Time) (time.Duration, error) {
	rot, a := rec.Rotation, c.authority
	next, ready, err := c.successor(rec, version, now)
	if err != nil {
		return renewalRetry, err
	}
	var all []Holder
	if c.cfg.Gate != nil {
		all = c.cfg.Gate.Untold(rec.certificates(rec.next))
	}
	after, open := c.gated(rot, untoldHolders(all, rot, next.crossSigned), refreshHints*c.cfg.FederationHint, patience, now)
	if !open {
		return after, nil
	}
	a.mu.Lock()
	defer a.unlock()
	if a.version != version { // somebody has cancelled it, or changed what is waited for
		return time.Millisecond, nil
	}
	// With the old root's signature some need not be told, and then nothing is signed under another of the roots that come, which has none.
	if !rec.isTold() && (len(all) == 0 || !next.crossSigned) {
		if err := a.commit(a.rec.told(a.rec.next), nil); err != nil {
			return renewalRetry, err
		}
	}
	if !ready {
		return 0, nil
	}
	if err := c.activateNow(a.rec, next, now); err != nil {
		return renewalRetry, err
	}
	c.next = nil
	return time.Millisecond, nil
}

// activateNow signs under another root from now on. a.mu is held.
func (c *CA) activateNow(rec record, next succession, now time.Time) error {
	a := c.authority
	needs := map[string][]byte{}
	if s := next.signer; s != nil {
		content, err := encode(intermediateProfile(), s.pair, s.above)
		if err != nil {
			return err
		}
		needs[pairFile(intermediateFile, fingerprint(s.cert))] = content
	}
	if err := a.commit(rec.activate(next.root, next.cross, next.crossSigned, now.Round(0)), needs); err != nil {
		return err
	}
	a.intermediate, a.failed = next.signer, nil
	c.log().Info("leafs are signed under the new root", "audit", "rotation", "phase", Activating, "provider", rec.Rotation.To, "cross_signed", next.crossSigned)
	c.publish()
	return nil
}

// successor is what signs under the new root; ready is false as long as the provider has not signed anything under it. It is made once
// for a record.
func (c *CA) successor(rec record, version int, now time.Time) (next succession, ready bool, err error) {
	if c.made.root != nil && c.madeFor == version {
		return c.made, true, nil
	}
	c.made = succession{}
	if !c.next.usable(rec.Rotation, now) {
		c.next = nil
		if rec.Rotation.To != Builtin {
			return next, false, nil // until follow has it
		}
		if c.next, err = c.nextIntermediate(rec, now); err != nil {
			return next, false, err
		}
	}
	if next, err = c.succeed(rec, c.next, c.oldRoot(rec), now); err != nil {
		return next, false, err
	}
	c.made, c.madeFor = next, version
	return next, true, nil
}

// nextIntermediate makes one under the built-in root that comes.
func (c *CA) nextIntermediate(rec record, now time.Time) (*candidate, error) {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	root := a.pairs[rec.Rotation.Next[0]]
	if root == nil {
		return nil, fmt.Errorf("%s: the key of the new root %.8s is not there: restore its file from a backup", a.disk.path, rec.Rotation.Next[0])
	}
	s, err := a.newIntermediate(root, now)
	if err != nil {
		return nil, err
	}
	return &candidate{signer: s, root: root.cert, made: now}, nil
}

// oldRoot is the active root with its key; nil: it is a provider's.
func (c *CA) oldRoot(rec record) *pair {
	c.authority.mu.Lock()
	defer c.authority.unlock()
	return c.authority.pairs[rec.Active]
}

// retire takes the old roots out of the bundle, if nobody is left who has a leaf under one of them.
func (c *CA) retire(rec record, version int, now time.Time) (time.Duration, error) {
	a, rot := c.authority, rec.Rotation
	var holders []Holder
	if c.cfg.Gate != nil {
		holders = c.outdated(rec)
	}
	after, open := c.gated(rot, holders, 0, patience+longestSpread, now)
	if !open {
		return after, nil
	}
	a.mu.Lock()
	defer a.unlock()
	if a.version != version {
		return time.Millisecond, nil
	}
	next := a.rec.retire(func(r anchor) bool { return rot.Distrust && r.State == old || !c.listed(a.rec, r) }, now.Round(0))
	if err := a.commit(next, nil); err != nil {
		return renewalRetry, err
	}
	c.forgetDistrusted()
	c.log().Info("the old root has left", "audit", "rotation", "phase", Retiring, "provider", rot.From, "count", len(rec.Roots)-len(next.Roots))
	c.publish()
	return time.Millisecond, nil
}

// end ends the rotation once the directory is in order.
func (c *CA) end(rec record) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	if a.rec.Rotation == nil || a.rec.Rotation.Phase != rec.Rotation.Phase {
		return nil
	}
	next := a.rec.clone()
	next.Rotation = nil
	if err := a.commit(next, nil); err != nil {
		return err
	}
	c.log().Info("the root has been replaced", "audit", "rotation", "provider", next.Provider)
	c.publish()
	return nil
}
