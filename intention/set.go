package intention

import "slices"

// Set is a set of source services of one trust domain: either the named ones, or all but the named ones. It is what has to
// be remembered of a policy to tell whether a later one takes access away. The zero Set is empty.
type Set struct {
	TrustDomain string   `json:"trust_domain,omitempty"`
	Datacenters []string `json:"datacenters,omitempty"` // sorted
	Rest        bool     `json:"rest,omitempty"`        // true: every service but those in Except; false: only those in Except
	Except      []string `json:"except,omitempty"`      // sorted
}

// Empty reports whether nobody is in s.
func (s Set) Empty() bool {
	return s.TrustDomain == "" || len(s.Datacenters) == 0 || !s.Rest && len(s.Except) == 0
}

// Within reports whether everybody in s is in t too: a change of the allowed from s to t takes nobody's access away.
func (s Set) Within(t Set) bool {
	switch {
	case s.Empty():
		return true
	case t.Empty(), s.TrustDomain != t.TrustDomain, !subset(s.Datacenters, t.Datacenters):
		return false
	case s.Rest && t.Rest:
		return subset(t.Except, s.Except)
	case s.Rest: // all but a few is never within a few: there is always one more name
		return false
	case t.Rest:
		return !slices.ContainsFunc(s.Except, func(n string) bool { return contains(t.Except, n) })
	default:
		return subset(s.Except, t.Except)
	}
}

// Union is everybody who is in s or in t, or more: where the two cannot be told together in one Set (other datacenters), it
// is the smallest Set that holds both. Of sets of two trust domains it is t, as certificates of the other one are void.
func (s Set) Union(t Set) Set {
	switch {
	case s.Empty(), s.TrustDomain != t.TrustDomain && !t.Empty():
		return t
	case t.Empty():
		return s
	}
	u := Set{TrustDomain: t.TrustDomain, Datacenters: merge(s.Datacenters, t.Datacenters), Rest: s.Rest || t.Rest}
	switch {
	case s.Rest && t.Rest:
		u.Except = filter(s.Except, func(n string) bool { return contains(t.Except, n) })
	case s.Rest:
		u.Except = filter(s.Except, func(n string) bool { return !contains(t.Except, n) })
	case t.Rest:
		u.Except = filter(t.Except, func(n string) bool { return !contains(s.Except, n) })
	default:
		u.Except = merge(s.Except, t.Except)
	}
	return u
}

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
