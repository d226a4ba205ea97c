package intention_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

const (
	foreignX = identity.ID("spiffe://td-b.example/ns/prod/sa/x")
	foreignY = identity.ID("spiffe://td-b.example/ns/default/dc/dc1/svc/web")
	foreignZ = identity.ID("spiffe://td-c.example/z")
)

var tdB = spiffeid.RequireTrustDomainFromString("td-b.example")

func about(id identity.ID, destination string, a intention.Action) intention.Intention {
	return intention.Intention{Source: intention.Source{ID: id}, Destination: identity.NewName(destination), Action: a, Origin: "api.hcl:3"}
}

func TestForeign(t *testing.T) {
	api := identity.NewName("api")
	all := intention.Intention{Source: source("*"), Destination: api, Action: intention.Allow}
	every := intention.Intention{Source: source("*"), Destination: identity.NewName("*"), Action: intention.Allow}
	local := intention.Intention{Source: source("web"), Destination: api, Action: intention.Allow}
	unsupported := about(foreignX, "api", intention.Allow)
	unsupported.Unsupported = "permissions"
	known := []spiffeid.TrustDomain{tdB}
	for name, test := range map[string]struct {
		intentions  []intention.Intention
		federated   []spiffeid.TrustDomain
		serverFirst bool
		want        intention.Reason // of foreignX
		allowed     bool
	}{
		"exact":                  {intentions: []intention.Intention{about(foreignX, "api", intention.Allow)}, federated: known, want: intention.ByIntention, allowed: true},
		"exact, denied":          {intentions: []intention.Intention{about(foreignX, "api", intention.Deny)}, federated: known, want: intention.ByIntention},
		"both":                   {intentions: []intention.Intention{about(foreignX, "api", intention.Allow), about(foreignX, "api", intention.Deny)}, federated: known, want: intention.ByIntention},
		"not supported":          {intentions: []intention.Intention{unsupported}, federated: known, want: intention.ByIntention},
		"no bundle":              {intentions: []intention.Intention{about(foreignX, "api", intention.Allow)}, want: intention.UnknownTrustDomain},
		"speaks first":           {intentions: []intention.Intention{about(foreignX, "api", intention.Allow)}, federated: known, serverFirst: true, want: intention.SpeaksFirst},
		"the default allows":     {federated: known, want: intention.ForeignTrustDomain},
		"* and local names":      {intentions: []intention.Intention{all, every, local}, federated: known, want: intention.ForeignTrustDomain},
		"another ID":             {intentions: []intention.Intention{about(foreignY, "api", intention.Allow)}, federated: known, want: intention.ForeignTrustDomain},
		"another destination":    {intentions: []intention.Intention{about(foreignX, "db", intention.Allow)}, federated: known, want: intention.ForeignTrustDomain},
		"about all destinations": {intentions: []intention.Intention{about(foreignX, "*", intention.Allow)}, federated: known, want: intention.ForeignTrustDomain},
	} {
		t.Run(name, func(t *testing.T) {
			p := intention.Compile(api, test.intentions, intention.Scope{TrustDomain: ours, Federated: test.federated, Datacenters: []string{"dc1"}, Default: intention.Allow})
			if test.serverFirst {
				p = p.ServerFirst()
			}
			d := p.DecideID(foreignX)
			if d.Allowed() != test.allowed || d.Reason != test.want || (d.Intention != nil) != (test.want == intention.ByIntention) {
				t.Errorf("DecideID(%s) = %+v, want %v", foreignX, d, test.want)
			}
			foreign := slices.Collect(p.Foreign())
			if slices.Contains(foreign, foreignX) != test.allowed {
				t.Errorf("Foreign = %v, though %s is allowed: %t", foreign, foreignX, test.allowed)
			}
			// What is said of others changes nothing for services of the mesh.
			if d := p.Decide(workload("batch")); !d.Allowed() {
				t.Errorf("Decide(batch) = %+v", d)
			}
			for range p.Exact() {
				if !slices.Contains(test.intentions, local) {
					t.Error("a workload of another trust domain is a name of the mesh")
				}
			}
		})
	}
}

// TestForeignForms: a foreign ID of Consul's form is decided the same however it is asked about, and
// of the mesh's own trust domain intentions by ID are about nobody.
func TestForeignForms(t *testing.T) {
	own := identity.ID(workload("web").String())
	p := intention.Compile(identity.NewName("api"), []intention.Intention{about(foreignY, "api", intention.Allow), about(own, "api", intention.Allow)},
		intention.Scope{TrustDomain: ours, Federated: []spiffeid.TrustDomain{tdB, ours}, Datacenters: []string{"dc1"}})
	service, _ := foreignY.Service()
	if a, b := p.DecideID(foreignY), p.Decide(service); !a.Allowed() || a != b {
		t.Errorf("DecideID = %+v, Decide = %+v", a, b)
	}
	if d := p.DecideID(own); d.Allowed() || d.Reason != intention.ByDefault {
		t.Errorf("DecideID(%s) = %+v", own, d)
	}
	if d := p.DecideID(identity.ID(ours.IDString() + "/agent/client/dc/dc1/id/n")); d.Allowed() || d.Reason != intention.NoService {
		t.Errorf("an agent: %+v", d)
	}
	if d := p.DecideID(""); d.Allowed() {
		t.Errorf("nobody: %+v", d)
	}
	if d := (*intention.Policy)(nil).DecideID(foreignY); d.Allowed() {
		t.Errorf("nil: %+v", d)
	}
	if got := slices.Collect(p.Foreign()); !cmp.Equal(got, []identity.ID{foreignY}) {
		t.Errorf("Foreign = %v", got)
	}
}

// TestForeignEntries: of two entries for one destination both have to allow a foreign ID; a bound is one; and what is held is
// not let in.
func TestForeignEntries(t *testing.T) {
	scope := intention.Scope{TrustDomain: ours, Federated: []spiffeid.TrustDomain{tdB, spiffeid.RequireTrustDomainFromString("td-c.example")}, Datacenters: []string{"dc1"}}
	api := identity.NewName("api")
	draw := func(t *rapid.T, label string) (all []intention.Intention) {
		for _, id := range []identity.ID{foreignX, foreignY, foreignZ} {
			switch rapid.IntRange(0, 2).Draw(t, label+string(id)) {
			case 1:
				all = append(all, about(id, "api", intention.Allow))
			case 2:
				all = append(all, about(id, "api", intention.Deny))
			}
		}
		return append(all, intention.Intention{Source: source("web"), Destination: api, Action: intention.Allow})
	}
	says := func(all []intention.Intention, id identity.ID) intention.Action {
		return intention.Compile(api, all, scope).DecideID(id).Action
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		shared := intention.Share(api, nil, scope)
		both, before := shared.PolicyEntries(api, a, b), shared.Policy(api, b)
		held, _ := shared.Hold(shared.Policy(api, a), before, nil, "the file is taken")
		bounded := shared.Policy(api, a).Within(before.Allowed())
		for _, id := range []identity.ID{foreignX, foreignY, foreignZ} {
			want := min(says(a, id), says(b, id))
			if got := both.DecideID(id).Action; got != want {
				t.Fatalf("both entries: %s is %s, want %s", id, got, want)
			}
			if got := shared.Policy(api, held).DecideID(id).Action; got != want {
				t.Fatalf("held: %s is %s, want %s", id, got, want)
			}
			if got := bounded.DecideID(id).Action; got != want {
				t.Fatalf("bounded: %s is %s, want %s", id, got, want)
			}
		}
		within := true
		for _, id := range []identity.ID{foreignX, foreignY, foreignZ} {
			within = within && says(b, id) <= says(a, id)
		}
		if got := before.Allowed().Within(shared.Policy(api, a).Allowed()); got != within {
			t.Fatalf("access is taken away: %t, want %t", !got, !within)
		}
	})
}
