package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// Run replaces what nears its end, takes the steps of a rotation and follows the providers, until ctx ends; then it returns nil. Without
// it only the built-in root's intermediate is renewed, when a leaf is signed.
func (c *CA) Run(ctx context.Context) error {
	stop := c.watchUpstreams(ctx)
	defer stop()
	for {
		changed := c.gateChanged()
		now := c.cfg.now()
		after := c.step(ctx, now)
		if after <= 0 || after > tick {
			after = tick
		}
		timer := time.NewTimer(after)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.wake:
		case <-changed:
			// Thousands may accept within a second.
			debounce := time.NewTimer(gatePause)
			select {
			case <-ctx.Done():
			case <-debounce.C:
			}
			debounce.Stop()
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// gatePause is how long after a change the Gate is asked.
const gatePause = 50 * time.Millisecond

func (c *CA) gateChanged() <-chan struct{} {
	if c.cfg.Gate == nil {
		return nil
	}
	return c.cfg.Gate.Changed()
}

// step does what there is to do now, and returns after how long to look again; 0: after a while.
func (c *CA) step(ctx context.Context, now time.Time) time.Duration {
	c.authority.renewIfDue(now)
	follow := c.follow(ctx, now)
	after, err := c.advance(now)
	err = errors.Join(follow, err, c.tend(now), c.forgetRequests())
	a := c.authority
	a.mu.Lock()
	c.publish()
	a.unlock()
	c.judge(err, now)
	return after
}

// rest is how long before its end the built-in root is replaced: so that an intermediate of a whole life and some lives of leafs fit in.
func (c *CA) rest(root *x509.Certificate) time.Duration {
	return min(c.cfg.IntermediateTTL+4*c.cfg.LeafTTL, root.NotAfter.Sub(root.NotBefore)/3)
}

// nearsEnd reports whether the built-in root is to be replaced; nil is not.
func (c *CA) nearsEnd(root *x509.Certificate, now time.Time) bool {
	return root != nil && root.NotAfter.Sub(now) < c.rest(root) && valid(root, now) == nil
}

// tend does what time asks for: a root that nears its end is replaced, one that ended leaves, keys that were kept long enough are removed,
// and the directory is brought in order.
func (c *CA) tend(now time.Time) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	var problems []error
	if root := a.rec.root(a.rec.Active); a.rec.Rotation == nil && a.rec.Provider == Builtin && c.nearsEnd(root, now) {
		problems = append(problems, c.begin(a.rec, rotation{From: Builtin, To: Builtin, Reason: "the root ends at " + root.NotAfter.UTC().Format(time.RFC3339)}, now))
	}
	if next, changed := a.rec.drop(now); changed {
		err := a.commit(next, nil)
		if err == nil {
			for sha := range a.pairs {
				if a.rec.root(sha) == nil && !slices.ContainsFunc(a.rec.Dropped, func(d dropped) bool { return d.SHA256 == sha }) {
					delete(a.pairs, sha)
				}
			}
			c.log().Info("keys of roots that left are removed", "audit", "rotation")
		}
		problems = append(problems, err)
	}
	if a.unsettled {
		err := a.settle()
		a.unsettled = err != nil
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
