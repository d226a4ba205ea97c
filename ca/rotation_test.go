package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/sds"
)

// trusts reports whether peers with a bundle accept a leaf.
func trusts(t testing.TB, c *CA, bundle []*x509.Certificate, svid *sds.SVID) error {
	t.Helper()
	id := service(c.TrustDomain(), "web").ID()
	return certpath.VerifyChain(svid.Certificates, bundle, certpath.Wanted{ID: id, Key: svid.PrivateKey.Public(), Now: time.Now()})
}

// published is the bundle that holders get.
func published(t testing.TB, c *CA) []*x509.Certificate {
	t.Helper()
	roots, ok := c.Roots().Load()
	if !ok {
		t.Fatal("no roots")
	}
	var list []*x509.Certificate
	for _, r := range roots.List() {
		list = append(list, r.Certificate)
	}
	return list
}

func phaseOf(c *CA) Phase {
	if r := c.Status().Rotation; r != nil {
		return r.Phase
	}
	return Idle
}

func filesOf(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestRotate goes through the phases: who is waited for, what each leaf is accepted by, and what is left on the disk.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		silent := []Holder{{Name: "proxy silent", Reason: "it has not accepted the new root"}}
		gate := &fakeGate{untold: silent, outdated: silent}
		c := mustOpen(t, Config{Dir: dir, TrustDomain: trustDomain(t), Gate: gate})
		defer mustClose(t, c)
		defer run(t, c)()
		web := watch(t, c, "web")
		defer web.stop()
		before, first := published(t, c), web.last()
		oldFile := readFile(t, dir, rootFile)

		if err := c.Rotate(RotateOptions{Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		both := published(t, c)
		if active, _ := mustRoots(t, c).Active(); len(both) != 2 || !active.Certificate.Equal(before[0]) {
			t.Fatalf("%d roots with the active one %s after Rotate, want two and the old one", len(both), active.ID)
		}
		if err := c.Rotate(RotateOptions{}); !errors.Is(err, ErrRotating) {
			t.Errorf("a second Rotate: %v, want ErrRotating", err)
		}
		time.Sleep(time.Hour)
		status := c.Status()
		if status.Rotation == nil || status.Rotation.Phase != Preparing || !status.Rotation.CrossSigned || cmp.Diff(silent, status.Rotation.Waiting) != "" || len(web.all()) != 1 {
			t.Fatalf("status %+v of %+v, want that it prepares and waits", status.Rotation, status)
		}

		gate.set(nil, silent)
		time.Sleep(9 * time.Second)
		if phaseOf(c) != Preparing {
			t.Error("activated before 10 s after the last has accepted")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if phaseOf(c) != Activating {
			t.Fatalf("phase %q, want activate", phaseOf(c))
		}
		second := web.last()
		var after []*x509.Certificate
		for _, root := range both {
			if !root.Equal(before[0]) {
				after = append(after, root)
			}
		}
		if len(second.Certificates) != 3 || second == first {
			t.Fatalf("a chain of %d after the activation, want leaf, intermediate and cross-signature", len(second.Certificates))
		}
		for name, bundle := range map[string][]*x509.Certificate{"old": before, "both": both, "new": after} {
			if err := trusts(t, c, bundle, second); err != nil {
				t.Errorf("leaf of the new root, roots %s: %v", name, err)
			}
		}
		if active, _ := mustRoots(t, c).Active(); !active.Certificate.Equal(after[0]) || len(published(t, c)) != 2 {
			t.Error("the new root is not the active one of two")
		}

		gate.set(nil, nil)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if phaseOf(c) != Idle || len(published(t, c)) != 1 {
			t.Fatalf("phase %q and %d roots, want none and one", phaseOf(c), len(published(t, c)))
		}
		third := oneLeaf(t, c, "web")
		if len(third.Certificates) != 2 {
			t.Errorf("a chain of %d after the retirement, want no cross-signature", len(third.Certificates))
		}
		for _, svid := range []*sds.SVID{second, third} {
			if err := trusts(t, c, published(t, c), svid); err != nil {
				t.Error(err)
			}
		}
		if err := trusts(t, c, published(t, c), first); err == nil {
			t.Error("the old root's leaf is accepted after the retirement")
		}
		if web.last() != second {
			t.Error("leafs were made anew for the sake of the cross-signature alone")
		}
		oldRoot := pairFile(rootFile, fingerprint(before[0]))
		if diff := cmp.Diff([]string{intermediateFile, oldRoot, rootFile, recordFile}, filesOf(t, dir)); diff != "" {
			t.Error(diff)
		}
		if string(readFile(t, dir, oldRoot)) != string(oldFile) {
			t.Error("the old root's file is another one")
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if diff := cmp.Diff([]string{intermediateFile, rootFile}, filesOf(t, dir)); diff != "" {
			t.Errorf("a day later: %s", diff)
		}
	})
}

func mustRoots(t testing.TB, c *CA) *sds.Roots {
	t.Helper()
	r, ok := c.Roots().Load()
	if !ok {
		t.Fatal("no roots")
	}
	return r
}

// TestRotateByItself: the root is replaced before its end, without a Gate a phase lasts a leaf's life, and leafs are good all the while.
func TestRotateByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		cfg := Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: 30 * time.Minute}
		c := mustOpen(t, cfg)
		defer mustClose(t, c)
		defer run(t, c)()
		web := watch(t, c, "web")
		defer web.stop()
		roots := map[string]bool{}
		for range 2 * 60 * 12 {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if err := trusts(t, c, published(t, c), web.last()); err != nil {
				t.Fatal(err)
			}
			if problem := c.Status().Problem; problem != "" {
				t.Fatal(problem)
			}
			active, _ := mustRoots(t, c).Active()
			roots[active.ID] = true
		}
		if len(roots) < 5 || len(roots) > 7 {
			t.Errorf("%d roots of 30 minutes in two hours", len(roots))
		}
	})
}

// TestOverride: who is named is not waited for if the old root signs the new one.
func TestOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &fakeGate{untold: []Holder{{Name: "proxy a"}, {Name: "proxy b"}}, outdated: []Holder{{Name: "proxy a", Connected: true}, {Name: "proxy b"}}}
		c := mustOpen(t, Config{Dir: caDir(t), Gate: gate})
		defer mustClose(t, c)
		defer run(t, c)()
		if err := c.Override([]string{"proxy a"}, false); err == nil {
			t.Error("Override without a rotation")
		}
		if err := c.Rotate(RotateOptions{Override: []string{"proxy a"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if w := c.Status().Rotation.Waiting; len(w) != 1 || w[0].Name != "proxy b" {
			t.Errorf("waits for %v, want b alone", w)
		}
		if err := c.Override([]string{"proxy b"}, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if phaseOf(c) != Activating {
			t.Fatalf("phase %q, want activate", phaseOf(c))
		}
		if err := c.Override([]string{"proxy b"}, true); err == nil || !strings.Contains(err.Error(), "nobody is passed over") {
			t.Errorf("Override of the retirement: %v", err)
		}
		time.Sleep(time.Hour)
		if phaseOf(c) != Activating {
			t.Fatal("the old root left while somebody has a leaf of it")
		}
		if err := c.Distrust(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if phaseOf(c) != Idle {
			t.Errorf("phase %q after Distrust, want none", phaseOf(c))
		}
	})
}

// TestDistrust: the silent are not waited for, the connected for a while.
func TestDistrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holders := []Holder{{Name: "proxy silent"}, {Name: "proxy slow", Connected: true}}
		gate := &fakeGate{untold: holders, outdated: holders}
		c := mustOpen(t, Config{Dir: caDir(t), Gate: gate})
		defer mustClose(t, c)
		defer run(t, c)()
		if err := c.Rotate(RotateOptions{Distrust: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if w := c.Status().Rotation.Waiting; phaseOf(c) != Preparing || len(w) != 1 || w[0].Name != "proxy slow" {
			t.Errorf("phase %q, waits for %v, want the connected one", phaseOf(c), w)
		}
		gate.set(holders[:1], holders[:1])
		time.Sleep(11 * time.Second)
		if phaseOf(c) != Activating {
			t.Errorf("phase %q, want activate", phaseOf(c))
		}
		time.Sleep(11 * time.Second)
		if phaseOf(c) != Idle {
			t.Errorf("phase %q, want none", phaseOf(c))
		}
	})
}

// TestFederationHint: other trust domains are given three refresh hints.
func TestFederationHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Config{Dir: caDir(t), Gate: &fakeGate{}, FederationHint: time.Minute})
		defer mustClose(t, c)
		defer run(t, c)()
		if err := c.Rotate(RotateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Minute - time.Second)
		if r := c.Status().Rotation; r == nil || r.Phase != Preparing || time.Until(r.NotBefore) > 2*time.Second {
			t.Errorf("status %+v before three hints", r)
		}
		time.Sleep(7 * time.Second)
		if phaseOf(c) != Activating {
			t.Errorf("phase %q after three hints, want activate", phaseOf(c))
		}
	})
}

// TestNoRotationOnAFullDisk: nothing has changed, and it can be tried again.
func TestNoRotationOnAFullDisk(t *testing.T) {
	for _, operation := range []string{"create", "write", "sync root", "sync state", "rename root", "rename state", "sync directory"} {
		full := true
		dir := caDir(t)
		mustClose(t, mustOpen(t, Config{Dir: dir}))
		c, err := open(Config{Dir: dir}, func(op string) error {
			if full && strings.HasPrefix(op, operation) {
				return errCrash
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Rotate(RotateOptions{}); !errors.Is(err, errCrash) {
			t.Errorf("%s: Rotate = %v", operation, err)
		}
		if phaseOf(c) != Idle || len(published(t, c)) != 1 {
			t.Errorf("%s: something has changed", operation)
		}
		full = false
		if err := c.tend(time.Now()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{intermediateFile, rootFile}, filesOf(t, dir)); diff != "" {
			t.Errorf("%s: %s", operation, diff)
		}
		if err := c.Rotate(RotateOptions{}); err != nil {
			t.Error(err)
		}
		mustClose(t, c)
	}
}

// TestSaidOnceWritten: the log, in which somebody looks for who let a rotation wait for less, does not have what the disk has refused.
func TestSaidOnceWritten(t *testing.T) {
	full := false
	var log bytes.Buffer
	c, err := open(Config{Dir: caDir(t), Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(string) error {
		if full {
			return errCrash
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	if err := c.Rotate(RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, full = range []bool{true, false} {
		log.Reset()
		if err := errors.Join(c.Override([]string{"proxy web"}, false), c.Distrust()); errors.Is(err, errCrash) != full {
			t.Error(err)
		}
		if said := strings.Count(log.String(), "audit=rotation"); said != map[bool]int{true: 0, false: 2}[full] {
			t.Errorf("full: %t: the log has\n%s", full, log.String())
		}
	}
}

// TestBackupsStay: files that somebody put beside ours are not touched.
func TestBackupsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		mustClose(t, mustOpen(t, Config{Dir: dir}))
		backup := "root-20260101.pem"
		writeFile(t, readFile(t, dir, rootFile), dir, backup)
		writeFile(t, []byte("notes"), dir, "root-00000000.pem")
		c := mustOpen(t, Config{Dir: dir, Gate: &fakeGate{}})
		defer mustClose(t, c)
		defer run(t, c)()
		if err := c.Rotate(RotateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if got := filesOf(t, dir); !slices.Contains(got, backup) || !slices.Contains(got, "root-00000000.pem") || len(got) != 4 {
			t.Errorf("files %v", got)
		}
		if _, err := os.Stat(filepath.Join(dir, recordFile)); !errors.Is(err, os.ErrNotExist) {
			t.Error("the record is still there")
		}
	})
}

// TestDistrustAtAProvider: a provider's root that was distrusted leaves though the provider names it still, and is not taken again, not after
// a restart, nor renewed with its key, nor if what is signed there ends at it.
func TestDistrustAtAProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, gate := newFakeUpstream(t), &fakeGate{}
		cfg := Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, IntermediateTTL: 10 * time.Hour, Gate: gate,
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault",
		}
		c := mustOpen(t, cfg)
		stop := run(t, c)
		time.Sleep(time.Minute)
		if err := c.Rotate(RotateOptions{Distrust: true}); err == nil || !strings.Contains(err.Error(), "replaced there") {
			t.Errorf("Rotate before there is another root = %v", err)
		}
		silent := []Holder{{Name: "proxy silent"}}
		gate.set(silent, silent)
		one, two := vault.signer, newForeignCA(t, 10*365*24*time.Hour)
		vault.roots.Set([]*x509.Certificate{one.cert, two.cert})
		vault.use(two)
		time.Sleep(time.Minute)
		if phaseOf(c) != Preparing {
			t.Fatalf("phase %q, want prepare", phaseOf(c))
		}
		if err := c.Distrust(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		gone := func(when string, want *x509.Certificate) {
			t.Helper()
			synctest.Wait()
			if got := published(t, c); phaseOf(c) != Idle || len(got) != 1 || !got[0].Equal(want) {
				t.Errorf("%s: phase %q, %d roots, want the new one alone: %+v", when, phaseOf(c), len(got), c.Status())
			}
			mustTrust(t, c, oneLeaf(t, c, "web"), []*x509.Certificate{want})
		}
		gone("distrusted", two.cert)
		stop()
		mustClose(t, c)
		c = mustOpen(t, cfg)
		stop = run(t, c)
		time.Sleep(10 * time.Minute)
		gone("after a restart", two.cert)
		renewed := one.renewed(t, 9*365*24*time.Hour)
		vault.use(renewed)
		vault.roots.Set([]*x509.Certificate{renewed.cert, two.cert})
		time.Sleep(6 * time.Hour) // a new intermediate is due
		gone("renewed with its key", two.cert)
		if s := c.Status(); !strings.Contains(s.Problem, "none of the roots") {
			t.Errorf("problem %q while it signs under the distrusted root", s.Problem)
		}
		if err := c.Rotate(RotateOptions{To: Builtin}); err != nil {
			t.Fatal(err)
		}
		gate.set(nil, nil)
		time.Sleep(10 * time.Minute)
		gone("at the built-in root", published(t, c)[0])
		vault.roots.Set([]*x509.Certificate{one.cert})
		time.Sleep(time.Minute)
		if err := c.Rotate(RotateOptions{To: "vault"}); err == nil {
			time.Sleep(time.Minute)
			for _, root := range published(t, c) {
				if sameKey(root, one.cert) {
					t.Error("the distrusted root is in the bundles again")
				}
			}
		}
		stop()
		mustClose(t, c)
	})
}
