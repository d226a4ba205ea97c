package intention

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Revocation says that an identity, or one certificate, is nobody's any more, whatever intentions allow. It
// is about a certificate if it has a Serial or a SHA256, else about the identity ID. It is comparable.
type Revocation struct {
	// ID is the SPIFFE ID that is revoked, or that the revoked certificate has; empty: it is not known
	// whose the certificate is.
	ID string
	// Serial is the certificate's serial number in hexadecimal, lower case, without leading zeros; empty: it
	// is not known.
	Serial string
	// SHA256 is the digest of the certificate's DER in hexadecimal, lower case; empty: it is not known, and
	// rules of sidecars, which look at nothing else, do not refuse the certificate.
	SHA256 string
	// Until is when the revocation ends by itself, with the certificate at the latest; zero: not before it is
	// undone.
	Until time.Time
	// Reason is why, By who revoked it, in their words; At is when, and Origin where it is written:
	// "revoked.yaml:3". All may be empty.
	Reason, By string
	At         time.Time
	Origin     string
}

// OfCertificate reports whether r is about one certificate rather than an identity.
func (r *Revocation) OfCertificate() bool { return r.Serial != "" || r.SHA256 != "" }

// String is what r is about: "spiffe://…", "certificate 01ab… of spiffe://…".
func (r *Revocation) String() string {
	if !r.OfCertificate() {
		return r.ID
	}
	s := "certificate " + r.Serial
	if r.Serial == "" {
		s = "certificate of SHA-256 " + r.SHA256
	}
	if r.ID != "" {
		s += " of " + r.ID
	}
	return s
}

// Why is r in a sentence's end: "spiffe://… is revoked (key stolen), revoked.yaml:3".
func (r *Revocation) Why() string {
	s := r.String() + " is revoked"
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	if r.Origin != "" {
		s += ", " + r.Origin
	}
	return s
}

// serialPrefix and digestPrefix begin the keys of certificates.
const (
	serialPrefix = "serial:"
	digestPrefix = "sha256:"
)

// key tells revocations apart, and says in one word what a Set has less: a SPIFFE ID, or a certificate and,
// after a blank, whose it is.
func (r *Revocation) key() string {
	switch {
	case r.SHA256 != "":
		return digestPrefix + r.SHA256 + " " + r.ID
	case r.Serial != "":
		return serialPrefix + r.Serial
	}
	return r.ID
}

// holder is the SPIFFE ID in a key; empty: it is not known.
func holder(key string) string {
	if rest, ok := strings.CutPrefix(key, digestPrefix); ok {
		_, id, _ := strings.Cut(rest, " ")
		return id
	}
	return key
}

// Revoked are revocations, compiled. It is immutable. The nil Revoked has none.
type Revoked struct {
	list     []revocation // sorted by key
	keys     []string     // those of list
	ids      map[identity.ID]*Revocation
	services map[identity.Service]*Revocation // of ids
	serials  map[string]*Revocation
	digests  map[string]*Revocation
	holders  map[identity.ID][]*Revocation // of certificates
}

// revocation is one of a Revoked.
type revocation struct {
	*Revocation
	service identity.Service // that ID names; zero: it names none
}

// Revoke compiles revocations, of which one about the same replaces another before it, but for a serial number that it does not
// know; nil if there are none.
func Revoke(all []Revocation) *Revoked {
	list := make([]revocation, 0, len(all))
	for i := range all {
		r := all[i]
		service, err := identity.ParseURI(r.ID)
		if err != nil {
			service = identity.Service{}
		}
		list = append(list, revocation{&r, service})
	}
	slices.SortStableFunc(list, func(a, b revocation) int { return strings.Compare(a.key(), b.key()) })
	kept := list[:0]
	for i, r := range list {
		if i+1 == len(list) || list[i+1].key() != r.key() {
			kept = append(kept, r)
		} else if next := list[i+1]; next.Serial == "" {
			next.Serial = r.Serial
		}
	}
	return revoke(kept)
}

// revoke makes a Revoked of a sorted list.
func revoke(list []revocation) *Revoked {
	if len(list) == 0 {
		return nil
	}
	r := &Revoked{
		list: list, keys: make([]string, len(list)),
		ids: map[identity.ID]*Revocation{}, services: map[identity.Service]*Revocation{}, serials: map[string]*Revocation{}, digests: map[string]*Revocation{},
		holders: map[identity.ID][]*Revocation{},
	}
	for i, e := range list {
		r.keys[i] = e.key()
		switch {
		case !e.OfCertificate():
			if r.ids[identity.ID(e.ID)] = e.Revocation; e.service != (identity.Service{}) {
				r.services[e.service] = e.Revocation
			}
			continue
		case e.Serial != "" && r.serials[e.Serial] == nil: // one without a digest, which is about more, comes first
			r.serials[e.Serial] = e.Revocation
		}
		if e.SHA256 != "" {
			r.digests[e.SHA256] = e.Revocation
		}
		if e.ID != "" {
			r.holders[identity.ID(e.ID)] = append(r.holders[identity.ID(e.ID)], e.Revocation)
		}
	}
	return r
}

// Len is the number of revocations.
func (r *Revoked) Len() int {
	if r == nil {
		return 0
	}
	return len(r.list)
}

// All are the revocations, those of certificates and then those of identities, each sorted. They must not be changed.
func (r *Revoked) All() []*Revocation {
	if r == nil {
		return nil
	}
	all := make([]*Revocation, len(r.list))
	for i, e := range r.list {
		all[i] = e.Revocation
	}
	return all
}

// Identity is the revocation of a service's identity; nil: it is not revoked.
func (r *Revoked) Identity(id identity.Service) *Revocation {
	if r == nil {
		return nil
	}
	return r.services[id]
}

// ID is Identity for a workload of any trust domain.
func (r *Revoked) ID(id identity.ID) *Revocation {
	if r == nil {
		return nil
	}
	return r.ids[id]
}

// Certificate is the revocation of a certificate, of which the serial number and the SHA-256 may be empty, if they
// are not known, in the form that Revocation has; nil: it is not revoked.
func (r *Revoked) Certificate(serial, sha256 string) *Revocation {
	if r == nil {
		return nil
	}
	if found := r.digests[sha256]; found != nil {
		return found
	}
	// A serial number is its CA's alone, so where both digests are known they decide.
	if found := r.serials[serial]; found != nil && (found.SHA256 == "" || sha256 == "") {
		return found
	}
	return nil
}

// Certificates are the revocations of certificates of id, sorted, as far as they say whose they are. They must not be changed.
func (r *Revoked) Certificates(id identity.ID) []*Revocation {
	if r == nil {
		return nil
	}
	return r.holders[id]
}

// Equal reports whether r and o have the same revocations.
func (r *Revoked) Equal(o *Revoked) bool {
	if r == o || r == nil || o == nil {
		return r == o
	}
	return slices.EqualFunc(r.list, o.list, sameRevocation)
}

func sameRevocation(a, b revocation) bool {
	return a.Revocation == b.Revocation || *a.Revocation == *b.Revocation
}

// Since are the revocations that are not the same in r and in old, be it that one of them has none.
func (r *Revoked) Since(old *Revoked) *Revoked {
	if r == old {
		return nil
	}
	var a, b, differ []revocation
	if r != nil {
		a = r.list
	}
	if old != nil {
		b = old.list
	}
	for len(a)+len(b) > 0 {
		switch order := compareFirst(a, b); {
		case order < 0:
			differ, a = append(differ, a[0]), a[1:]
		case order > 0:
			differ, b = append(differ, b[0]), b[1:]
		default:
			if !sameRevocation(a[0], b[0]) {
				differ = append(differ, a[0])
			}
			a, b = a[1:], b[1:]
		}
	}
	return revoke(differ)
}

// compareFirst compares the first of two sorted lists, of which an empty one comes last.
func compareFirst(a, b []revocation) int {
	if len(a) == 0 || len(b) == 0 {
		return cmp.Compare(len(b), len(a))
	}
	return strings.Compare(a[0].key(), b[0].key())
}

// Revoking is p with all of list denied, and nothing else that was revoked before. Of the list it keeps
// what concerns p. A nil p stays nil.
func (p *Policy) Revoking(list *Revoked) *Policy {
	if p == nil {
		return nil
	}
	of := p.concerning(list)
	if of.Equal(p.revoked) {
		return p
	}
	q := *p
	q.revoked = of
	return &q
}

// Concerned reports whether p says something else if one of list is revoked than if it is not.
func (p *Policy) Concerned(list *Revoked) bool {
	return p != nil && list != nil && slices.ContainsFunc(list.list, p.concernedBy)
}

// concerning are those of list that concern p.
func (p *Policy) concerning(list *Revoked) *Revoked {
	if list == nil {
		return nil
	}
	var of []revocation
	for _, r := range list.list {
		if p.concernedBy(r) {
			of = append(of, r)
		}
	}
	if len(of) == len(list.list) {
		return list
	}
	return revoke(of)
}

// concernedBy reports whether r takes something away that p's intentions allow. A certificate of which the
// serial number alone is known is refused by those who are told serial numbers, and no policy is.
func (p *Policy) concernedBy(r revocation) bool {
	switch {
	case r.OfCertificate() && r.SHA256 == "":
		return false
	case r.ID == "":
		return true
	}
	if td := p.shared.scope.TrustDomain; r.service.TrustDomain == td && !td.IsZero() {
		return p.breadth(p.intended(r.service)) > nothing
	}
	i := p.own.foreign[identity.ID(r.ID)]
	return i != nil && i.breadth() > nothing
}

// Certificate is one that is revoked, as rules of sidecars are told of it.
type Certificate struct {
	SHA256 string // as in Revocation
	ID     string // whose it is; empty: not known
}

// Revoked are the identities of the mesh and the certificates that p denies because they are revoked, both sorted,
// within the limit of Within. Others that it denies anyway are not among them; those of other trust domains are not in Foreign.
func (p *Policy) Revoked() (identities []identity.Service, certificates []Certificate) {
	if p == nil {
		return nil, nil
	}
	for _, key := range p.revokedKeys() {
		if rest, ok := strings.CutPrefix(key, digestPrefix); ok {
			digest, id, _ := strings.Cut(rest, " ")
			certificates = append(certificates, Certificate{SHA256: digest, ID: id})
		} else if service, err := identity.ParseURI(key); err == nil && service.TrustDomain == p.shared.scope.TrustDomain {
			identities = append(identities, service)
		}
	}
	return identities, certificates
}

// revokedKeys are those of p, and of the limit of Within.
func (p *Policy) revokedKeys() (keys []string) {
	if p.revoked != nil {
		keys = p.revoked.keys
	}
	if p.only != nil && len(p.only.Revoked) > 0 {
		keys = merge(keys, p.only.Revoked)
	}
	return keys
}
