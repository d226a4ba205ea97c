package xds

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func policy(td string, fallback intention.Action, allowed ...string) *intention.Policy {
	dst := identity.NewName("api")
	var all []intention.Intention
	for _, s := range allowed {
		all = append(all, intention.Intention{Source: intention.Source{Name: identity.NewName(s)}, Destination: dst, Action: intention.Allow})
	}
	return catalogtest.Policy(dst, all, intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString(td), Datacenters: []string{"dc1"}, Default: fallback})
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
			g, err := openGenerations("", "", &sequence.Numbers{}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			now := time.Unix(1_000_000, 0)
			var last uint64
			var got strings.Builder
			for _, p := range tt.policies {
				s, raised, again := g.observe(identity.NewName("api"), p, drains(time.Second), now)
				n := s.number
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

func drains(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func inDatacenters(dcs ...string) *intention.Policy {
	return catalogtest.Policy(identity.NewName("api"), nil, intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString("a"), Datacenters: dcs, Default: intention.Allow})
}

// A rename that is put off is not forgotten when the trust domain changes meanwhile: nothing of the
// old one is within the new one.
func TestObserveWhileARenameIsPutOff(t *testing.T) {
	g, err := openGenerations("", "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	dst, now := identity.NewName("api"), time.Unix(1_000_000, 0)
	observe := func(p *intention.Policy) (uint64, bool, time.Time) {
		s, raised, again := g.observe(dst, p, drains(time.Minute), now)
		return s.number, raised, again
	}
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

// reopened records g and returns what a restart finds.
func reopened(t *testing.T, g *generations, path string) *generations {
	t.Helper()
	r := recorder{path: path, file: atomicfile.Replace, done: make(chan recording, 1), left: new(atomic.Bool)}
	if r.start(g, time.Now(), func(f func()) { f() }); r.busy {
		r.finish(g, <-r.done, time.Now())
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	again, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestGenerationsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "generations-2.json")
	g, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	was, _, _ := g.observe(identity.NewName("api"), policy("a", intention.Deny, "x"), drains(time.Second), now)
	again := reopened(t, g, path)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v, want one", len(entries), err)
	}
	if got, raised, _ := again.observe(identity.NewName("api"), policy("a", intention.Deny, "x", "y"), drains(time.Second), now.Add(time.Hour)); got.number != was.number || raised {
		t.Errorf("generation %d, raised %t, want %d as it was", got.number, raised, was.number)
	}

	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty":           "",
		"cut off":         string(whole[:len(whole)/2]),
		"not ours":        `{"version":2,"destinations":{"api":null}}`,
		"no generation":   `{"version":2,"destinations":{"api":{"in":["x"]}}}`,
		"no such base":    `{"version":2,"destinations":{"api":{"generation":1,"base":0}}}`,
		"no version":      `{"destinations":{}}`,
		"something else":  `[]`,
		"a newer version": `{"version":3}`,
	}
	for name, text := range bad {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delet") || !strings.Contains(err.Error(), "once") {
			t.Errorf("%s: %v, want what to do with %s", name, err, path)
		}
	}
}

// Whatever bit of it changes, the file is not taken for what was written. One without a checksum, as
// a release before wrote, is.
func TestDamagedGenerationsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "generations-2.json")
	g, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	g.observe(identity.NewName("api"), policy("a", intention.Deny, "x"), drains(time.Second), time.Unix(1_000_000, 0))
	reopened(t, g, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := func(text []byte) error {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
		return err
	}
	if err := open(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[n] ^= 1 << bit
			if open(damaged) == nil {
				t.Errorf("with bit %d of byte %d (%q) flipped it is taken", bit, n, whole[n])
			}
		}
	}
	json, _, _ := bytes.Cut(whole, []byte("sha256 "))
	if err := open(json); err != nil {
		t.Errorf("without a checksum: %v", err)
	}
}

// What a release before this one has written is read once, and goes when it is written in the new
// form.
func TestOlderGenerationsFile(t *testing.T) {
	dir := t.TempDir()
	older := filepath.Join(dir, olderName)
	const text = `{"version":1,"destinations":{"api":{"generation":7,"allowed":{"trust_domain":"a","datacenters":["dc1"],"except":["x"]}}}}`
	if err := os.WriteFile(older, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "generations-2.json")
	g, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, raised, _ := g.observe(identity.NewName("api"), policy("a", intention.Deny, "x"), drains(0), time.Unix(1_000_000, 0))
		if told := g.publishable(s); s.number != 7 || raised || told != s.policy || s.unnamed() {
			t.Errorf("generation %d, raised %t, told %v, want 7 as it was", s.number, raised, told)
		}
		g = reopened(t, g, path)
		if _, err := os.Stat(older); err == nil {
			t.Error("the older file is still there: an older release would believe it")
		}
	}
	if s, raised, _ := g.observe(identity.NewName("api"), policy("a", intention.Deny), drains(0), time.Unix(1_000_000, 0)); !raised || s.number <= 7 {
		t.Errorf("generation %d, raised %t, want that access was taken away", s.number, raised)
	}
}

// Ten thousand destinations of which the same is said share what is said, in memory and on disk.
func TestGenerationsShareTheirBase(t *testing.T) {
	var all []intention.Intention
	for i := range 2000 {
		all = append(all, intention.Intention{Source: intention.Source{Name: identity.NewName(fmt.Sprint("s", i))}, Destination: identity.NewName("*"), Action: intention.Allow})
	}
	scope := intention.Scope{TrustDomain: spiffeid.RequireTrustDomainFromString("a"), Datacenters: []string{"dc1"}}
	path := filepath.Join(t.TempDir(), "generations-2.json")
	g, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1000, 2000} { // and once more, with more of them allowed
		shared := intention.Share(identity.NewName("x"), all[:n], scope)
		for i := range 1000 {
			dst := identity.NewName(fmt.Sprint("s", i))
			g.observe(dst, shared.Policy(dst, nil), drains(0), time.Unix(1_000_000, 0))
		}
		g = reopened(t, g, path)
		bases := map[*intention.Base]bool{}
		for _, s := range g.byDst {
			bases[s.allowed.Base] = true
		}
		info, err := os.Stat(path)
		if err != nil || len(bases) != 1 || info.Size() > 1000*50+int64(n)*10 {
			t.Errorf("%d bases, %d bytes, %v", len(bases), info.Size(), err)
		}
	}
}

// Between a grant and its record those alone are let in who are recorded, and a revocation waits
// for nothing.
func TestTelling(t *testing.T) {
	const deny = intention.Deny
	path := filepath.Join(t.TempDir(), "generations-2.json")
	g, err := openGenerations(path, "", &sequence.Numbers{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	dst, now := identity.NewName("api"), time.Unix(1_000_000, 0)
	r := recorder{path: path, file: atomicfile.Replace, done: make(chan recording, 1), left: new(atomic.Bool)}
	var write func()
	start := func() { write = nil; r.start(g, now, func(f func()) { write = f }) }
	end := func() { write(); r.finish(g, <-r.done, now) }
	const publishAll, publishBounded, publishUnnamed = "all", "bounded", "unnamed"
	check := func(what string, p *intention.Policy, want string, in string, out string) {
		t.Helper()
		s, _, _ := g.observe(dst, p, drains(0), now)
		bounded := g.publishable(s)
		how := publishAll
		if bounded != p {
			how = publishBounded
		}
		if s.unnamed() {
			how = publishUnnamed
		}
		if how != want {
			t.Fatalf("%s: told %s, want %s", what, how, want)
		}
		for names, allowed := range map[string]bool{in: true, out: false} {
			for n := range strings.FieldsSeq(names) {
				src := identity.Service{TrustDomain: spiffeid.RequireTrustDomainFromString("a"), Datacenter: "dc1", Name: identity.NewName(n)}
				if bounded.Decide(src).Allowed() != allowed {
					t.Errorf("%s: %s allowed: %t, want %t", what, n, !allowed, allowed)
				}
			}
		}
		now = now.Add(time.Minute)
	}
	check("a first name", policy("a", deny, "x"), publishUnnamed, "x", "y")
	start()
	check("a first name that is being recorded", policy("a", deny, "x"), publishUnnamed, "x", "y")
	check("a grant meanwhile", policy("a", deny, "x", "q"), publishUnnamed, "x", "q")
	end()
	check("a recorded name", policy("a", deny, "x", "y"), publishBounded, "x", "y")
	start()
	end()
	check("a revocation", policy("a", deny, "x"), publishAll, "x", "y")
	start()
	end()
	check("a grant", policy("a", deny, "x", "y"), publishBounded, "x", "y")
	start()
	check("a grant during the recording of another", policy("a", deny, "x", "y", "z"), publishBounded, "x", "y z")
	end()
	check("after that", policy("a", deny, "x", "y", "z"), publishBounded, "x y", "z")
	check("a revocation meanwhile", policy("a", deny, "y", "z"), publishBounded, "y", "x z")
	check("a grant under a name that is not recorded", policy("a", deny, "y", "z", "u"), publishBounded, "y", "x z u")
	start()
	check("one that is in the record, but not in what is being written", policy("a", deny, "y", "z", "u", "x"), publishBounded, "y", "x z u")
	end()
	check("after that, too", policy("a", deny, "y", "z", "u", "x"), publishBounded, "y z u", "x")
	check("revocations alone", policy("a", deny, "z", "u"), publishAll, "z u", "x y")

	// The disk does not take it: all goes out, and the next start gives another name.
	r.path, r.unrecorded = filepath.Join(path, "no-directory"), filepath.Join(t.TempDir(), "unrecorded")
	last := g.byDst["api"].number
	start()
	end()
	check("after a failure", policy("a", deny, "z", "u", "v"), publishAll, "z u v", "x")
	if r.err == nil || r.retryAt.IsZero() {
		t.Error("the failure is not known")
	}
	restarted, err := openGenerations(path, r.unrecorded, g.numbers, now)
	if err != nil {
		t.Fatal(err)
	}
	if s := restarted.byDst["api"]; s.number <= last || !restarted.dirty {
		t.Errorf("generation %d after a restart, want more than %d", s.number, last)
	}
	now = r.retryAt
	r.path = path
	start()
	check("while it may succeed", policy("a", deny, "z", "u", "v", "t"), publishBounded, "z u v", "t")
	end()
	if _, err := os.Stat(r.unrecorded); err == nil || r.err != nil || g.byDst["api"].named {
		t.Errorf("recorded at last, and %s is still there; %v", r.unrecorded, r.err)
	}
}
