package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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
		if got := sds.RenewAfter(tt.life, tt.jitter); got.Round(time.Second) != tt.want {
			t.Errorf("RenewAfter(%s, %v) = %s, want %s", tt.life, tt.jitter, got, tt.want)
		}
	}
}

// TestDue: who is renewed when the two clocks do not agree.
func TestDue(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	const life = 72 * time.Hour
	tm := newTerm(begin, &x509.Certificate{NotBefore: begin.Add(-backdate), NotAfter: begin.Add(life)}, 0.5) // at 54 h
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

// TestStepRenewsOnce: after a step of the wall clock by any amount, what is signed anew is not due
// again.
func TestStepRenewsOnce(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{time.Minute, time.Hour, 72 * time.Hour} {
		for step := -2 * life; step <= 2*life; step += life / 16 {
			now := begin.Add(step)
			tm := newTerm(now, &x509.Certificate{NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}, 0)
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
	svids []*sds.SVID
	times []time.Time
	err   error // of the last watch that failed
	stop  func()
}

// watch watches a leaf as sds does: a watch that ends is begun again.
func watch(t *testing.T, c *CA, name string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w, issuer := &watching{}, issuerOf(t, c)
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			err := issuer.WatchSVID(ctx, identity.Caller{Proxy: "p"}, service(c.TrustDomain(), name), func(s *sds.SVID) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.svids, w.times = append(w.svids, s), append(w.times, time.Now())
			})
			w.mu.Lock()
			w.err = cmp.Or(err, w.err)
			w.mu.Unlock()
			backoff.Sleep(ctx, 2*time.Second)
		}
	})
	w.stop = func() {
		cancel()
		all.Wait()
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

func (w *watching) all() []*sds.SVID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.svids)
}

func (w *watching) last() *sds.SVID {
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
				web, also, api := watch(t, c, "web"), watch(t, c, "web"), watch(t, c, "api")
				defer web.stop()
				defer also.stop()
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
				if web.last() == also.last() || web.last() == api.last() || web.last().PrivateKey == web.all()[0].PrivateKey {
					t.Error("a key is used twice")
				}
			})
		})
	}
}

// TestStepOfTheClock: leafs are looked at when the wall clock has moved, and those that would soon
// end by it are renewed.
func TestStepOfTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Config{Dir: caDir(t)})
		defer mustClose(t, c)
		issuer := issuerOf(t, c)
		now := time.Now()
		due := newTerm(now, &x509.Certificate{NotBefore: now.Add(-200 * time.Hour), NotAfter: now.Add(72 * time.Hour)}, 0)
		due.begin = due.begin.Add(-100 * time.Hour) // by the wall clock
		due.renew = 1000 * time.Hour                // by the monotonic one
		due.notAfter = now.Add(12 * time.Hour)      // a tenth of its life is less than an hour away
		renewed := make(chan bool, 1)
		go func() { renewed <- issuer.wait(t.Context(), due) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(renewed) > 0 {
			t.Fatal("renewed without a look")
		}
		issuer.stepped.Set(struct{}{})
		synctest.Wait()
		if len(renewed) == 0 || !<-renewed {
			t.Error("not renewed after a step of the clock")
		}
	})
}

// failing is a Provider whose leafs are over when they come.
type failing struct {
	*CA
	asked atomic.Int64
}

func (f *failing) Sign(ctx context.Context, csr *x509.CertificateRequest, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	f.asked.Add(1)
	chain, err := f.CA.Sign(ctx, csr, id, ttl)
	if err == nil {
		chain[0].NotAfter = time.Now()
	}
	return chain, err
}

// TestNoStorm: a provider that goes wrong is not asked without a pause.
func TestNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustOpen(t, Config{Dir: caDir(t)})
		defer mustClose(t, c)
		f := &failing{CA: c}
		issuer, err := NewIssuer(IssuerConfig{Provider: f, TrustDomain: c.TrustDomain(), TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := issuer.WatchSVID(ctx, identity.Caller{}, service(c.TrustDomain(), "web"), func(*sds.SVID) {}); err != nil {
			t.Error(err)
		}
		if n := f.asked.Load(); n > 61 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

func TestIntermediateIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		cfg := Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: time.Hour}
		c := mustOpen(t, cfg)
		stop := run(t, c)
		web := watch(t, c, "web")
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

// TestEndOfRoot: near the end of a root that cannot be replaced, as somebody is not told of the new one, all certificates end with it.
// Nobody is renewed in ever shorter circles, the CA says so long before, and after it.
func TestEndOfRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		gate := &fakeGate{untold: []Holder{{Name: "proxy silent"}}}
		cfg := Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: 10 * time.Minute, Gate: gate}
		c := mustOpen(t, cfg)
		defer mustClose(t, c)
		defer run(t, c)()
		web := watch(t, c, "web")
		defer web.stop()
		end := rootOf(c).NotAfter
		signers := make(map[*signer]bool)
		for time.Now().Before(end) {
			if _, _, err := x509svid.Verify(web.last().Certificates, bundleOf(c)); err != nil {
				t.Fatal(err)
			}
			if signer := c.authority.signer(); signer.cert.NotAfter.Equal(end) {
				signers[signer] = true
			}
			if problem := c.Status().Problem; time.Until(end) < 90*time.Second && !strings.Contains(problem, "the root ends at 2000-01-01T00:10:00Z") {
				t.Fatalf("no alarm %s before the end: %q", time.Until(end), problem)
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
		web.stop()
		if err := web.err; err == nil || !strings.Contains(err.Error(), "sallyport root ") || !strings.Contains(err.Error(), ": expired at 2000-01-01T00:10:00Z") {
			t.Errorf("WatchSVID() error %v", err)
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
				web := watch(t, c, "web")
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
					if err := check(intermediateProfile(), own.cert, c.authority.uri().String(), own.key.Public(), rootOf(c)); err != nil {
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
