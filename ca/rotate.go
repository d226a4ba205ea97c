package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certpath"
)

// RotateOptions says how a root is replaced.
type RotateOptions struct {
	// To is the provider that signs afterwards: Builtin, or a name of Config.Upstreams. Empty: the one that signs now.
	To string
	// Override are the names of holders that activate does not wait for: those that are not told of the new root go on by the old
	// root's signature of it, as long as they live. Where there is no such signature their connections fail, and Dangerous is
	// required.
	Override  []string
	Dangerous bool
	// Distrust is for a root whose key is known to others: nobody is waited for who is not connected, and for those who are not long.
	// Who is silent has to join again. Of a provider that still names it the root is not taken again, nor is another one of its key.
	Distrust bool
	// Reason is for the log.
	Reason string
}

// ErrRotating is that a rotation is running: there is one at a time.
var ErrRotating = errors.New("a root is being replaced already")

// Rotate begins to replace the root, by one with a new key or by that of another provider, and returns when that is on the disk and the
// new root in Roots; Run does the rest, also after a restart. Of a provider that has a new root already it asks at once whether it signs
// under it. A rotation to another provider takes the place of one that only prepares a new root of the provider that signs. The error is
// ErrRotating, a provider that is not configured or whose roots are not known, or a disk that fails: then nothing has changed.
func (c *CA) Rotate(opts RotateOptions) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	to := opts.To
	if to == "" {
		to = a.rec.Provider
	}
	from := a.rec
	if r := from.Rotation; r != nil && r.Phase == Preparing && r.follows() && r.To == to {
		c.askNow = true
		c.signal()
		return nil
	} else if r != nil && r.Phase == Preparing && r.follows() {
		from = from.cancel() // somebody leaves the provider, which may have a root for years under which it never signs
	} else if r != nil {
		return fmt.Errorf("%w: from %s to %s, since %s, now in the phase %q", ErrRotating, r.From, r.To, r.Started.UTC().Format(time.RFC3339), r.Phase)
	}
	err := c.begin(from, rotation{
		From: a.rec.Provider, To: to, Reason: opts.Reason,
		Overridden: sortedNames(opts.Override), Dangerous: opts.Dangerous, Distrust: opts.Distrust,
	}, c.cfg.now())
	if err == nil {
		c.publish()
		c.signal()
	}
	return err
}

// Override adds to those that the rotation does not wait for before it activates the new root, with what RotateOptions says of it. The
// error is that no rotation prepares, that the old root cannot sign the new one and dangerous is not set, or a disk that fails.
func (c *CA) Override(names []string, dangerous bool) error {
	return c.amend("holders are not waited for", func(r *rotation) error {
		if r.Phase != Preparing {
			return fmt.Errorf("the rotation is in the phase %s, in which nobody is passed over: who does not follow is waited for until its leaf ends; with --distrust, for an old root whose key is known to others, nobody is for long", r.Phase)
		}
		if !r.CrossSigned && !dangerous && !r.Dangerous {
			return errors.New("the old root has not signed the new one: connections of those that are not told of it would fail; say that you mean it, or wait for them")
		}
		r.Overridden, r.Dangerous = sortedNames(append(r.Overridden, names...)), r.Dangerous || dangerous
		return nil
	})
}

// Distrust has the rotation that is running wait for nobody who is not connected, and not long for others, as RotateOptions says. The
// error is that none is running, or a disk that fails.
func (c *CA) Distrust() error {
	return c.amend("the old root is distrusted", func(r *rotation) error {
		r.Distrust = true
		return nil
	})
}

// amend changes the rotation that is running by f, and logs what that means once it is on the disk.
func (c *CA) amend(means string, f func(*rotation) error) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	if a.rec.Rotation == nil {
		return errors.New("no root is being replaced")
	}
	next := a.rec.clone()
	if err := f(next.Rotation); err != nil {
		return err
	}
	err := a.commit(next, nil)
	if r := next.Rotation; err == nil {
		c.log().Warn("the rotation waits for less", "audit", "rotation", "reason", means, "phase", r.Phase, "proxies", strings.Join(r.Overridden, " "))
	}
	c.signal()
	return err
}

func sortedNames(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// begin puts the roots of rot.To beside those of from, which is the record or comes after it. a.mu is held.
func (c *CA) begin(from record, rot rotation, now time.Time) error {
	a := c.authority
	rot.Started, rot.Since = now.Round(0), now.Round(0)
	if rot.To != Builtin {
		return c.beginUpstream(from, rot)
	}
	own, err := newPair(rootProfile(), a.uri(), a.rootTTL, now, nil)
	if err != nil {
		return err
	}
	content, err := encode(rootProfile(), own, nil)
	if err != nil {
		return err
	}
	rot.CrossSigned = a.pairs[a.rec.Active] != nil
	sha := fingerprint(own.cert)
	if err := a.commit(from.prepare([]*x509.Certificate{own.cert}, rot), map[string][]byte{pairFile(rootFile, sha): content}); err != nil {
		return fmt.Errorf("no rotation has begun: %w", err)
	}
	a.pairs[sha] = own
	c.began(rot)
	return nil
}

func (c *CA) began(rot rotation) {
	c.log().Info("a new root is in the bundles", "audit", "rotation", "phase", Preparing, "provider", rot.To, "reason", rot.Reason,
		"file", filepath.Join(c.authority.disk.path, recordFile))
}

// succession is what the activation of a new root needs.
type succession struct {
	// signer is under the new root; nil: the provider signs each leaf.
	signer *signer
	root   *x509.Certificate
	// cross is nil if the chain needs none, or none is to be had.
	cross *x509.Certificate
	// crossSigned is that verifiers which trust only the old root accept the chain.
	crossSigned bool
}

// succeed makes a succession of what was signed under a new root, and verifies what it would sign as peers will, before and after they were
// told of the new root. a.mu is not needed.
func (c *CA) succeed(rec record, n *candidate, oldRoot *pair, now time.Time) (succession, error) {
	out := succession{signer: n.signer, root: n.root}
	bundle := func(keep func(anchor) bool) []*x509.Certificate {
		b, _ := certpath.Bundle(rec.certificates(keep), true, now)
		return b
	}
	isNew := func(a anchor) bool { return fingerprint(a.Certificate.Certificate) == fingerprint(n.root) }
	both, after := bundle(all), bundle(isNew)
	before := bundle(func(a anchor) bool { return !rec.next(a) && !isNew(a) })
	for _, b := range [][]*x509.Certificate{both, after} {
		if err := c.probe(n, nil, b, now); err != nil {
			return out, err
		}
	}
	if len(before) == 0 || c.probe(n, nil, before, now) == nil {
		out.crossSigned = true
		return out, nil
	}
	if oldRoot == nil || valid(oldRoot.cert, now) != nil {
		return out, nil //nolint:nilerr // a root that is not valid signs nothing, and nobody needs its word
	}
	cross, err := crossSign(n.root, oldRoot, now)
	if err != nil {
		return out, err
	}
	for _, b := range [][]*x509.Certificate{before, both, after} {
		if err := c.probe(n, cross, b, now); err != nil {
			c.log().Warn("the old root cannot sign the new one, so everybody has to be told of it first", "audit", "rotation", "err", err)
			return out, nil
		}
	}
	out.cross, out.crossSigned = cross, true
	return out, nil
}

// probe verifies a leaf by n as peers will.
func (c *CA) probe(n *candidate, cross *x509.Certificate, bundle []*x509.Certificate, now time.Time) error {
	chain, want, err := c.probeOf(n, cross, now)
	if err != nil {
		return err
	}
	return certpath.VerifyChain(chain, bundle, want)
}
