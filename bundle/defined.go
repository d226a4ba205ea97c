package bundle

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Defined is another trust domain as its file defines it.
type Defined struct {
	TrustDomain spiffeid.TrustDomain
	// File is where that is.
	File string
	// Roots are in the file that it names. None: it names none, and its endpoint is asked when the control plane runs.
	Roots []*x509.Certificate
}

// Read reads a directory as a Store does, and keeps and asks nothing: what it defines, sorted by name, and what is wrong, each with its file
// and, where it can be said, the line.
func Read(dir string) (all []Defined, mistakes []error) {
	good, bad, err := definitions(dir)
	if err != nil {
		return nil, []error{err}
	}
	for _, file := range slices.Sorted(maps.Keys(bad)) {
		mistakes = append(mistakes, bad[file])
	}
	for _, d := range good {
		out := Defined{TrustDomain: d.trustDomain, File: d.file}
		if d.bundle != "" {
			text, err := readFile(d.bundle, maxDocument)
			var doc *Document
			if err == nil {
				doc, err = parse(d.trustDomain, text)
			}
			if err == nil {
				err = usableNow(doc)
			}
			if err != nil {
				if !strings.HasPrefix(err.Error(), "open ") {
					err = fmt.Errorf("%s: %w", d.bundle, err)
				}
				mistakes = append(mistakes, fmt.Errorf("%s: bundle: %w", d.file, err))
				continue
			}
			out.Roots = doc.authorities
		}
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b Defined) int { return a.TrustDomain.Compare(b.TrustDomain) })
	return all, mistakes
}

// SharedKey is the key of a root that two trust domains have: who has it signs identities of both, and neither is kept from the other.
type SharedKey struct {
	A, B spiffeid.TrustDomain // sorted
	Root *x509.Certificate    // one of A's
}

// SharedKeys are those of roots, by trust domain: of two trust domains at most one, sorted.
func SharedKeys(roots map[spiffeid.TrustDomain][]*x509.Certificate) (shared []SharedKey) {
	whose := map[string][]SharedKey{} // by key: each of them as A
	for _, td := range slices.SortedFunc(maps.Keys(roots), spiffeid.TrustDomain.Compare) {
		for _, c := range roots[td] {
			key := string(c.RawSubjectPublicKeyInfo)
			for _, other := range whose[key] {
				same := func(s SharedKey) bool { return s.A == other.A && s.B == td }
				if other.A != td && !slices.ContainsFunc(shared, same) {
					shared = append(shared, SharedKey{other.A, td, other.Root})
				}
			}
			whose[key] = append(whose[key], SharedKey{A: td, Root: c})
		}
	}
	slices.SortFunc(shared, func(a, b SharedKey) int { return cmp.Or(a.A.Compare(b.A), a.B.Compare(b.B)) })
	return shared
}

// String says what is wrong with it, and what to do.
func (s SharedKey) String() string {
	return fmt.Sprintf("%s and %s have a root of the same key (%s): who has it signs identities of both, so neither is kept from naming the other's: give each a CA of its own",
		s.A, s.B, name(s.Root))
}
