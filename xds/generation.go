package xds

import (
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// How often live connections of one service may be ended. Each time starts a drain of its filter
// chain, and a chain that drains keeps its connections in memory beside the next one's.
const (
	renameEvery   = 5 * time.Second
	renamesAtOnce = 3
)

// generations remembers, per destination, the generation of its inbound filter chain and whom any
// policy has allowed under it: connections of those may be alive. A policy that does not allow all
// of them takes access away, so it needs a new generation, whose name drains the chain. The memory
// is recorded on disk, so that a restart renames nothing, and a policy that was tightened while the
// control plane was away renames at once.
//
// Nobody waits for the disk who takes something away: a generation that is not recorded is another
// than the one that a restart would find, so a restart ends the connections under it. Whom a policy
// newly allows under a generation that is recorded has to wait until that is recorded, too: else a
// crash, and a revocation while the control plane is away, would leave a connection that nobody
// knows of.
//
// It is for one goroutine.
type generations struct {
	byDst map[string]*generation
	dirty bool // something is not recorded, and not being recorded
	// lost: what is not recorded could not be, and nobody waits for it any more.
	lost bool
	// change is the number of the newest change. Generations are not below it, so none that was
	// handed out but not recorded comes again after a restart.
	change uint64
}

// generation is what is remembered of one destination.
type generation struct {
	record
	recorded record // what is on disk, or as good as; the zero value: nothing

	policy  *intention.Policy // the one that was seen last
	due     bool              // access was taken away and number is not raised yet
	renamed []time.Time       // the last times, oldest first
	// bounded stands for policy as long as that has to wait for the disk, and told is what Envoys
	// were told last; nil: nothing.
	bounded, published *intention.Policy
}

// record is what is kept on disk of one destination.
type record struct {
	number  uint64
	allowed intention.Set
}

func (r record) equal(o record) bool {
	return r.number == o.number && r.allowed.Base == o.allowed.Base &&
		slices.Equal(r.allowed.In, o.allowed.In) && slices.Equal(r.allowed.Out, o.allowed.Out)
}

// observe notes the policy that holds for dst from now on, and returns the generation that goes
// with it and whether it was raised for it. If access was taken away but the last renames are too
// recent, that is put off: again is then when to observe once more, and zero otherwise. drain is
// how long an Envoy drains.
func (g *generations) observe(dst identity.Name, policy *intention.Policy, drain func() time.Duration, now time.Time) (s *generation, raised bool, retryAt time.Time) {
	s, fresh := g.ensure(dst, policy, now)
	if fresh || s.policy == policy && policy != nil && !s.due {
		return s, false, time.Time{}
	}
	s.policy, s.bounded = policy, nil
	allowed := policy.Allowed()
	s.due = !s.allowed.Within(allowed)
	if !s.due {
		g.widen(s, allowed)
		return s, false, time.Time{}
	}
	if at := s.mayRename(drain); now.Before(at) {
		// Whom the new policy allows connects under the old name meanwhile. Of another trust domain
		// nothing can be added, nor need it be: the rename is due in any case.
		if s.allowed.TrustDomain == allowed.TrustDomain {
			g.widen(s, allowed)
		}
		return s, false, at
	}
	s.due = false
	s.number = g.next(s.number, now)
	s.allowed = allowed
	s.renamed = append(s.renamed, now)
	if len(s.renamed) > renamesAtOnce {
		s.renamed = s.renamed[1:]
	}
	g.dirty = true
	return s, true, time.Time{}
}

// expect is what is known of dst, which is new if it was not known: fresh. Called for all
// destinations before their first Envoys connect, it lets all of them be recorded at once, instead
// of all of them for each that connects.
func (g *generations) ensure(dst identity.Name, policy *intention.Policy, now time.Time) (s *generation, fresh bool) {
	name := dst.String()
	if s = g.byDst[name]; s != nil {
		return s, false
	}
	s = &generation{record: record{number: g.next(0, now), allowed: policy.Allowed()}, policy: policy}
	g.byDst[name] = s
	g.dirty = true
	return s, true
}

func (g *generations) widen(s *generation, allowed intention.Set) {
	if allowed.Within(s.allowed) {
		return
	}
	s.allowed = s.allowed.Union(allowed)
	g.dirty = true
}

// telling is how much may be told to Envoys before more is recorded.
type extent uint8

const (
	publishAll     extent = iota
	publishBounded        // a policy that lets in those alone whom the record has
	publishNothing        // the name of the filter chain is not recorded
)

// tell returns the policy that may be told to Envoys under s's generation; nil for publishNothing.
func (g *generations) publishable(s *generation) (*intention.Policy, extent) {
	allowed := s.policy.Allowed()
	switch {
	case g.lost, s.recorded.number != 0 && s.recorded.number != s.number, s.recorded.number != 0 && allowed.Within(s.recorded.allowed):
		s.published = s.policy
		return s.policy, publishAll
	case s.recorded.number == 0:
		return nil, publishNothing
	case s.bounded == nil && s.published != nil && s.published.Allowed().Within(allowed) && s.recorded.allowed.Within(s.published.Allowed()):
		s.bounded = s.published // nothing is taken away, and nothing else may be told
	case s.bounded == nil:
		s.bounded = s.policy.Within(s.recorded.allowed)
	}
	s.published = s.bounded
	return s.bounded, publishBounded
}

// mayRename is when the next rename may be.
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

// next is at least the time in Unix seconds, the number of the newest change, and one more than the
// last. So it differs from every name that was ever in use, even if the file is lost or was not
// written: what that costs is one drain, never a connection that lives on.
func (g *generations) next(last uint64, now time.Time) uint64 {
	return max(last+1, g.change, uint64(max(now.Unix(), 1)))
}
