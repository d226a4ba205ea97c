package intention_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

var revokedDomain = spiffeid.RequireTrustDomainFromString("example.org")

func service(name, datacenter string) identity.Service {
	return identity.Service{TrustDomain: revokedDomain, Datacenter: datacenter, Name: identity.NewName(name)}
}

// policyOf allows web and, unless only, all others but bad.
func policyOf(only bool) *intention.Policy {
	api := identity.NewName("api")
	allow := func(source string, a intention.Action) intention.Intention {
		return intention.Intention{Source: intention.Source{Name: identity.NewName(source)}, Destination: api, Action: a}
	}
	all := []intention.Intention{allow("web", intention.Allow)}
	if !only {
		all = append(all, allow("bad", intention.Deny), allow(identity.Wildcard, intention.Allow))
	}
	return intention.Share(api, nil, intention.Scope{TrustDomain: revokedDomain, Datacenters: []string{"dc1", "dc2"}}).Policy(api, all)
}

// TestRevokingAnIdentity: the one of its datacenter is denied, whatever intentions say, and nobody else.
func TestRevokingAnIdentity(t *testing.T) {
	t.Parallel()
	p := policyOf(false)
	web := intention.Revocation{ID: service("web", "dc1").String(), Reason: "stolen"}
	bad := intention.Revocation{ID: service("bad", "dc1").String()}
	q := p.Revoking(intention.Revoke([]intention.Revocation{web, bad, {ID: "spiffe://example.org/agent"}}))
	d := q.Decide(service("web", "dc1"))
	if d.Allowed() || d.Reason != intention.ByRevocation || *d.Revocation != web || !strings.HasSuffix(d.Revocation.Why(), "is revoked (stolen)") {
		t.Errorf("web of dc1: %+v", d)
	}
	for _, s := range []identity.Service{service("web", "dc2"), service("other", "dc1")} {
		if !q.Decide(s).Allowed() {
			t.Errorf("%s is denied", s)
		}
	}
	if d := q.Decide(service("bad", "dc1")); d.Reason != intention.ByIntention {
		t.Errorf("who is denied anyway: %+v", d)
	}
	ids, certificates := q.Revoked()
	if !slices.Equal(ids, []identity.Service{service("web", "dc1")}) || certificates != nil {
		t.Errorf("rules are told of %v, %v", ids, certificates)
	}
	if q.Revoking(intention.Revoke([]intention.Revocation{web})) != q {
		t.Error("a policy that stays the same is another one")
	}
	if r := q.Revoking(nil); !r.Decide(service("web", "dc1")).Allowed() || !r.Allowed().Within(p.Allowed()) || !p.Allowed().Within(r.Allowed()) {
		t.Error("not undone")
	}
	if (*intention.Policy)(nil).Revoking(intention.Revoke([]intention.Revocation{web})) != nil {
		t.Error("of nothing")
	}
}

// TestRevokingACertificate: rules are told of those that some source may have, by their digests.
func TestRevokingACertificate(t *testing.T) {
	t.Parallel()
	digest := func(c string) string { return strings.Repeat(c, 64) }
	list := intention.Revoke([]intention.Revocation{
		{ID: service("web", "dc1").String(), Serial: "1", SHA256: digest("a")},
		{ID: service("db", "dc1").String(), Serial: "2", SHA256: digest("b")},
		{Serial: "3", SHA256: digest("c")},
		{Serial: "4"},
		{Serial: "4", SHA256: digest("e")},
	})
	p := policyOf(true).Revoking(list)
	_, certificates := p.Revoked()
	want := []intention.Certificate{{SHA256: digest("a"), ID: service("web", "dc1").String()}, {SHA256: digest("c")}, {SHA256: digest("e")}}
	if diff := cmp.Diff(want, certificates); diff != "" {
		t.Error(diff)
	}
	if !p.Decide(service("web", "dc1")).Allowed() {
		t.Error("with the certificate went the identity")
	}
	for _, c := range []struct {
		serial, digest string
		revoked        bool
	}{
		{"1", "", true},
		{"", digest("a"), true},
		{"1", digest("d"), false}, // another CA's
		{"4", digest("d"), true},  // whatever its digest, beside one with that serial number of which the digest is known
		{"4", "", true},
		{"5", digest("c"), true},
		{"5", "", false},
		{"", "", false},
	} {
		if got := list.Certificate(c.serial, c.digest) != nil; got != c.revoked {
			t.Errorf("certificate %s, %.4s: revoked %t", c.serial, c.digest, got)
		}
	}
}

// TestRevokedTwice: of two about one certificate what either knows is known.
func TestRevokedTwice(t *testing.T) {
	t.Parallel()
	digest, id := strings.Repeat("a", 64), service("web", "dc1").String()
	for _, all := range [][]intention.Revocation{
		{{ID: id, Serial: "1", SHA256: digest}, {ID: id, SHA256: digest}},
		{{ID: id, SHA256: digest}, {ID: id, Serial: "1", SHA256: digest}},
	} {
		list := intention.Revoke(all)
		if list.Len() != 1 || list.Certificate("1", "") == nil || list.Certificate("", digest) == nil {
			t.Errorf("%+v: %+v", all, list.All())
		}
		if all[0].Serial != "" && all[1].Serial != "" {
			t.Error("what was given is changed")
		}
	}
}

// TestRevokedSets: taking a certificate or an identity away from whom a set has is seen, and nothing else is.
func TestRevokedSets(t *testing.T) {
	t.Parallel()
	web := intention.Revoke([]intention.Revocation{{ID: service("web", "dc1").String()}})
	certificate := intention.Revoke([]intention.Revocation{{ID: service("web", "dc1").String(), SHA256: strings.Repeat("a", 64)}})
	unknown := intention.Revoke([]intention.Revocation{{SHA256: strings.Repeat("b", 64)}})
	for name, list := range map[string]*intention.Revoked{"identity": web, "certificate": certificate, "whose is not known": unknown} {
		all, less := policyOf(true).Allowed(), policyOf(true).Revoking(list).Allowed()
		if all.Within(less) || !less.Within(all) || !less.Within(less) {
			t.Errorf("%s: what is taken away is not seen", name)
		}
		if u := all.Union(less); !all.Within(u) || len(u.Revoked) > 0 {
			t.Errorf("%s: the union %+v", name, u)
		}
		if i := all.Intersection(less); !i.Within(less) || all.Within(i) {
			t.Errorf("%s: the intersection %+v", name, i)
		}
		if !policyOf(true).Within(less).Decide(service("web", "dc2")).Allowed() {
			t.Errorf("%s: another one is denied", name)
		}
	}
	if policyOf(true).Within(policyOf(true).Revoking(web).Allowed()).Decide(service("web", "dc1")).Allowed() {
		t.Error("what is not recorded is let in")
	}
	if s := (intention.Set{}); !s.Within(policyOf(true).Revoking(web).Allowed()) {
		t.Error("of nobody something is taken away")
	}
	db := intention.Revoke([]intention.Revocation{{ID: service("db", "dc1").String()}})
	if !policyOf(true).Allowed().Within(policyOf(false).Revoking(db).Allowed()) {
		t.Error("the revocation of one who was never let in takes something away")
	}
}

// TestRevokedSetsAreSets: of any three, Within is an order, and Union and Intersection its bounds, as far as these are exact.
func TestRevokedSetsAreSets(t *testing.T) {
	t.Parallel()
	draw := rapid.Custom(func(t *rapid.T) intention.Set {
		var all []intention.Revocation
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"web", "other", "bad"}), rapid.ID[string]).Draw(t, "revoked") {
			r := intention.Revocation{ID: service(name, "dc1").String()}
			if rapid.Bool().Draw(t, "certificate") {
				r.SHA256 = strings.Repeat("a", 64)
			}
			all = append(all, r)
		}
		return policyOf(rapid.Bool().Draw(t, "only")).Revoking(intention.Revoke(all)).Allowed()
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		if u := a.Union(b); !a.Within(u) || !b.Within(u) {
			t.Fatalf("union %+v of %+v and %+v", u, a, b)
		}
		if i := a.Intersection(b); !i.Within(a) || !i.Within(b) {
			t.Fatalf("intersection %+v of %+v and %+v", i, a, b)
		}
	})
}

// TestRevokedSince finds what differs.
func TestRevokedSince(t *testing.T) {
	t.Parallel()
	a, b, c := intention.Revocation{Serial: "1"}, intention.Revocation{Serial: "2"}, intention.Revocation{Serial: "2", Reason: "lost"}
	old, now := intention.Revoke([]intention.Revocation{a, b}), intention.Revoke([]intention.Revocation{c, {Serial: "3"}})
	var got []string
	for _, r := range now.Since(old).All() {
		got = append(got, r.Serial+r.Reason)
	}
	if want := []string{"1", "2lost", "3"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if now.Since(now) != nil || old.Since(nil).Len() != 2 || (*intention.Revoked)(nil).Since(nil).Len() != 0 {
		t.Error("nothing is something")
	}
}
