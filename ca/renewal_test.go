package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestRenewalWindow(t *testing.T) {
	for _, tt := range []struct {
		life   time.Duration
		jitter float64
		want   time.Duration
	}{
		{time.Minute, 0, 36 * time.Second},
		{time.Minute, 0.5, 45 * time.Second},
		{100 * time.Hour, 0, 60 * time.Hour},
		{100 * time.Hour, 0.999999, 90 * time.Hour},
	} {
		if got := renewal(tt.life, tt.jitter); got.Round(time.Second) != tt.want {
			t.Errorf("renewal(%s, %v) = %s, want %s", tt.life, tt.jitter, got, tt.want)
		}
	}
}

// TestDue: who is renewed when the two clocks do not agree.
func TestDue(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	const life = 72 * time.Hour
	tm := newTerm(begin, begin.Add(-backdate), begin.Add(life), 0.5) // at 54 h
	for _, tt := range []struct {
		name    string
		elapsed time.Duration // by the monotonic clock
		step    time.Duration // of the wall clock
		want    bool
	}{
		{"fresh", 0, 0, false},
		{"before", 54*time.Hour - time.Second, 0, false},
		{"at", 54 * time.Hour, 0, true},
		{"ten minutes ahead", time.Hour, 10 * time.Minute, false},
		{"ten minutes behind", time.Hour, -10 * time.Minute, false},
		{"a day ahead", time.Hour, 24 * time.Hour, false},
		{"ahead, so that it ends soon", time.Hour, 64 * time.Hour, true},
		{"ahead of its end", time.Hour, 100 * time.Hour, true},
		{"behind its begin", time.Hour, -61*time.Minute - time.Second, true},
		{"behind, within the minute before its begin", time.Second, -time.Minute, false},
		{"behind, but long in use", 54 * time.Hour, -time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tm.due(begin.Add(tt.elapsed+tt.step), tt.elapsed); got != tt.want {
				t.Errorf("due = %t, want %t", got, tt.want)
			}
		})
	}
}

// TestStepRenewsOnce: after a step of the wall clock by any amount, what is signed anew is not due again.
func TestStepRenewsOnce(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{time.Minute, time.Hour, 72 * time.Hour} {
		for step := -2 * life; step <= 2*life; step += life / 16 {
			now := begin.Add(step)
			tm := newTerm(now, now.Add(-backdate), now.Add(life), 0)
			for elapsed := time.Duration(0); elapsed < 6*life/10; elapsed += life / 100 {
				if tm.due(now.Add(elapsed), elapsed) {
					t.Fatalf("life %s, step %s: due again after %s", life, step, elapsed)
				}
			}
		}
	}
}

// run runs c until the test's bubble calls the returned function.
func run(t *testing.T, c *CA) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// watching collects what a watch gives, and when.
type watching struct {
	mu    sync.Mutex
	svids []*x509svid.SVID
	times []time.Time
	stop  func()
}

func watch(t *testing.T, c *CA, token, name string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{}
	done := make(chan error, 1)
	go func() {
		done <- c.WatchSVID(ctx, identity.Caller{Proxy: "p", Token: token}, service(c.TrustDomain(), name), func(s *x509svid.SVID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.svids, w.times = append(w.svids, s), append(w.times, time.Now())
		})
	}()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	if w.count() != 1 {
		t.Errorf("watch of %s gave %d leafs at once, want 1", name, w.count())
	}
	return w
}

func (w *watching) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.svids)
}

func (w *watching) all() []*x509svid.SVID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.svids)
}

func (w *watching) last() *x509svid.SVID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.svids[len(w.svids)-1]
}

func TestLeafsAreRenewed(t *testing.T) {
	for _, ttl := range []time.Duration{time.Minute, 10 * time.Minute} {
		t.Run(ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := mustOpen(t, Config{Dir: caDir(t), LeafTTL: ttl})
				defer mustClose(t, c)
				defer run(t, c)()
				web, also, api := watch(t, c, "", "web"), watch(t, c, "", "web"), watch(t, c, "", "api")
				defer api.stop()
				for end := time.Now().Add(50 * ttl); time.Now().Before(end); time.Sleep(ttl / 20) {
					for _, w := range []*watching{web, api} {
						if _, _, err := x509svid.Verify(w.last().Certificates, bundleOf(c)); err != nil {
							t.Fatal(err)
						}
					}
				}
				synctest.Wait()
				var ages []time.Duration
				for _, w := range []*watching{web, api} {
					for i := 1; i < len(w.times); i++ {
						age := w.times[i].Sub(w.times[i-1])
						// The certificate's times are whole seconds.
						if age < ttl*6/10-time.Second || age > ttl*9/10+time.Millisecond {
							t.Errorf("renewed after %s, want 60 %% to 90 %% of %s", age, ttl)
						}
						ages = append(ages, age)
					}
				}
				slices.Sort(ages)
				if n := len(slices.Compact(slices.Clone(ages))); n < len(ages)/2 || ages[len(ages)-1]-ages[0] < ttl/10 {
					t.Errorf("%d renewals at %d different ages from %s to %s: not spread", len(ages), n, ages[0], ages[len(ages)-1])
				}
				if !slices.Equal(web.svids, also.svids) {
					t.Error("two watchers of one identity did not get the same leafs")
				}
				if web.last() == api.last() || web.last().PrivateKey == web.svids[0].PrivateKey {
					t.Error("a key is used twice")
				}
				web.stop()
				also.stop()
				if len(c.leafs) != 1 {
					t.Errorf("%d leafs are kept, want that of api", len(c.leafs))
				}
				again := watch(t, c, "", "web")
				defer again.stop()
				if again.last() == web.last() {
					t.Error("a leaf that nobody watched was kept")
				}
			})
		})
	}
}

func TestTokensShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Config{Dir: caDir(t)})
		defer mustClose(t, c)
		a, b := watch(t, c, "token-a", "web"), watch(t, c, "token-b", "web")
		defer a.stop()
		defer b.stop()
		if a.last() == b.last() || a.last().PrivateKey == b.last().PrivateKey {
			t.Error("callers with different tokens share a leaf")
		}
	})
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Config{Dir: caDir(t)})
		defer mustClose(t, c)
		web, other, api := watch(t, c, "", "web"), watch(t, c, "token", "web"), watch(t, c, "", "api")
		for range 20 {
			if err := c.Rotate(identity.NewName("web")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if web.count() != 21 || other.count() != 21 || api.count() != 1 {
			t.Errorf("%d, %d and %d leafs of web, web and api, want 21, 21 and 1", web.count(), other.count(), api.count())
		}
		for _, name := range []string{"db", "*", ""} {
			want := fmt.Sprintf("no proxy uses a leaf of the service %q", name)
			if err := c.Rotate(identity.NewName(name)); err == nil || err.Error() != want {
				t.Errorf("Rotate(%q) error %q, want %q", name, err, want)
			}
		}
		web.stop()
		other.stop()
		api.stop()
		if err := c.Rotate(identity.NewName("web")); err == nil {
			t.Error("Rotate of a service that nobody watches any more: no error")
		}
	})
}

func TestIntermediateIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		cfg := Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: time.Hour}
		c := mustOpen(t, cfg)
		stop := run(t, c)
		web := watch(t, c, "", "web")
		first := c.authority.signer()
		time.Sleep(2*time.Minute - 10*time.Second)
		if c.authority.signer() != first {
			t.Error("the intermediate was replaced before half its life")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		second := c.authority.signer()
		if second == first || second.key.Equal(first.key) || second.cert.Subject.String() == first.cert.Subject.String() {
			t.Error("the intermediate was not replaced at half its life by one with another key and name")
		}
		time.Sleep(time.Minute)
		for _, s := range web.all() {
			if s.Certificates[0].NotAfter.Sub(s.Certificates[0].NotBefore) != 2*time.Minute {
				t.Error("a leaf was cut short by its intermediate")
			}
		}
		if !web.last().Certificates[1].Equal(second.cert) {
			t.Error("a new leaf does not bring the new intermediate along")
		}
		web.stop()
		stop()
		mustClose(t, c)
		data := readFile(t, dir, intermediateFile)
		if strings.Count(string(data), "BEGIN CERTIFICATE") != 1 {
			t.Error("the old intermediate is still there")
		}

		for _, away := range []time.Duration{2 * time.Minute, 10 * time.Minute} { // half-life; long expired
			time.Sleep(away)
			c = mustOpen(t, cfg)
			if c.authority.signer().cert.Equal(second.cert) {
				t.Errorf("opened after %s: the intermediate was not replaced", away)
			}
			second = c.authority.signer()
			mustClose(t, c)
		}
	})
}

// TestEndOfRoot: near the end of the root all certificates end with it. Nobody is renewed in ever shorter circles, and after it the CA says so.
func TestEndOfRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		cfg := Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: 10 * time.Minute}
		c := mustOpen(t, cfg)
		defer mustClose(t, c)
		defer run(t, c)()
		web := watch(t, c, "", "web")
		defer web.stop()
		end := c.Roots()[0].NotAfter
		signers := make(map[*pair]bool)
		for time.Now().Before(end) {
			if _, _, err := x509svid.Verify(web.last().Certificates, bundleOf(c)); err != nil {
				t.Fatal(err)
			}
			if signer := c.authority.signer(); signer.cert.NotAfter.Equal(end) {
				signers[signer] = true
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		lasts := 0
		for _, svid := range web.all() {
			if svid.Certificates[0].NotAfter.Equal(end) {
				lasts++
			}
		}
		if lasts != 1 || len(signers) != 1 {
			t.Errorf("%d leafs and %d intermediates end with the root, want one each", lasts, len(signers))
		}
		count := web.count()
		time.Sleep(time.Minute)
		if web.count() != count {
			t.Error("a leaf was signed after the end of the root")
		}
		err := c.Rotate(identity.NewName("web"))
		if err == nil || !strings.Contains(err.Error(), "sallyport root ") || !strings.Contains(err.Error(), ": expired at 2000-01-01T00:10:00Z") {
			t.Errorf("Rotate() error %v", err)
		}
	})
}

// TestDiskFull: whatever cannot be written, leafs go on, the files stay whole, and it heals.
func TestDiskFull(t *testing.T) {
	for _, operation := range []string{"create", "write", "sync intermediate", "rename", "sync directory", ""} {
		t.Run("fails at "+operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var full atomic.Bool
				dir := caDir(t)
				c, err := open(Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: time.Hour}, func(op string) error {
					if full.Load() && strings.HasPrefix(op, operation) {
						return syscall.ENOSPC
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				defer mustClose(t, c)
				defer run(t, c)()
				web := watch(t, c, "", "web")
				defer web.stop()
				root := readFile(t, dir, rootFile)
				full.Store(true)
				for range 20 * 12 {
					time.Sleep(5 * time.Second)
					if _, _, err := x509svid.Verify(web.last().Certificates, bundleOf(c)); err != nil {
						t.Fatal(err)
					}
					data := readFile(t, dir, intermediateFile)
					own, _, err := decode(intermediateProfile(), data)
					if err != nil {
						t.Fatal(err)
					}
					if err := check(intermediateProfile(), own.cert, c.authority.uri().String(), own.key.Public(), c.Roots()[0]); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Health(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir+"/intermediate.pem: write: ") {
					t.Errorf("Health() = %v, want that the disk is full", err)
				}
				if web.count() < 20 {
					t.Errorf("%d leafs in 20 minutes", web.count())
				}
				full.Store(false)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if err := c.Health(); err != nil {
					t.Errorf("Health() = %v after there was room again", err)
				}
				own, _, err := decode(intermediateProfile(), readFile(t, dir, intermediateFile))
				if err != nil || !own.cert.Equal(c.authority.signer().cert) {
					t.Errorf("the file does not hold the intermediate in use: %v", err)
				}
				if string(readFile(t, dir, rootFile)) != string(root) {
					t.Error("the root's file was touched")
				}
			})
		})
	}
}
