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

	"github.com/sallyport/sallyport/sds"
)

// leafsOf watches a leaf of web and verifies each one against all bundles that somebody may have: those published since the last rotation
// began, and the one before.
func mustTrust(t testing.TB, c *CA, svid *sds.SVID, bundles ...[]*x509.Certificate) {
	t.Helper()
	for i, b := range bundles {
		if err := trusts(t, c, b, svid); err != nil {
			t.Fatalf("bundle %d: %v", i, err)
		}
	}
}

// TestProviders goes from the built-in root to a provider, to one that signs each leaf, and back: somebody always has a leaf that all
// accept, and only where the old root signs the new one it may be somebody who was not told.
func TestProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
		gate := &fakeGate{}
		cfg := Config{Dir: dir, TrustDomain: trustDomain(t), Gate: gate, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin, EachLeaf: true}}}
		c := mustOpen(t, cfg)
		stop := run(t, c)
		synctest.Wait()
		for _, to := range []string{"vault", "plugin", "vault", Builtin} {
			web := watch(t, c, "web")
			from, before := c.Status().Provider, published(t, c)
			crossed := from == Builtin
			gate.set([]Holder{{Name: "proxy silent"}}, []Holder{{Name: "proxy silent"}})
			if err := c.Rotate(RotateOptions{To: to, Override: []string{"proxy silent"}}); err != nil {
				t.Fatal(err)
			}
			both := published(t, c)
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := phaseOf(c) == Activating; got != crossed {
				t.Fatalf("%s → %s: phase %q with somebody who was not told, who is overridden; cross-signed: %t; %+v", from, to, phaseOf(c), crossed, c.Status())
			}
			if !crossed {
				if len(both) != 2 || len(web.all()) != 1 {
					t.Fatalf("%s → %s: %d roots, %d leafs", from, to, len(both), len(web.all()))
				}
				gate.set(nil, []Holder{{Name: "proxy silent"}})
				time.Sleep(time.Minute)
				synctest.Wait()
			}
			if phaseOf(c) != Activating || c.Status().Provider != to || c.Status().Rotation.CrossSigned != crossed {
				t.Fatalf("%s → %s: %+v", from, to, c.Status())
			}
			mustTrust(t, c, web.last(), both)
			if crossed {
				mustTrust(t, c, web.last(), before)
			}
			stop()
			web.stop()
			mustClose(t, c)
			c = mustOpen(t, cfg)
			stop = run(t, c)
			web = watch(t, c, "web")
			mustTrust(t, c, web.last(), both)
			gate.set(nil, nil)
			time.Sleep(time.Minute)
			synctest.Wait()
			if phaseOf(c) != Idle || len(published(t, c)) != 1 || slices.ContainsFunc(before, published(t, c)[0].Equal) {
				t.Fatalf("%s → %s: %+v", from, to, c.Status())
			}
			mustTrust(t, c, web.last(), published(t, c))
			mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
			if problem := c.Status().Problem; problem != "" {
				t.Error(problem)
			}
			web.stop()
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if got := strings.Join(filesOf(t, dir), " "); got != "intermediate.pem root.pem" {
			t.Errorf("files %s", got)
		}
		stop()
		mustClose(t, c)
	})
}

// TestProviderAway: leafs go on by the intermediate, the alarm is early, and a start without the provider works.
func TestProviderAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		vault.set(fmt.Errorf("%w: nobody there", ErrUnavailable))
		cfg := Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, IntermediateTTL: 240 * time.Hour, Gate: &fakeGate{},
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault",
		}
		c := mustOpen(t, cfg)
		stop := run(t, c)
		time.Sleep(time.Minute)
		if _, _, err := issuerOf(t, c).issue(t.Context(), service(c.TrustDomain(), "web").ID()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("leaf while the provider was never there: %v", err)
		}
		if problem := c.Status().Problem; !strings.Contains(problem, "vault does not sign: the CA is unavailable: nobody there") {
			t.Errorf("problem %q", problem)
		}
		vault.set(nil)
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
		if problem := c.Status().Problem; problem != "" {
			t.Error(problem)
		}
		first, ends := c.authority.signer(), c.Status().IntermediateEnds

		time.Sleep(time.Until(ends)/2 + time.Hour)
		synctest.Wait()
		second := c.authority.signer()
		if second == first {
			t.Error("not renewed at half its life")
		}
		vault.set(fmt.Errorf("%w: policy", ErrDenied))
		asked := vault.count()
		stop()
		mustClose(t, c)
		c = mustOpen(t, cfg)
		defer mustClose(t, c)
		defer run(t, c)()
		for time.Until(second.cert.NotAfter) > time.Minute {
			mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
			if left := time.Until(second.cert.NotAfter); left < 110*time.Hour && !strings.Contains(c.Status().Problem, "vault does not sign: the CA denied") {
				t.Fatalf("no alarm %s before the end: %q", left, c.Status().Problem)
			}
			time.Sleep(30 * time.Minute)
		}
		if n := vault.count() - asked; n < 100 || n > 260 {
			t.Errorf("asked %d times in 120 hours of denials, want about once an hour", n)
		}
		vault.set(nil)
		time.Sleep(2 * time.Hour)
		mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
	})
}

// TestProvidersRoots: what a provider does with its roots is followed: a new one is prepared, signs when all are told, one that is gone
// leaves, one that is renewed replaces the old one.
func TestProvidersRoots(t *testing.T) {
	for name, each := range map[string]bool{"intermediate": false, "each leaf": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vault, gate := newFakeUpstream(t), &fakeGate{}
				c := mustOpen(t, Config{
					Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, Gate: gate,
					Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault, EachLeaf: each}}, Provider: "vault",
				})
				defer mustClose(t, c)
				defer run(t, c)()
				time.Sleep(time.Minute)
				synctest.Wait()
				web := watch(t, c, "web")
				defer web.stop()
				one := vault.signer
				old := published(t, c)
				if len(old) != 1 || !old[0].Equal(one.cert) {
					t.Fatalf("%d roots", len(old))
				}
				if err := c.Rotate(RotateOptions{}); err == nil || !strings.Contains(err.Error(), "its root is replaced there") {
					t.Errorf("Rotate = %v", err)
				}

				silent := []Holder{{Name: "proxy silent"}}
				gate.set(silent, silent)
				two := newForeignCA(t, 10*365*24*time.Hour)
				vault.roots.Set([]*x509.Certificate{one.cert, two.cert})
				vault.use(two)
				time.Sleep(40 * time.Minute)
				synctest.Wait()
				if phaseOf(c) != Preparing || len(published(t, c)) != 2 {
					t.Fatalf("phase %q, %d roots", phaseOf(c), len(published(t, c)))
				}
				if each { // nothing else is to be had, so the last leaf is all there is
					if n := len(web.all()); n > 2 {
						t.Errorf("%d leafs", n)
					}
				} else {
					mustTrust(t, c, web.last(), old, published(t, c))
				}
				gate.set(nil, silent)
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if phaseOf(c) != Activating {
					t.Fatalf("phase %q, want activate: %+v", phaseOf(c), c.Status())
				}
				mustTrust(t, c, web.last(), published(t, c), []*x509.Certificate{two.cert})
				gate.set(nil, nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				if phaseOf(c) != Idle || len(published(t, c)) != 2 {
					t.Errorf("phase %q, %d roots, want none, and both as both are still named", phaseOf(c), len(published(t, c)))
				}
				vault.roots.Set([]*x509.Certificate{two.cert})
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := published(t, c); len(got) != 1 || !got[0].Equal(two.cert) {
					t.Errorf("%d roots after one is gone there", len(got))
				}
				count, renewed := len(web.all()), two.renewed(t, 11*365*24*time.Hour)
				vault.use(renewed)
				vault.roots.Set([]*x509.Certificate{renewed.cert, two.cert})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := published(t, c); len(got) != 1 || !got[0].Equal(renewed.cert) || phaseOf(c) != Idle {
					t.Errorf("%d roots after one was renewed, phase %q", len(got), phaseOf(c))
				}
				mustTrust(t, c, web.last(), published(t, c))
				mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c), []*x509.Certificate{two.cert})
				if len(web.all()) > count+1 {
					t.Errorf("%d leafs more", len(web.all())-count)
				}
			})
		})
	}
}

// TestPending: a request that somebody has to approve is asked for again, with its key, by the next process, too.
func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		vault.set(ErrPending)
		cfg := Config{Dir: caDir(t), TrustDomain: trustDomain(t), Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault"}
		for range 2 {
			c := mustOpen(t, cfg)
			stop := run(t, c)
			time.Sleep(time.Hour)
			stop()
			mustClose(t, c)
		}
		vault.set(nil)
		c := mustOpen(t, cfg)
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Hour)
		mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
		if len(vault.keys) < 10 {
			t.Errorf("asked %d times", len(vault.keys))
		}
		for _, key := range vault.keys {
			if !c.authority.signer().key.PublicKey.Equal(key) {
				t.Fatal("another key was asked for")
			}
		}
		if slices.Contains(filesOf(t, cfg.Dir), requestFile) {
			t.Error("the request is still there")
		}
	})
}

// TestCancel: a rotation that only prepares can be taken back.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		c := mustOpen(t, Config{Dir: caDir(t), Gate: &fakeGate{untold: []Holder{{Name: "proxy silent"}}}, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}})
		defer mustClose(t, c)
		if err := c.Rotate(RotateOptions{To: "vault"}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Rotate before the roots are known: %v", err)
		}
		if err := c.Rotate(RotateOptions{To: "nobody"}); err == nil || !strings.Contains(err.Error(), `"nobody" is not configured: there are vault, builtin`) {
			t.Errorf("Rotate = %v", err)
		}
		defer run(t, c)()
		synctest.Wait()
		for _, to := range []string{"vault", Builtin} {
			if err := c.Rotate(RotateOptions{To: to}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if err := c.Cancel(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if phaseOf(c) != Idle || len(published(t, c)) != 1 || len(filesOf(t, c.cfg.Dir)) != 2 {
				t.Errorf("after Cancel: phase %q, %d roots, files %v", phaseOf(c), len(published(t, c)), filesOf(t, c.cfg.Dir))
			}
		}
		if err := c.Cancel(); err == nil {
			t.Error("Cancel of nothing")
		}
	})
}
