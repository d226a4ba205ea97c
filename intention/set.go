package intention

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"weak"

	"github.com/sallyport/sallyport/identity"
)

// Set is a set of source services of one trust domain. Kept of a policy, it shows whether a later
// policy takes access away. Most of it is a Base that many sets share; the rest are the names in
// which this set differs. The zero Set is empty. Sets are immutable.
type Set struct {
	*Base
	// In and Out are, sorted, the services that are in the set, or not, whatever Base says of them.
	// Workloads of other trust domains are in In by their SPIFFE IDs, or not in the set: no Base has them. Neither has it
	// those of whom permissions let in some requests: each is in In as an outline of those.
	In, Out []string
	// Revoked are, sorted, the SPIFFE IDs and the certificates that are not in the set although a service
	// is: "sha256:<hexadecimal> <whose it is>" is a certificate.
	Revoked []string
}

// Base is either the named services of a trust domain's datacenters, or all but the named ones. It
// must not be copied or changed.
type Base struct {
	TrustDomain string   `json:"trust_domain,omitempty"`
	Datacenters []string `json:"datacenters,omitempty"` // sorted
	Rest        bool     `json:"rest,omitempty"`        // true: every service but those in Except
	Except      []string `json:"except,omitempty"`      // sorted

	// compared are the last comparisons with other Bases. Many sets with one Base are compared with
	// as many of a few other ones, in turns.
	compared atomic.Pointer[[4]*comparison]
}

// comparison is how two bases differ. It does not keep the other one alive, which may keep a third.
type comparison struct {
	with weak.Pointer[Base]
	// more are the names that are in the first and not in the other; endless: they cannot be
	// listed.
	more    []string
	endless bool
	union   *Base // nil: the other one
}

// compare compares b, not nil, with o.
func (b *Base) compare(o *Base) *comparison {
	if b == o {
		return &comparison{union: b}
	}
	var last [4]*comparison
	if known := b.compared.Load(); known != nil {
		last = *known
	}
	c := &comparison{with: weak.Make(o)}
	for _, known := range last {
		if known != nil && known.with == c.with {
			return known
		}
	}
	switch o {
	case nil:
		c.more, c.endless, c.union = b.Except, b.Rest, b
	default:
		c.union = &Base{
			TrustDomain: o.TrustDomain, Datacenters: merge(b.Datacenters, o.Datacenters), Rest: b.Rest || o.Rest,
		}
		switch {
		case b.Rest && o.Rest:
			c.more = filter(o.Except, func(n string) bool { return !contains(b.Except, n) })
			c.union.Except = filter(b.Except, func(n string) bool { return contains(o.Except, n) })
		case b.Rest: // all but a few is never within a few: there is always one more name
			c.endless = true
			c.union.Except = filter(b.Except, func(n string) bool { return !contains(o.Except, n) })
		case o.Rest:
			c.more = filter(b.Except, func(n string) bool { return contains(o.Except, n) })
			c.union.Except = filter(o.Except, func(n string) bool { return !contains(b.Except, n) })
		default:
			c.more = filter(b.Except, func(n string) bool { return !contains(o.Except, n) })
			c.union.Except = merge(b.Except, o.Except)
		}
		// Where nothing is added the base stays the same, so that sets go on sharing it.
		switch {
		case c.union.equal(o):
			c.union = nil
		case c.union.equal(b):
			c.union = b
		}
	}
	b.compared.Store(&[4]*comparison{c, last[0], last[1], last[2]})
	return c
}

func (b *Base) equal(o *Base) bool {
	return b.Rest == o.Rest && slices.Equal(b.Except, o.Except) && slices.Equal(b.Datacenters, o.Datacenters)
}

// empty reports whether nobody is in s.
func (s Set) empty() bool {
	if s.Base == nil || s.TrustDomain == "" || len(s.Datacenters) == 0 {
		return true
	}
	return !s.Rest && len(s.In) == 0 && subset(s.Except, s.Out)
}

// includes reports whether a source is in s, or, if outline is not empty, what that outlines.
func (s Set) includes(source identity.Service, outline string) bool {
	return !s.empty() && s.TrustDomain == source.TrustDomain.Name() && contains(s.Datacenters, source.Datacenter) &&
		s.has(cmp.Or(outline, source.Service)) && (len(s.Revoked) == 0 || !contains(s.Revoked, source.String()))
}

// mayHold reports whether what a key of Revoked names could be in s by its service. Of certificates of which it
// is not known whose they are it could.
func (s Set) mayHold(key string) bool {
	id := holder(key)
	if id == "" {
		return true
	}
	if source, err := identity.ParseURI(id); err == nil && source.TrustDomain.Name() == s.trustDomain() {
		return !s.empty() && contains(s.Datacenters, source.Datacenter) && s.hasSome(source.Service)
	}
	return !s.empty() && s.hasSome(id)
}

// trustDomain is that of s; empty: it has none.
func (s Set) trustDomain() string {
	if s.Base == nil {
		return ""
	}
	return s.TrustDomain
}

// misses reports whether t has a revocation of something that is in s.
func (s Set) misses(t Set) bool {
	return slices.ContainsFunc(t.Revoked, func(k string) bool { return !contains(s.Revoked, k) && s.mayHold(k) })
}

// has reports whether a service of the set's trust domain and datacenters is in it.
func (s Set) has(service string) bool {
	switch {
	case contains(s.In, service):
		return true
	case isOutline(service):
		return s.covers(service)
	case s.Base == nil || contains(s.Out, service) || isID(service):
		return false
	}
	return contains(s.Except, service) != s.Rest
}

// isID tells the SPIFFE ID of a workload of another trust domain from the name of a service.
func isID(n string) bool { return strings.HasPrefix(n, "spiffe://") }

// includesID reports whether a workload of another trust domain is in s, or, if outline is not empty, what that outlines.
func (s Set) includesID(id identity.ID, outline string) bool {
	return !s.empty() && s.has(cmp.Or(outline, string(id))) && !contains(s.Revoked, string(id))
}

// rest reports whether the names that s does not list are in it.
func (s Set) rest() bool { return s.Base != nil && s.Rest }

// named are the names that s lists, in any order.
func (s Set) named() []string {
	names := slices.Concat(s.In, s.Out)
	if s.Base != nil {
		names = append(names, s.Except...)
	}
	return names
}

// put adds a name to In or Out, unless the base has it right. It must not have been put before.
func (s *Set) put(service string, in bool) {
	switch {
	case apart(service) && !in:
	case !apart(service) && contains(s.Except, service) != s.Rest == in:
	case in:
		s.In = append(s.In, service)
	default:
		s.Out = append(s.Out, service)
	}
}

func (s *Set) sort() {
	slices.Sort(s.In)
	slices.Sort(s.Out)
}

// Within reports whether all of s is in t: then a change of the allowed sources from s to t takes
// no access away.
func (s Set) Within(t Set) bool {
	switch {
	case s.empty():
		return true
	case t.empty(), s.TrustDomain != t.TrustDomain, !subset(s.Datacenters, t.Datacenters):
		return false
	}
	if s.misses(t) {
		return false
	}
	c := s.compare(t.Base)
	outside := func(n string) bool { return s.has(n) && !t.has(n) }
	return !c.endless && !slices.ContainsFunc(c.more, outside) && !slices.ContainsFunc(named(s, t), outside)
}

// Union is the smallest Set that holds s and t, which is more than both where their datacenters
// differ. Of sets of two trust domains it is t, as certificates of the other domain are void.
func (s Set) Union(t Set) Set {
	switch {
	case s.empty(), !t.empty() && s.TrustDomain != t.TrustDomain:
		return t
	case t.empty():
		return s
	}
	u := Set{Base: cmp.Or(s.compare(t.Base).union, t.Base)}
	for _, n := range named(s, t) {
		u.put(n, s.has(n) || t.has(n))
	}
	u.In = broadest(u.In)
	u.Revoked = filter(s.Revoked, func(k string) bool { return contains(t.Revoked, k) || !t.mayHold(k) })
	if more := filter(t.Revoked, func(k string) bool { return !contains(s.Revoked, k) && !s.mayHold(k) }); len(more) > 0 {
		u.Revoked = merge(u.Revoked, more)
	}
	return u
}

// Intersection is what is in both s and t.
func (s Set) Intersection(t Set) Set {
	if s.empty() || t.empty() || s.TrustDomain != t.TrustDomain {
		return Set{}
	}
	both := filter(s.Datacenters, func(dc string) bool { return contains(t.Datacenters, dc) })
	b := &Base{TrustDomain: t.TrustDomain, Datacenters: both, Rest: s.rest() && t.rest()}
	all := Set{Base: b}
	for _, n := range merge(s.named(), t.named()) {
		switch in := s.has(n) && t.has(n); {
		case apart(n):
			all.put(n, in)
		case in != b.Rest:
			b.Except = append(b.Except, n)
		}
	}
	if len(s.Revoked)+len(t.Revoked) > 0 {
		all.Revoked = merge(s.Revoked, t.Revoked)
	}
	return all
}

// named are the names in which the sets differ from their bases, sorted.
func named(s, t Set) []string { return merge(slices.Concat(s.In, s.Out), slices.Concat(t.In, t.Out)) }

func contains(sorted []string, n string) bool {
	_, ok := slices.BinarySearch(sorted, n)
	return ok
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(n string) bool { return !contains(b, n) })
}

func filter(a []string, keep func(string) bool) []string {
	var out []string
	for _, n := range a {
		if keep(n) {
			out = append(out, n)
		}
	}
	return out
}

func merge(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}
