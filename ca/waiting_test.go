package ca

import (
	"crypto/ecdsa"
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

// TestWaitingForAnother: while a rotation waits for another provider, which is away or asks somebody, the one that signs is asked for the
// next intermediate in time, and neither is asked without end.
func TestWaitingForAnother(t *testing.T) {
	for name, answer := range map[string]error{"away": ErrUnavailable, "denies": ErrDenied, "pending": ErrPending} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
				cfg := Config{
					Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: 10 * time.Minute, IntermediateTTL: 48 * time.Hour, Gate: &fakeGate{},
					Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin}}, Provider: "vault",
				}
				c := mustOpen(t, cfg)
				stop := run(t, c)
				time.Sleep(time.Minute)
				plugin.set(fmt.Errorf("%w: for days", answer))
				if err := c.Rotate(RotateOptions{To: "plugin"}); err != nil {
					t.Fatal(err)
				}
				first := c.authority.signer()
				time.Sleep(26 * time.Hour)
				synctest.Wait()
				if c.authority.signer() == first {
					t.Error("the intermediate in use is not renewed at half its life")
				}
				vault.set(fmt.Errorf("%w: for days", answer)) // both, and a restart
				time.Sleep(26 * time.Hour)
				stop()
				mustClose(t, c)
				asked := vault.count() + plugin.count()
				c = mustOpen(t, cfg)
				defer mustClose(t, c)
				defer run(t, c)()
				time.Sleep(5 * time.Hour)
				synctest.Wait()
				mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
				if n := vault.count() + plugin.count() - asked; n > 5*60*3 {
					t.Errorf("asked %d times in five hours", n)
				}
				if problem := c.Status().Problem; !strings.Contains(problem, "vault does not sign") || !strings.Contains(problem, "plugin does not sign") {
					t.Errorf("problem %q", problem)
				}
				vault.set(nil)
				time.Sleep(2 * time.Hour)
				if s := c.authority.signer(); time.Until(s.cert.NotAfter) < 45*time.Hour {
					t.Errorf("an intermediate until %s", s.cert.NotAfter)
				}
				plugin.set(nil)
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if s := c.Status(); s.Provider != "plugin" || s.Rotation != nil || s.Problem != "" {
					t.Errorf("%+v", s)
				}
				mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
				for _, key := range plugin.keys {
					if errors.Is(answer, ErrPending) && !key.(*ecdsa.PublicKey).Equal(plugin.keys[0]) {
						t.Fatal("the plug-in was asked for another key before it had answered") // and whoever approves it has to begin anew
					}
				}
			})
		})
	}
}

// bundleGate is holders that accept every bundle at once, beside those of a fakeGate.
type bundleGate struct {
	fakeGate
	c *CA
}

func (g *bundleGate) Untold(roots []*x509.Certificate) []Holder {
	held := g.fakeGate.Untold(roots)
	bundle, _ := g.c.Roots().Load()
	for _, root := range roots {
		if !slices.ContainsFunc(bundle.List(), func(r sds.Root) bool { return r.Certificate.Equal(root) }) {
			return append(held, Holder{Name: "proxy web", Connected: true})
		}
	}
	return held
}

// TestRootsThatEnd: one of a provider's roots ends while somebody is waited for: the others are activated.
func TestRootsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		for _, life := range []time.Duration{10 * time.Second, time.Hour} { // one that is not in the bundle any more, and one that leaves it
			known, _ := vault.roots.Load()
			vault.roots.Set(append(slices.Clone(known), newForeignCA(t, life).cert))
		}
		gate := &bundleGate{}
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: gate, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}})
		gate.c = c
		defer mustClose(t, c)
		defer run(t, c)()
		synctest.Wait()
		gate.set([]Holder{{Name: "proxy silent"}}, nil)
		if err := c.Rotate(RotateOptions{To: "vault"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		gate.set(nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.Status(); s.Provider != "vault" || s.Rotation != nil {
			t.Errorf("%+v", s.Rotation)
		}
		if len(published(t, c)) != 1 {
			t.Errorf("%d roots", len(published(t, c)))
		}
	})
}

// TestRootLeftThere: a root that has ended is still in a provider's list, as in a file that nobody looks after: it begins nothing.
func TestRootLeftThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault, gate := newFakeUpstream(t), &bundleGate{}
		known, _ := vault.roots.Load()
		vault.roots.Set(append(slices.Clone(known), newForeignCA(t, time.Hour).cert))
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: gate, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault"})
		gate.c = c
		defer mustClose(t, c)
		defer run(t, c)()
		for range 20 {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if s := c.Status(); s.Rotation != nil || s.Problem != "" {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// TestRootRenewedWrongly: a provider renews its root, with its key, in a way in which it the new one does not verify what is in use: the old one stays
// in the bundles until there is one that does.
func TestRootRenewedWrongly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		c := mustOpen(t, Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), Gate: &fakeGate{}, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault",
		})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		synctest.Wait()
		held, first, old := oneLeaf(t, c, "web"), c.authority.signer(), vault.signer.cert
		wrong := *vault.signer
		template := *wrong.cert
		template.NotBefore, template.MaxPathLen, template.MaxPathLenZero, template.SerialNumber = template.NotBefore.Add(time.Minute), 0, true, nextSerial()
		wrong.cert = signed(t, &template, &template, wrong.key.Public(), wrong.key)
		vault.roots.Set([]*x509.Certificate{wrong.cert})
		time.Sleep(time.Minute)
		synctest.Wait()
		mustTrust(t, c, held, published(t, c))
		mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
		if problem := c.Status().Problem; !strings.Contains(problem, "the new one does not verify what is in use") {
			t.Errorf("problem %q", problem)
		}
		right := vault.signer.renewed(t, 20*365*24*time.Hour)
		vault.use(right)
		vault.roots.Set([]*x509.Certificate{right.cert})
		time.Sleep(time.Minute)
		synctest.Wait()
		mustTrust(t, c, held, published(t, c))
		if !first.root.Equal(old) {
			t.Error("what others read without a lock was changed")
		}
		if got, s := published(t, c), c.Status(); len(got) != 1 || !got[0].Equal(right.cert) || s.Problem != "" {
			t.Errorf("%d roots, %+v", len(got), s)
		}
	})
}

// TestRootRenewed: a root that is renewed with its key verifies the leafs that there are, so none is made for it.
func TestRootRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: &fakeGate{}, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault"})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		web := watch(t, c, "web")
		defer web.stop()
		time.Sleep(time.Minute)
		renewed := vault.signer.renewed(t, 20*365*24*time.Hour)
		vault.use(renewed)
		vault.roots.Set([]*x509.Certificate{renewed.cert})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := published(t, c); len(got) != 1 || !got[0].Equal(renewed.cert) {
			t.Fatalf("%d roots", len(got))
		}
		mustTrust(t, c, web.last(), published(t, c))
		if n := web.count(); n != 1 {
			t.Errorf("%d leafs", n)
		}
	})
}

// TestRootRenewedBeforeItsEnd: leafs that end with their root are made anew once that is renewed.
func TestRootRenewedBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		short := newForeignCA(t, time.Hour)
		vault.use(short)
		vault.roots.Set([]*x509.Certificate{short.cert})
		c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Gate: &fakeGate{}, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault"})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		web := watch(t, c, "web")
		defer web.stop()
		time.Sleep(40 * time.Minute)
		renewed := short.renewed(t, 20*365*24*time.Hour)
		vault.use(renewed)
		vault.roots.Set([]*x509.Certificate{renewed.cert})
		for range 30 {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			mustTrust(t, c, web.last(), published(t, c))
			if web.count() == 1 {
				t.Fatal("the leaf is left until the minute in which it ends")
			}
		}
	})
}

// TestFromNowOnEachLeaf: an intermediate that is not used any more, as the provider now signs each leaf, is no reason for an alarm.
func TestFromNowOnEachLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		cfg := Config{Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: 10 * time.Minute, IntermediateTTL: 24 * time.Hour, Gate: &fakeGate{}, Provider: "vault"}
		for _, each := range []bool{false, true, false} {
			cfg.Upstreams = map[string]UpstreamConfig{"vault": {Upstream: vault, EachLeaf: each}}
			c := mustOpen(t, cfg)
			stop := run(t, c)
			time.Sleep(30 * time.Hour)
			synctest.Wait()
			mustTrust(t, c, oneLeaf(t, c, "web"), published(t, c))
			if s := c.Status(); s.Problem != "" || s.IntermediateEnds.IsZero() != each {
				t.Errorf("each leaf: %t: %+v", each, s)
			}
			stop()
			mustClose(t, c)
		}
	})
}
