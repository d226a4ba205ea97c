package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// How often live connections of one service may be ended. Each time starts a drain of its filter chain, and a chain that drains
// keeps its connections in memory beside the next one's.
const (
	renameEvery   = 5 * time.Second
	renamesAtOnce = 3
)

// generations remembers, per destination, the generation of its inbound filter chain and whom any policy has allowed under
// it: connections of those may be alive. A policy that does not allow all of them takes access away, so it needs a new generation, whose
// name drains the chain. The memory is kept in a file, so that a restart renames nothing, and a policy that was tightened while the
// control plane was away renames at once.
//
// A new generation is the time in Unix seconds, and at least one more than the last. So it differs from every name that
// was ever in use, even if the file is lost or was not written: what that costs is one drain, never a connection that lives on.
//
// It is for one goroutine.
type generations struct {
	path  string // empty: in memory
	byDst map[string]*generation
	dirty bool
}

// generation is one destination's part of the file.
type generation struct {
	Number  uint64        `json:"generation"`
	Allowed intention.Set `json:"allowed"`

	policy  *intention.Policy // the one that was seen last
	due     bool              // access was taken away and Number is not raised yet
	renamed []time.Time       // the last times, oldest first
}

// generationsFile is what is written.
type generationsFile struct {
	Version      int                    `json:"version"`
	Destinations map[string]*generation `json:"destinations"`
}

const generationsVersion = 1

// openGenerations reads path. A file that is not there is empty; one that cannot be read is an error that says what to do.
func openGenerations(path string) (*generations, error) {
	g := &generations{path: path, byDst: map[string]*generation{}}
	if path == "" {
		return g, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	}
	if err != nil {
		return nil, fmt.Errorf("filter chain generations: %w", err)
	}
	var f generationsFile
	err = json.Unmarshal(b, &f)
	switch {
	case err == nil && f.Version > generationsVersion:
		return nil, fmt.Errorf("%s: filter chain generations in format %d were written by a newer sallyport: run that one, or delete the file, which ends the live connections of each service with revocation \"drain\" once", path, f.Version)
	case err == nil && f.Version != generationsVersion:
		err = fmt.Errorf("unknown format %d", f.Version)
	}
	for dst, s := range f.Destinations {
		if s == nil || s.Number == 0 {
			err = errors.Join(err, fmt.Errorf("%q has no generation", dst))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: filter chain generations: %w: restore the file from a backup or delete it; deleting it ends the live connections of each service with revocation \"drain\" once, and loses nothing else", path, err)
	}
	if f.Destinations != nil {
		g.byDst = f.Destinations
	}
	return g, nil
}

// observe notes the policy that holds for dst from now on, and returns the generation that goes with it and whether it was raised
// for it. If access was taken away but the last renames are too recent, that is put off: again is then when to observe once more,
// and zero otherwise. drain is how long an Envoy drains.
func (g *generations) observe(dst identity.Name, policy *intention.Policy, drain time.Duration, now time.Time) (number uint64, raised bool, again time.Time) {
	s, fresh := g.expect(dst, policy, now)
	if fresh {
		return s.Number, false, time.Time{}
	}
	if s.policy == policy && policy != nil && !s.due {
		return s.Number, false, time.Time{}
	}
	s.policy = policy
	allowed := policy.Allowed()
	s.due = !s.Allowed.Within(allowed)
	if !s.due {
		g.widen(s, allowed)
		return s.Number, false, time.Time{}
	}
	if at := s.mayRename(drain); now.Before(at) {
		// Whom the new policy allows connects under the old name meanwhile. Of another trust domain nothing can be added, nor
		// need it be: the rename is due in any case.
		if s.Allowed.TrustDomain == allowed.TrustDomain {
			g.widen(s, allowed)
		}
		return s.Number, false, at
	}
	s.due = false
	s.Number = g.next(s.Number, now)
	s.Allowed = allowed
	s.renamed = append(s.renamed, now)
	if len(s.renamed) > renamesAtOnce {
		s.renamed = s.renamed[1:]
	}
	g.dirty = true
	return s.Number, true, time.Time{}
}

// expect is what is known of dst, which is new if it was not known: fresh. Called for all destinations before their first Envoys connect, it
// lets all of them be written at once, instead of all of them for each that connects.
func (g *generations) expect(dst identity.Name, policy *intention.Policy, now time.Time) (s *generation, fresh bool) {
	name := dst.String()
	if s = g.byDst[name]; s != nil {
		return s, false
	}
	s = &generation{Number: g.next(0, now), Allowed: policy.Allowed(), policy: policy}
	g.byDst[name] = s
	g.dirty = true
	return s, true
}

func (g *generations) widen(s *generation, allowed intention.Set) {
	if allowed.Within(s.Allowed) {
		return
	}
	s.Allowed = s.Allowed.Union(allowed)
	g.dirty = true
}

// mayRename is when the next rename may be.
func (s *generation) mayRename(drain time.Duration) time.Time {
	if len(s.renamed) == 0 {
		return time.Time{}
	}
	at := s.renamed[len(s.renamed)-1].Add(renameEvery)
	if len(s.renamed) == renamesAtOnce {
		at = later(at, s.renamed[0].Add(drain))
	}
	return at
}

func (g *generations) next(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.Unix(), 1)))
}

// save writes what changed since the last save. Until it is written a new generation should not be handed out.
func (g *generations) save() error {
	if !g.dirty {
		return nil
	}
	if g.path != "" {
		b, err := json.Marshal(generationsFile{Version: generationsVersion, Destinations: g.byDst})
		if err != nil {
			return fmt.Errorf("filter chain generations: %w", err)
		}
		if err := atomicfile.Replace(g.path, append(b, '\n')); err != nil {
			return fmt.Errorf("filter chain generations: %w", err)
		}
	}
	g.dirty = false
	return nil
}
