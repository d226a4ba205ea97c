package acceptance

import (
	"slices"
	"time"
	"unique"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/sds"
)

// Stream is a connection on which a holder is given roots and leafs and accepts them. Make it with Record.Open, and Close it.
type Stream struct {
	record *Record
	holder *holder
	// joined: roots were sent on it, or it has accepted some, so these have to be accepted on it, too.
	joined bool
	told   *bundle // nil: nothing yet
	leafs  []given
	// What was accepted last, and what was sent since on a stream without ACKs.
	roots *sds.Roots
	last  []*sds.SVID
	sent  []sent // oldest first
}

// sent is what was sent at one time on a stream without ACKs.
type sent struct {
	roots *sds.Roots
	svids []*sds.SVID
	at    time.Time
}

// maxSent is how much of what was sent is told apart; of more the last one takes the place of the one before.
const maxSent = 8

// given is what was given of one identity on a stream.
type given struct {
	id       unique.Handle[string]
	accepted use // zero: nothing was
	pending  []use
}

// Open returns a stream of a caller.
func (r *Record) Open(c identity.Caller) *Stream {
	if r == nil {
		return nil
	}
	name := issuance.Name(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &Stream{record: r, holder: r.of(name)}
	if h := s.holder; h != nil {
		h.streams = append(h.streams, s)
		h.heard = r.now()
		r.tell()
	}
	return s
}

func (s *Stream) find(id unique.Handle[string]) int {
	return slices.IndexFunc(s.leafs, func(g given) bool { return g.id == id })
}

// Give notes what is sent: the holder may use the leafs from now on, and is to accept the roots on this stream, too. Nil roots: none are
// sent.
func (s *Stream) Give(roots *sds.Roots, leafs ...*sds.SVID) {
	if s == nil {
		return
	}
	r := s.record
	r.mu.Lock()
	defer r.mu.Unlock()
	s.give(roots, leafs)
}

func (s *Stream) give(roots *sds.Roots, leafs []*sds.SVID) {
	if s.holder == nil {
		if len(leafs) > 0 {
			s.record.crowd()
		}
		return
	}
	if roots != nil && !s.joined {
		s.joined = true
		s.record.tell()
	}
	for _, svid := range leafs {
		id, u := idOf(svid.Certificates[0]), s.record.useOf(svid.Certificates)
		g := s.of(id)
		if !slices.Contains(g.pending, u) {
			g.pending = append(g.pending, u)
		}
		if s.holder.add(id, u) {
			s.record.note(s.holder)
		}
	}
}

// of is what was given of id on s.
func (s *Stream) of(id unique.Handle[string]) *given {
	i := s.find(id)
	if i < 0 {
		s.leafs = append(s.leafs, given{id: id})
		i = len(s.leafs) - 1
	}
	return &s.leafs[i]
}

// Accept notes what the other end of the stream has accepted of what it is to have: the roots, nil if it has not accepted all that has
// them, and leafs. It has no earlier ones any more.
func (s *Stream) Accept(roots *sds.Roots, leafs []*sds.SVID) {
	if s == nil || s.holder == nil {
		return
	}
	r := s.record
	r.mu.Lock()
	defer r.mu.Unlock()
	s.accept(roots, leafs)
}

func (s *Stream) accept(roots *sds.Roots, leafs []*sds.SVID) {
	if (roots == nil || roots == s.roots) && slices.Equal(leafs, s.last) {
		return
	}
	r, h := s.record, s.holder
	changed := false
	if roots != nil {
		s.joined, s.roots, s.told = true, roots, r.accepted(roots)
	}
	for _, svid := range leafs {
		if slices.Contains(s.last, svid) {
			continue
		}
		id, u := idOf(svid.Certificates[0]), r.useOf(svid.Certificates)
		g := s.of(id)
		g.accepted, g.pending = u, nil
		changed = h.add(id, u) || changed
	}
	s.last = slices.Clone(leafs)
	if h.agree(r) || changed {
		r.note(h)
	} else {
		r.tell()
	}
}

// agree brings h to what all its streams have accepted. It reports whether that is new. The record's lock is held.
func (h *holder) agree(r *Record) (changed bool) {
	var told *bundle
	agreed := true
	for _, s := range h.streams {
		switch {
		case !s.joined:
		case s.told == nil:
			agreed = false
		case told == nil || told == s.told:
			told = s.told
		default:
			told = r.bundleOf(slices.DeleteFunc(slices.Clone(told.roots), func(d digest) bool { return !slices.Contains(s.told.roots, d) }))
		}
	}
	if agreed && told != nil && told != h.told {
		h.told, changed = told, true
	}
	for _, s := range h.streams {
		for _, g := range s.leafs {
			changed = h.agreeOn(g.id) || changed
		}
	}
	return changed
}

// agreeOn drops what h used of id before, if all streams that were given one of it have accepted one.
func (h *holder) agreeOn(id unique.Handle[string]) bool {
	var all []use
	for _, s := range h.streams {
		i := s.find(id)
		if i < 0 {
			continue
		}
		g := s.leafs[i]
		if g.accepted == (use{}) {
			return false
		}
		for _, u := range append([]use{g.accepted}, g.pending...) {
			j := slices.IndexFunc(all, func(o use) bool { return o.root == u.root })
			if j < 0 {
				all = append(all, u)
			} else {
				all[j].ends = max(all[j].ends, u.ends)
			}
		}
	}
	return len(all) > 0 && h.replace(id, all)
}

// Sent notes what was sent on a stream that has no ACKs. It is accepted when the stream has lived for a while longer; see Config.Settle.
func (s *Stream) Sent(roots *sds.Roots, svids []*sds.SVID) {
	if s == nil {
		return
	}
	r := s.record
	r.mu.Lock()
	defer r.mu.Unlock()
	s.give(roots, svids)
	if s.holder == nil {
		return
	}
	if len(s.sent) == maxSent {
		s.sent = s.sent[:maxSent-1]
	}
	s.sent = append(s.sent, sent{roots, slices.Clone(svids), r.now()})
	r.sent[s] = true
	r.tell()
}

// settle accepts what was sent long enough ago.
func (r *Record) settle(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sent {
		for len(s.sent) > 0 && now.Sub(s.sent[0].at) >= r.cfg.Settle {
			s.accept(s.sent[0].roots, s.sent[0].svids)
			s.sent = s.sent[1:]
		}
		if len(s.sent) == 0 {
			delete(r.sent, s)
		}
	}
}

// pingAfter is when a connection is pinged on which nothing is heard: before it, none ends because the other end does not answer.
const pingAfter = 25 * time.Second

// Close ends the stream. byPeer says that the other end ended it, and not this one: soon after something was sent on a stream without
// ACKs that is a client that has what it wanted.
func (s *Stream) Close(byPeer bool) {
	if s == nil || s.holder == nil {
		return
	}
	r, h := s.record, s.holder
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sent, s)
	if n := len(s.sent); n > 0 && byPeer && r.now().Sub(s.sent[n-1].at) < pingAfter {
		s.accept(s.sent[n-1].roots, s.sent[n-1].svids)
	}
	h.streams = slices.DeleteFunc(h.streams, func(o *Stream) bool { return o == s })
	h.heard = r.now()
	if h.agree(r) {
		r.note(h)
	}
	r.tell()
}
