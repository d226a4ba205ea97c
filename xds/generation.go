package xds

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/sequence"
)

// How often live connections of one service may be ended. Each time drains its filter chain, and a
// draining chain keeps its connections in memory beside those of the next one.
const (
	renameEvery   = 5 * time.Second
	renamesAtOnce = 3
)

// generations keeps, per destination, the generation of its inbound filter chain and all sources
// that any policy has allowed under it: they may have live connections. A policy that does not
// allow all of them revokes access, so it needs a new generation, whose name drains the chain. This
// is recorded on disk, so that a restart renames nothing, and a policy that was tightened while the
// control plane was down renames at once.
//
// A revocation never waits for the disk: after a crash the unrecorded generation differs from the
// recorded one, so the next start ends the connections under it. Who is newly let in has to wait
// until whatever a next start may find has them: else a crash, and a revocation while the control
// plane is down, would leave a connection that nothing ends. That holds under an unrecorded
// generation too, as an Envoy may be slow to leave the recorded one.
//
// It is for one goroutine.
type generations struct {
	byDst map[string]*generation
	dirty bool // something is not recorded, nor was it tried
	// ended is the generation of the chains of all other services: it is raised when all connections
	// have to end. 0: they never had to.
	ended uint64
	// numbers are used for nothing twice, over restarts too: a generation that was published but
	// not recorded is never given again.
	numbers *sequence.Numbers
}

// generation is the state of one destination.
type generation struct {
	record
	recorded record // what is on disk, or as good as; the zero value: nothing
	writing  record // what is being written; the zero value: nothing
	// named: the last write failed, and this destination is in the file of those to which the next
	// start gives another generation whatever was told. So nothing has to wait for the disk.
	named bool
	gone  time.Time // since when the catalog has had no proxy of it; zero: it has one

	policy  *intention.Policy // the one that was seen last
	due     bool              // access was revoked and number is not raised yet
	renamed []time.Time       // the last times, oldest first
	// bounded replaces policy as long as that has to wait for the disk. published is the last
	// policy that Envoys may have got, unless it was bounded by what is recorded; nil: none.
	bounded, published *intention.Policy
}

// record is the part of a destination's state that is kept on disk.
type record struct {
	number  uint64
	allowed intention.Set
}

func (r record) equal(o record) bool {
	return r.number == o.number && r.allowed.Base == o.allowed.Base &&
		slices.Equal(r.allowed.In, o.allowed.In) && slices.Equal(r.allowed.Out, o.allowed.Out) && slices.Equal(r.allowed.Revoked, o.allowed.Revoked)
}

// observe sets the policy of dst, and returns its generation and whether that was raised for it. If
// access was revoked but the last renames are too recent, the rename is delayed: retryAt is then
// when to call observe again, and zero otherwise. drain is how long an Envoy drains.
func (g *generations) observe(dst identity.Name, policy *intention.Policy, drain func() time.Duration, now time.Time) (s *generation, raised bool, retryAt time.Time) {
	name := dst.String()
	switch s = g.byDst[name]; {
	case s == nil:
		s = &generation{record: record{number: g.numbers.Next(), allowed: policy.Allowed()}, policy: policy}
		g.byDst[name] = s
		g.dirty = true
		return s, false, time.Time{}
	case s.policy == policy && policy != nil && !s.due && s.gone.IsZero():
		return s, false, time.Time{}
	}
	s.policy, s.bounded, s.gone = policy, nil, time.Time{}
	allowed := policy.Allowed()
	s.due = !s.allowed.Within(allowed)
	if !s.due {
		g.widen(s, allowed)
		return s, false, time.Time{}
	}
	if at := s.mayRename(drain); now.Before(at) {
		// Sources that the new policy allows connect under the old name meanwhile. Those of another
		// trust domain cannot be added, nor need they be: the rename is due in any case.
		if s.allowed.TrustDomain == allowed.TrustDomain {
			g.widen(s, allowed)
		}
		return s, false, at
	}
	s.due = false
	s.number = g.numbers.Next()
	s.allowed = allowed
	s.renamed = append(s.renamed, now)
	if len(s.renamed) > renamesAtOnce {
		s.renamed = s.renamed[1:]
	}
	g.dirty = true
	return s, true, time.Time{}
}

// end gives all chains another generation.
func (g *generations) end(now time.Time) {
	g.ended, g.dirty = g.numbers.Next(), true
	for _, s := range g.byDst {
		s.number, s.due, s.bounded = g.numbers.Next(), false, nil
		s.allowed = s.policy.Allowed()
		if s.renamed = append(s.renamed, now); len(s.renamed) > renamesAtOnce {
			s.renamed = s.renamed[1:]
		}
	}
}

func (g *generations) widen(s *generation, allowed intention.Set) {
	if allowed.Within(s.allowed) {
		return
	}
	s.allowed = s.allowed.Union(allowed)
	g.dirty = true
}

// unnamed reports whether s's generation is neither recorded nor known to be missing there: the
// next start gives another one, which drains the chain of an Envoy that has this one.
func (s *generation) unnamed() bool { return s.recorded.number == 0 && !s.named }

// publishable returns the policy that may be published to Envoys under s's generation, and by which
// ext_authz may let anybody in: s.policy, or less of it as long as that has to wait for the disk.
func (g *generations) publishable(s *generation) *intention.Policy {
	allowed := s.policy.Allowed()
	inRecord := s.recorded.number == 0 || s.named || allowed.Within(s.recorded.allowed)
	inWriting := s.writing.number == 0 || allowed.Within(s.writing.allowed)
	if inRecord && inWriting {
		s.published = s.policy
		return s.policy
	}
	if s.bounded == nil {
		found := s.recorded.allowed
		switch {
		case inRecord:
			found = s.writing.allowed
		case !inWriting:
			found = found.Intersection(s.writing.allowed)
		}
		// The last one is not built again if it is as wide as that, and nothing of it is revoked.
		if s.published == nil || !s.published.Allowed().Within(allowed) || !found.Within(s.published.Allowed()) {
			s.published, s.bounded = nil, s.policy.Within(found)
		} else {
			s.bounded = s.published
		}
	}
	return s.bounded
}

// mayRename is when the next rename may happen; zero: at once.
func (s *generation) mayRename(drain func() time.Duration) time.Time {
	if len(s.renamed) == 0 {
		return time.Time{}
	}
	at := s.renamed[len(s.renamed)-1].Add(renameEvery)
	if len(s.renamed) == renamesAtOnce {
		at = later(at, s.renamed[0].Add(drain()))
	}
	return at
}

// keepGone is how long the generation of a service without a proxy is kept. One that comes back
// later gets another one, which drains it once.
const keepGone = 24 * time.Hour

// leave notes that the catalog has no proxy of dst any more.
func (g *generations) leave(dst identity.Name, now time.Time) {
	if s := g.byDst[dst.String()]; s != nil && s.gone.IsZero() {
		s.gone = now
	}
}
