package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestApplications: who has fetched its leaf holds the retirement, and the activation only where the old root cannot sign the new one.
func TestApplications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, gate := newFakeUpstream(t), &fakeGate{}
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: gate, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}})
		defer mustClose(t, c)
		defer run(t, c)()
		synctest.Wait()
		app, proxy := Holder{Name: "uid 1000", Application: true}, Holder{Name: "proxy a"}
		for _, tt := range []struct {
			to    string
			holds bool
		}{{Builtin, false}, {"vault", false}, {Builtin, true}} {
			gate.set([]Holder{app, proxy}, []Holder{app})
			if err := c.Rotate(RotateOptions{To: tt.to}); err != nil {
				t.Fatal(err)
			}
			before := published(t, c)[:1]
			time.Sleep(time.Minute)
			if phaseOf(c) != Preparing {
				t.Fatalf("to %s: phase %q while a proxy is not told", tt.to, phaseOf(c))
			}
			gate.set([]Holder{app}, []Holder{app})
			time.Sleep(time.Minute)
			if holds := phaseOf(c) == Preparing; holds != tt.holds {
				t.Fatalf("to %s: phase %q while an application is not told", tt.to, phaseOf(c))
			}
			if tt.holds {
				gate.set(nil, []Holder{app})
				time.Sleep(time.Minute)
			} else {
				mustTrust(t, c, oneLeaf(t, c, "web"), before, published(t, c))
			}
			for _, outdated := range [][]Holder{{app}, nil} { // not told is as bad as not renewed
				gate.set([]Holder{app}, outdated)
				time.Sleep(time.Hour)
				if w := c.Status().Rotation.Waiting; phaseOf(c) != Activating || len(w) != 1 || w[0].Name != app.Name {
					t.Fatalf("to %s: phase %q, waits for %v", tt.to, phaseOf(c), w)
				}
			}
			gate.set(nil, nil)
			time.Sleep(time.Minute)
			if phaseOf(c) != Idle || len(published(t, c)) != 1 {
				t.Fatalf("to %s: %+v", tt.to, c.Status())
			}
		}
	})
}

// TestToldOfOne: of two roots of a provider only the one that the old root has signed is used before an application was told of both.
func TestToldOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plugin, gate := newFakeUpstream(t), &fakeGate{}
		one, two := plugin.signer, newForeignCA(t, 10*365*24*time.Hour)
		plugin.roots.Set([]*x509.Certificate{one.cert, two.cert})
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: gate, Upstreams: map[string]UpstreamConfig{"plugin": {Upstream: plugin, EachLeaf: true}}})
		defer mustClose(t, c)
		defer run(t, c)()
		synctest.Wait()
		app := []Holder{{Name: "uid 1000", Application: true}}
		gate.set(app, app)
		before := published(t, c)
		if err := c.Rotate(RotateOptions{To: "plugin"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mustTrust(t, c, oneLeaf(t, c, "web"), before)
		plugin.use(two)
		time.Sleep(time.Minute)
		if _, _, err := issuerOf(t, c).issue(t.Context(), service(c.TrustDomain(), "web").ID()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a leaf under the root that the application does not know: %v", err)
		}
		gate.set(nil, app)
		time.Sleep(time.Minute)
		mustTrust(t, c, oneLeaf(t, c, "web"), before, []*x509.Certificate{two.cert})
		gate.set(nil, nil)
		time.Sleep(time.Minute)
		if s := c.Status(); phaseOf(c) != Idle || s.Roots[0].SHA256 != fingerprint(two.cert) || s.Problem != "" {
			t.Errorf("%+v", s)
		}
	})
}

// TestNewRootWhileActivating: a provider that brings another root while a rotation to it waits for somebody with an old leaf goes on
// signing, under that root when all know it; when the rotation has ended what is left of it is done.
func TestNewRootWhileActivating(t *testing.T) {
	for _, each := range []bool{false, true} {
		for _, signs := range []bool{false, true} {
			t.Run(fmt.Sprintf("each leaf %t, signs %t", each, signs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { newRootWhileActivating(t, each, signs) })
			})
		}
	}
}

func newRootWhileActivating(t *testing.T, each, signs bool) {
	t.Helper()
	plugin, gate := newFakeUpstream(t), &fakeGate{}
	cfg := Config{
		Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, IntermediateTTL: 100 * time.Hour, Gate: gate, FederationHint: time.Minute,
		Upstreams: map[string]UpstreamConfig{"plugin": {Upstream: plugin, EachLeaf: each}},
	}
	c := mustOpen(t, cfg)
	stop := run(t, c)
	synctest.Wait()
	silent := []Holder{{Name: "proxy silent"}}
	gate.set(nil, silent)
	builtin := published(t, c)
	if err := c.Rotate(RotateOptions{To: "plugin"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Minute)
	if phaseOf(c) != Activating {
		t.Fatalf("phase %q", phaseOf(c))
	}
	one, two := plugin.signer, newForeignCA(t, 10*365*24*time.Hour)
	gate.set(silent, silent)
	plugin.roots.Set([]*x509.Certificate{one.cert, two.cert})
	time.Sleep(time.Minute)
	if got := published(t, c); len(got) != 3 {
		t.Fatalf("%d roots, want the built-in one and both of the plug-in", len(got))
	}
	stop()
	mustClose(t, c)
	c = mustOpen(t, cfg)
	stop = run(t, c)
	synctest.Wait()
	mustTrust(t, c, oneLeaf(t, c, "web"), builtin, []*x509.Certificate{one.cert})
	// Nobody is left who does not know it: three refresh hints later it may sign.
	gate.set(nil, silent)
	time.Sleep(2 * time.Minute)
	if c.authority.record().isToldOf(fingerprint(two.cert)) {
		t.Error("other trust domains had no time to fetch it")
	}
	time.Sleep(2 * time.Minute)
	if signs {
		plugin.use(two)
	}
	web := watch(t, c, "web")
	if each && signs {
		time.Sleep(time.Minute)
		mustTrust(t, c, oneLeaf(t, c, "web"), builtin, []*x509.Certificate{two.cert})
	}
	time.Sleep(10 * time.Hour)
	if phaseOf(c) != Activating {
		t.Fatalf("phase %q", phaseOf(c))
	}
	mustTrust(t, c, web.last(), published(t, c), builtin)
	gate.set(nil, nil)
	time.Sleep(time.Hour)
	synctest.Wait()
	s := c.Status()
	if s.Rotation != nil || s.Problem != "" || len(s.Roots) != 2 {
		t.Errorf("%+v %+v", s, s.Rotation)
	}
	if signed := s.Roots[0].SHA256 == fingerprint(two.cert); signed != (each && signs) {
		t.Errorf("signed under the new root: %t", signed)
	}
	web.stop()
	stop()
	mustClose(t, c)
}

// TestLeavesProvider: a provider with a root under which it never signs can be left.
func TestLeavesProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
		c := mustOpen(t, Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), Gate: &fakeGate{}, Provider: "vault",
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin}},
		})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		vault.roots.Set([]*x509.Certificate{vault.signer.cert, newForeignCA(t, 10*365*24*time.Hour).cert})
		time.Sleep(time.Hour)
		if phaseOf(c) != Preparing {
			t.Fatalf("phase %q", phaseOf(c))
		}
		if err := c.Cancel(); err == nil || !strings.Contains(err.Error(), "vault has a new root, which is followed: take it out there, or rotate to another provider") {
			t.Errorf("Cancel = %v", err)
		}
		if err := c.Rotate(RotateOptions{To: "nobody"}); err == nil || phaseOf(c) != Preparing || len(published(t, c)) != 2 {
			t.Errorf("Rotate = %v, phase %q", err, phaseOf(c))
		}
		for _, to := range []string{"plugin", Builtin} {
			if err := c.Rotate(RotateOptions{To: to}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if s := c.Status(); s.Rotation != nil || s.Provider != to || len(s.Roots) != 1 || s.Problem != "" {
				t.Fatalf("%+v %+v", s, s.Rotation)
			}
		}
	})
}

// TestSixteenRoots: more are in no bundle, whoever brings them, and what there is goes on.
func TestSixteenRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
		c := mustOpen(t, Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), Gate: &fakeGate{},
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin}},
		})
		defer mustClose(t, c)
		defer run(t, c)()
		with := func(u *fakeUpstream, n int) {
			t.Helper()
			list := []*x509.Certificate{u.signer.cert}
			for range n - 1 {
				list = append(list, newForeignCA(t, 10*365*24*time.Hour).cert)
			}
			u.roots.Set(list)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		with(vault, maxRoots) // with the built-in one
		if err := c.Rotate(RotateOptions{To: "vault"}); err == nil || !strings.Contains(err.Error(), "17 roots, with those of vault: 16 at most, as each sidecar has all: remove those that sign nothing there") {
			t.Errorf("Rotate = %v", err)
		}
		with(vault, maxRoots+1)
		if err := c.Rotate(RotateOptions{To: "vault"}); err == nil || !strings.Contains(err.Error(), "vault has 17 roots: 16 at most") || len(published(t, c)) != 1 {
			t.Errorf("Rotate = %v, %d roots", err, len(published(t, c)))
		}
		with(vault, maxRoots-1)
		vault.set(ErrUnavailable)
		if err := c.Rotate(RotateOptions{To: "vault"}); err != nil || len(published(t, c)) != maxRoots {
			t.Fatalf("Rotate = %v, %d roots", err, len(published(t, c)))
		}
		known, _ := vault.roots.Load()
		further := newForeignCA(t, 10*365*24*time.Hour).cert
		vault.roots.Set(append(slices.Clone(known), further))
		time.Sleep(time.Minute)
		if s := c.Status(); phaseOf(c) != Preparing || len(s.Roots) != maxRoots || !strings.Contains(s.Problem, "vault has 1 roots that are new, and there are 16: 16 at most") {
			t.Fatalf("%+v %+v", s, s.Rotation)
		}
		vault.set(nil) // the others go on
		time.Sleep(time.Hour)
		if s := c.Status(); phaseOf(c) != Preparing || s.Provider != "vault" || len(s.Roots) != maxRoots || s.Rotation.From != "vault" || s.Problem != "" {
			t.Fatalf("%+v %+v", s, s.Rotation)
		}
		vault.roots.Set(append(slices.Clone(known), further, newForeignCA(t, 10*365*24*time.Hour).cert))
		time.Sleep(time.Minute)
		if s := c.Status(); len(s.Roots) != maxRoots || !strings.Contains(s.Problem, "vault has 17 roots: 16 at most") {
			t.Fatalf("%+v %+v", s, s.Rotation)
		}
		svid := oneLeaf(t, c, "web")
		mustTrust(t, c, svid, published(t, c))
		vault.roots.Set([]*x509.Certificate{vault.signer.cert})
		time.Sleep(time.Hour)
		if s := c.Status(); s.Rotation != nil || len(s.Roots) != 1 || s.Problem != "" {
			t.Fatalf("%+v %+v", s, s.Rotation)
		}
		mustTrust(t, c, svid, published(t, c))
	})
}
