package ca

import (
	"crypto/x509"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/clocktest"
)

// clock is one that can be stepped, also while others look at it.
type clock struct{ off atomic.Int64 }

func (c *clock) now() time.Time { return clocktest.Stepped(time.Now(), time.Duration(c.off.Load())) }

// step has it be ahead by off, or behind.
func (c *clock) step(off time.Duration) { c.off.Store(int64(off)) }

// looks lets Run look at the clock.
func looks() {
	time.Sleep(2 * tick)
	synctest.Wait()
}

// TestMadeWhileTheClockWasAhead: a CA, and a root that is prepared or active, are good when a clock that was ahead for up to a day is set
// right, as by the first synchronisation after the boot.
func TestMadeWhileTheClockWasAhead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rotate bool
		phase  Phase
	}{{"first start", false, Idle}, {"prepare", true, Preparing}, {"activate", true, Activating}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock, gate := &clock{}, &fakeGate{}
				clock.step(20 * time.Hour)
				cfg := Config{Dir: caDir(t), Gate: gate, now: clock.now}
				silent := []Holder{{Name: "proxy silent"}}
				gate.set(silent, silent)
				c := mustOpen(t, cfg)
				stop := run(t, c)
				if tt.rotate {
					if err := c.Rotate(RotateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				if tt.phase == Activating {
					gate.set(nil, silent)
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				before := published(t, c)
				clock.step(0)
				looks()
				for _, when := range []string{"a step later", "after a restart"} {
					if got := published(t, c); phaseOf(c) != tt.phase || len(got) != len(before) || !got[0].Equal(before[0]) {
						t.Errorf("%s: phase %q, %d roots, want %q, %d", when, phaseOf(c), len(got), tt.phase, len(before))
					}
					if err := trusts(t, c, published(t, c), oneLeaf(t, c, "web")); err != nil {
						t.Errorf("%s: %v", when, err)
					}
					stop()
					mustClose(t, c)
					c = mustOpen(t, cfg)
					stop = run(t, c)
					looks()
				}
				gate.set(nil, nil)
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				if phaseOf(c) != Idle || len(published(t, c)) != 1 {
					t.Errorf("phase %q, %d roots at the end", phaseOf(c), len(published(t, c)))
				}
				stop()
				mustClose(t, c)
			})
		})
	}
}

// TestStepInAPhase: a phase that lasts for a time lasts for that of the monotonic clock, whatever the other one does.
func TestStepInAPhase(t *testing.T) {
	for name, step := range map[string]time.Duration{"ahead": 10 * time.Hour, "back": -10 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := &clock{}
				c := mustOpen(t, Config{Dir: caDir(t), Gate: &fakeGate{}, FederationHint: time.Hour, now: clock.now})
				defer mustClose(t, c)
				defer run(t, c)()
				if err := c.Rotate(RotateOptions{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				clock.step(step)
				time.Sleep(2*time.Hour - 30*time.Second)
				if phaseOf(c) != Preparing {
					t.Errorf("phase %q before three hints", phaseOf(c))
				}
				time.Sleep(38 * time.Second)
				if phaseOf(c) != Activating {
					t.Errorf("phase %q after three hints, want activate", phaseOf(c))
				}
			})
		})
	}
}

// TestOldRootComesBack: a root that ended by a clock that was ahead for an hour is in the bundle again when the clock is right.
func TestOldRootComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, gate := &clock{}, &fakeGate{}
		c := mustOpen(t, Config{Dir: caDir(t), Gate: gate, LeafTTL: 2 * time.Hour, IntermediateTTL: 100 * time.Hour, RootTTL: 1000 * time.Hour, now: clock.now})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(500 * time.Hour)
		gate.set(nil, []Holder{{Name: "proxy silent"}})
		if err := c.Rotate(RotateOptions{}); err != nil {
			t.Fatal(err)
		}
		looks()
		looks()
		count := func(when string, want int) {
			t.Helper()
			if got := published(t, c); phaseOf(c) != Activating || len(got) != want {
				t.Errorf("%s: phase %q, %d roots, want activate, %d", when, phaseOf(c), len(got), want)
			}
		}
		count("before", 2)
		clock.step(500*time.Hour - time.Minute)
		looks()
		count("shortly before the old one ends", 2)
		clock.step(501 * time.Hour)
		looks()
		count("ahead", 1)
		time.Sleep(time.Hour)
		clock.step(0)
		looks()
		count("when the clock is right", 2)
	})
}

// TestProviderAhead: a root of a provider whose clock is ahead is taken when it is valid here, though the provider names it once.
func TestProviderAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := newFakeUpstream(t)
		c := mustOpen(t, Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, Gate: &fakeGate{},
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}, Provider: "vault",
		})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		one, template := vault.signer, newForeignCA(t, time.Hour)
		early := *template.cert
		early.NotBefore, early.NotAfter = time.Now().Add(5*time.Minute), time.Now().Add(1000*time.Hour)
		two := &foreignCA{signed(t, &early, &early, template.key.Public(), template.key), template.key}
		vault.roots.Set([]*x509.Certificate{one.cert, two.cert})
		time.Sleep(4 * time.Minute)
		if got := published(t, c); len(got) != 1 || phaseOf(c) != Idle {
			t.Errorf("%d roots, phase %q before the new one is valid", len(got), phaseOf(c))
		}
		time.Sleep(2 * time.Minute)
		if got := published(t, c); len(got) != 2 || phaseOf(c) != Preparing {
			t.Errorf("%d roots, phase %q when the new one is valid, want it prepared", len(got), phaseOf(c))
		}
	})
}

// TestClockSetBack: a clock that is set back behind the begin of a root takes it from nobody: those whose clocks are right go on.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, vault := &clock{}, newFakeUpstream(t)
		c := mustOpen(t, Config{
			Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, Gate: &fakeGate{}, now: clock.now,
			Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}},
		})
		defer mustClose(t, c)
		defer run(t, c)()
		time.Sleep(time.Minute)
		if err := c.Rotate(RotateOptions{To: "vault"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		before := published(t, c)
		if phaseOf(c) != Idle || len(before) != 1 || !before[0].Equal(vault.signer.cert) {
			t.Fatalf("phase %q, %d roots", phaseOf(c), len(before))
		}
		if err := c.Rotate(RotateOptions{To: Builtin}); err != nil { // so that there is another one
			t.Fatal(err)
		}
		before = published(t, c)
		clock.step(-5 * time.Hour) // vault's began an hour before the test
		time.Sleep(tick)
		synctest.Wait()
		if got := published(t, c); len(got) != len(before) || !got[0].Equal(before[0]) {
			t.Errorf("%d roots with a clock that was set back, want the %d of before", len(got), len(before))
		}
	})
}
