package ca

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// slowProvider takes its time for each leaf, and counts.
type slowProvider struct {
	takes time.Duration
	life  time.Duration
	wants bool // whole requests
	roots latest.Value[*sds.Roots]

	mu             sync.Mutex
	now, most, all int
	times          []time.Time
}

func (p *slowProvider) WantsCSR() bool                   { return p.wants }
func (p *slowProvider) Roots() *latest.Value[*sds.Roots] { return &p.roots }

func (p *slowProvider) Sign(ctx context.Context, csr *x509.CertificateRequest, _ spiffeid.ID, _ time.Duration) ([]*x509.Certificate, error) {
	if p.wants != (len(csr.Raw) > 0) {
		return nil, errors.New("the request is not as it was asked for")
	}
	p.mu.Lock()
	p.now, p.all = p.now+1, p.all+1
	p.most = max(p.most, p.now)
	p.times = append(p.times, time.Now())
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.now--
		p.mu.Unlock()
	}()
	select {
	case <-time.After(p.takes):
		return []*x509.Certificate{{NotBefore: time.Now().Add(-backdate), NotAfter: time.Now().Add(p.life)}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// busy is how many leafs are being signed, and how many were at most.
func (p *slowProvider) busy() (now, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.most
}

// asked is when leafs were signed since the last call.
func (p *slowProvider) asked() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.times
	p.times = nil
	return was
}

// crowd are so many watches, each of which may be ended by itself.
type crowd struct {
	has  latest.Value[int] // leafs
	ends []context.CancelFunc
	all  sync.WaitGroup
}

func newCrowd(t *testing.T, i *Issuer, n int) *crowd {
	t.Helper()
	c := &crowd{}
	var mu sync.Mutex
	had := 0
	for n := range n {
		ctx, cancel := context.WithCancel(t.Context())
		c.ends = append(c.ends, cancel)
		c.all.Go(func() {
			err := i.WatchSVID(ctx, identity.Caller{}, service(trustDomain(t), fmt.Sprint("s-", n)), func(*sds.SVID) {
				mu.Lock()
				defer mu.Unlock()
				had++
				c.has.Set(had)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	return c
}

func (c *crowd) leafs() int {
	n, _ := c.has.Load()
	return n
}

func (c *crowd) end() {
	for _, end := range c.ends {
		end()
	}
	c.all.Wait()
}

func slowIssuer(t *testing.T, p *slowProvider, metrics prometheus.Registerer) *Issuer {
	t.Helper()
	i, err := NewIssuer(IssuerConfig{Provider: p, TrustDomain: trustDomain(t), TTL: p.life, Registerer: metrics})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// gathered is the value of a gauge.
func gathered(t *testing.T, metrics prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestFewAreMadeAtOnce: of any number of leafs that are due at once so many are made as there are processors, and 8 where another CA signs each;
// the others wait without a goroutine or a key of theirs, all have their turn, and who goes away leaves its place to the next.
func TestFewAreMadeAtOnce(t *testing.T) {
	const many = 300
	for _, tt := range []struct {
		name  string
		wants bool
		bound int
	}{{"signed here", false, runtime.GOMAXPROCS(0)}, {"signed by another CA", true, signings}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, metrics := &slowProvider{takes: time.Second, life: 72 * time.Hour, wants: tt.wants}, prometheus.NewRegistry()
				i := slowIssuer(t, p, metrics)
				began := time.Now()
				c := newCrowd(t, i, many)
				synctest.Wait()
				if now, _ := p.busy(); now != tt.bound {
					t.Errorf("%d leafs are being signed, want %d", now, tt.bound)
				}
				if waiting := i.places.waiting.Load(); waiting != int64(many-tt.bound) {
					t.Errorf("%d leafs wait, want %d", waiting, many-tt.bound)
				}
				if got := gathered(t, metrics, "sallyport_ca_leafs_waiting"); got != float64(many-tt.bound) {
					t.Errorf("the metric says that %v wait, want %d", got, many-tt.bound)
				}
				// A request of an application waits for its turn, and no longer than it may.
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := i.SignRequest(ctx, requestOf(t, onCurve(t, elliptic.P256()), &x509.CertificateRequest{}), service(trustDomain(t), "web")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a request behind all of them: %v, want that its time is over", err)
				}
				// The first half goes away, those who are being served among them.
				for _, end := range c.ends[:many/2] {
					end()
				}
				synctest.Wait()
				if now, _ := p.busy(); now != tt.bound {
					t.Errorf("%d leafs are being signed after half of those who wait have gone, want %d", now, tt.bound)
				}
				for c.leafs() < many/2 && time.Since(began) < many*time.Second {
					time.Sleep(time.Second)
					synctest.Wait()
				}
				if took, rounds := time.Since(began), many/2/tt.bound+2; c.leafs() != many/2 || took > time.Duration(rounds)*time.Second {
					t.Errorf("%d of %d have a leaf after %s, want all after %d s: a place was lost", c.leafs(), many/2, took, rounds)
				}
				if _, most := p.busy(); most > tt.bound {
					t.Errorf("%d leafs were signed at once, want %d at most", most, tt.bound)
				}
				c.end()
				if now, _ := p.busy(); now != 0 || i.places.waiting.Load() != 0 || len(i.places.here)+len(i.places.elsewhere) != 0 {
					t.Errorf("when all are gone %d are signed, %d wait, and %d places are taken", now, i.places.waiting.Load(), len(i.places.here)+len(i.places.elsewhere))
				}
			})
		})
	}
}

// TestRenewalIsSpread: leafs that were made at once are renewed all over the window, and when the root changes over seconds.
func TestRenewalIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many, life = 500, 72 * time.Hour
		p := &slowProvider{life: life}
		root := func(id string) {
			p.roots.Set(sds.NewRoots(trustDomain(t), id, []sds.Root{{ID: id, Certificate: &x509.Certificate{Raw: []byte(id), RawSubjectPublicKeyInfo: []byte(id), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour)}}}))
		}
		root("one")
		i := slowIssuer(t, p, nil)
		c := newCrowd(t, i, many)
		synctest.Wait()
		began := time.Now()
		if first := p.asked(); len(first) != many {
			t.Fatalf("%d leafs were made, want %d", len(first), many)
		}
		// From 60 to 90 % of a leaf's life.
		time.Sleep(life * 6 / 10)
		if early := p.asked(); len(early) > 0 {
			t.Errorf("%d are renewed before 60 %% of their life", len(early))
		}
		for part := range 10 {
			time.Sleep(life * 3 / 100)
			if n := len(p.asked()); n > many/5 {
				t.Errorf("%d of %d are renewed in tenth %d of the window", n, many, part)
			}
		}
		if c.leafs() != 2*many {
			t.Errorf("%d leafs after %s, want %d: each renewed once", c.leafs(), time.Since(began), 2*many)
		}
		changed := time.Now()
		root("two")
		over := spread(life, many)
		time.Sleep(over + time.Second)
		synctest.Wait()
		times := p.asked()
		if len(times) < many {
			t.Fatalf("%d leafs under the new root after %s, want %d", len(times), over, many)
		}
		for tenth := range 10 {
			from, to := changed.Add(over*time.Duration(tenth)/10), changed.Add(over*time.Duration(tenth+1)/10)
			n := 0
			for _, at := range times {
				if !at.Before(from) && at.Before(to) {
					n++
				}
			}
			if n > many/5 {
				t.Errorf("%d of %d leafs under the new root come in tenth %d of %s", n, many, tenth, over)
			}
		}
		if last := slices.MaxFunc(times, time.Time.Compare).Sub(changed); last > over {
			t.Errorf("the last leaf under the new root came after %s, want %s at most", last, over)
		}
		c.end()
	})
}
