package xds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func policy(td string, fallback intention.Action, allowed ...string) *intention.Policy {
	dst := identity.NewName("api")
	var all []intention.Intention
	for _, s := range allowed {
		all = append(all, intention.Intention{Source: intention.Source{Name: identity.NewName(s)}, Destination: dst, Action: intention.Allow})
	}
	return intention.Compile(dst, all, intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString(td), Datacenters: []string{"dc1"}, Default: fallback})
}

func TestObserve(t *testing.T) {
	const allow, deny = intention.Allow, intention.Deny
	for name, tt := range map[string]struct {
		policies []*intention.Policy
		renames  string // r: renamed, -: not; the first never is
	}{
		"nothing changes":                     {[]*intention.Policy{policy("a", deny, "x"), policy("a", deny, "x")}, "--"},
		"loosened":                            {[]*intention.Policy{policy("a", deny, "x"), policy("a", deny, "x", "y"), policy("a", allow)}, "---"},
		"tightened":                           {[]*intention.Policy{policy("a", deny, "x", "y"), policy("a", deny, "x")}, "-r"},
		"loosened, then tightened":            {[]*intention.Policy{policy("a", deny, "x"), policy("a", deny, "x", "y"), policy("a", deny, "x")}, "--r"},
		"one for another":                     {[]*intention.Policy{policy("a", deny, "x"), policy("a", deny, "y")}, "-r"},
		"a flipped default":                   {[]*intention.Policy{policy("a", allow), policy("a", deny, "x")}, "-r"},
		"no policy any more":                  {[]*intention.Policy{policy("a", deny, "x"), nil, nil}, "-r-"},
		"another trust domain":                {[]*intention.Policy{policy("a", deny, "x"), policy("b", deny, "x")}, "-r"},
		"tightened twice, each time anew":     {[]*intention.Policy{policy("a", deny, "x", "y", "z"), policy("a", deny, "x", "y"), policy("a", deny, "x")}, "-rr"},
		"tightened, and the same again":       {[]*intention.Policy{policy("a", deny, "x", "y"), policy("a", deny, "x"), policy("a", deny, "x")}, "-r-"},
		"from nobody to somebody and back":    {[]*intention.Policy{policy("a", deny), policy("a", deny, "x"), policy("a", deny)}, "--r"},
		"a datacenter that is no longer ours": {[]*intention.Policy{inDatacenters("dc1", "dc2"), inDatacenters("dc1")}, "-r"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := openGenerations("")
			if err != nil {
				t.Fatal(err)
			}
			now := time.Unix(1_000_000, 0)
			var last uint64
			var got strings.Builder
			for _, p := range tt.policies {
				n, raised, again := g.observe(identity.NewName("api"), p, time.Second, now)
				if !again.IsZero() {
					t.Errorf("a rename was put off until %s", again)
				}
				if raised != (last != 0 && n > last) || n < last {
					t.Errorf("generation %d after %d, raised %t", n, last, raised)
				}
				got.WriteString(map[bool]string{true: "r", false: "-"}[raised])
				last = n
				now = now.Add(time.Minute)
			}
			if got.String() != tt.renames {
				t.Errorf("renames %s, want %s", got.String(), tt.renames)
			}
		})
	}
}

func inDatacenters(dcs ...string) *intention.Policy {
	return intention.Compile(identity.NewName("api"), nil, intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString("a"), Datacenters: dcs, Default: intention.Allow})
}

// A rename that is put off is not forgotten when the trust domain changes meanwhile: nothing of the old one is within the new one.
func TestObserveWhileARenameIsPutOff(t *testing.T) {
	g, err := openGenerations("")
	if err != nil {
		t.Fatal(err)
	}
	dst, now := identity.NewName("api"), time.Unix(1_000_000, 0)
	observe := func(p *intention.Policy) (uint64, bool, time.Time) { return g.observe(dst, p, time.Minute, now) }
	observe(policy("a", intention.Deny, "x", "y"))
	first, raised, _ := observe(policy("a", intention.Deny, "x"))
	if !raised {
		t.Fatal("not renamed")
	}
	for range 2 { // the second time the same policy
		n, raised, again := observe(policy("b", intention.Deny, "x"))
		if raised || n != first || !again.Equal(now.Add(renameEvery)) {
			t.Fatalf("generation %d, raised %t, again at %s", n, raised, again)
		}
	}
	now = now.Add(renameEvery)
	if n, raised, again := observe(policy("b", intention.Deny, "x")); !raised || n <= first || !again.IsZero() {
		t.Errorf("generation %d, raised %t, again at %s", n, raised, again)
	}
}

func TestGenerationsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "generations.json")
	g, err := openGenerations(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	n, _, _ := g.observe(identity.NewName("api"), policy("a", intention.Deny, "x"), time.Second, now)
	if err := g.save(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v, want one", len(entries), err)
	}
	again, err := openGenerations(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, raised, _ := again.observe(identity.NewName("api"), policy("a", intention.Deny, "x", "y"), time.Second, now.Add(time.Hour)); got != n || raised {
		t.Errorf("generation %d, raised %t, want %d as it was", got, raised, n)
	}

	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty":           "",
		"cut off":         string(whole[:len(whole)/2]),
		"not ours":        `{"version":1,"destinations":{"api":null}}`,
		"no generation":   `{"version":1,"destinations":{"api":{"allowed":{}}}}`,
		"no version":      `{"destinations":{}}`,
		"something else":  `[]`,
		"a newer version": `{"version":2}`,
	}
	for name, text := range bad {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openGenerations(path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delet") || !strings.Contains(err.Error(), "once") {
			t.Errorf("%s: %v, want what to do with %s", name, err, path)
		}
	}
}
