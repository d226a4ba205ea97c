package bundle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// rootUntil is a self-signed CA certificate, valid from a minute ago.
func rootUntil(t *testing.T, end time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSchedule: an endpoint is asked once each refresh hint, and no more often while it fails; after three of them there is an alarm, which
// ends with the next answer; a root leaves a minute before its end.
func TestSchedule(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("trust_domain: td-b.example\nendpoint: {url: 'https://b.example', profile: https_web}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		td := spiffeid.RequireTrustDomainFromString("td-b.example")
		begin := time.Now()
		doc := &Document{trustDomain: td, authorities: []*x509.Certificate{rootUntil(t, begin.Add(90*time.Minute)), rootUntil(t, begin.Add(24*time.Hour))}, sequence: 1, sequenced: true, hint: time.Minute}
		var mu sync.Mutex
		asked, fails := 0, false
		s, err := Open(Config{Dir: dir, Data: data, Own: func() (spiffeid.TrustDomain, bool) { return spiffeid.TrustDomain{}, false }})
		if err != nil {
			t.Fatal(err)
		}
		s.ask = func(definition) (func(context.Context) (*Document, error), error) {
			return func(context.Context) (*Document, error) {
				mu.Lock()
				defer mu.Unlock()
				if asked++; fails {
					return nil, errors.New("away")
				}
				return doc, nil
			}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = s.Run(ctx) })
		defer running.Wait()
		defer cancel()
		within := func(d time.Duration) (n int) {
			mu.Lock()
			asked = 0
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return asked
		}
		state := func() (Status, int) {
			synctest.Wait()
			domains, _ := s.Status()
			set, _ := s.sets.Load()
			if set.Of(td) == nil {
				return domains[0], 0
			}
			return domains[0], len(set.Of(td).Roots.List())
		}
		fail := func(v bool) { mu.Lock(); fails = v; mu.Unlock() }
		if n := within(time.Hour); n < 60 || n > 68 {
			t.Errorf("asked %d times in an hour at a hint of a minute", n)
		}
		if d, roots := state(); roots != 2 || d.Stale || d.Problem != "" {
			t.Errorf("%d roots, %+v", roots, d)
		}
		fail(true)
		within(2 * time.Minute)
		if d, roots := state(); d.Stale || d.Problem == "" || roots != 2 {
			t.Errorf("after two minutes: %d roots, %+v", roots, d)
		}
		if n := within(20 * time.Minute); n > 42 {
			t.Errorf("asked %d times in 20 minutes while it fails", n)
		}
		if d, roots := state(); !d.Stale || roots != 2 {
			t.Errorf("after 22 minutes: %d roots, %+v", roots, d)
		}
		within(6*time.Minute + 55*time.Second)
		if _, roots := state(); roots != 2 {
			t.Errorf("%d roots a minute and 5 seconds before the first one's end", roots)
		}
		within(20 * time.Second)
		if d, roots := state(); roots != 1 || d.Problem == "" {
			t.Errorf("%d roots 45 seconds before the first one's end, %+v", roots, d)
		}
		fail(false)
		within(2 * time.Minute)
		if d, _ := state(); d.Stale {
			t.Errorf("after an answer: %+v", d)
		}
	})
}

// TestDefinedAnew: when the definition of a trust domain changes, its bundle is no newer for it, and an alarm stays one.
func TestDefinedAnew(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	define := func(url string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("trust_domain: td-b.example\nendpoint: {url: '"+url+"', profile: https_web}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	define("https://b.example")
	synctest.Test(t, func(t *testing.T) {
		td := spiffeid.RequireTrustDomainFromString("td-b.example")
		begin := time.Now()
		doc := &Document{trustDomain: td, authorities: []*x509.Certificate{rootUntil(t, begin.Add(24*time.Hour))}, sequence: 1, sequenced: true, hint: time.Minute}
		s, err := Open(Config{Dir: dir, Data: data, Own: func() (spiffeid.TrustDomain, bool) { return spiffeid.TrustDomain{}, false }})
		if err != nil {
			t.Fatal(err)
		}
		s.ask = func(definition) (func(context.Context) (*Document, error), error) {
			return func(context.Context) (*Document, error) {
				if time.Now().Equal(begin) {
					return doc, nil
				}
				return nil, errors.New("away")
			}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = s.Run(ctx) })
		defer running.Wait()
		defer cancel()
		state := func() Status {
			synctest.Wait()
			domains, _ := s.Status()
			return domains[0]
		}
		if d := state(); !d.Confirmed.Equal(begin) {
			t.Fatalf("%+v", d)
		}
		time.Sleep(10 * time.Minute)
		if d := state(); !d.Stale || !d.Confirmed.Equal(begin) {
			t.Errorf("after ten minutes: %+v", d)
		}
		define("https://c.example")
		s.Reload()
		if d := state(); d.Source != "https://c.example" || !d.Stale || !d.Confirmed.Equal(begin) {
			t.Errorf("defined anew: %+v", d)
		}
	})
}

// TestLateAnswer: what an endpoint said is not believed after an import has ended the question.
func TestLateAnswer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("trust_domain: td-b.example\nendpoint: {url: 'https://b.example', profile: https_web}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: dir, Data: t.TempDir(), Own: func() (spiffeid.TrustDomain, bool) { return spiffeid.TrustDomain{}, false }})
	if err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString("td-b.example")
	stolen := &Document{trustDomain: td, authorities: []*x509.Certificate{rootUntil(t, time.Now().Add(time.Hour))}, sequence: 9, sequenced: true, hint: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	s.running, s.fetching = ctx, new(sync.WaitGroup)
	asked := make(chan context.Context, 2)
	s.ask = func(definition) (func(context.Context) (*Document, error), error) {
		return func(ctx context.Context) (*Document, error) {
			asked <- ctx
			<-ctx.Done()
			return nil, ctx.Err()
		}, nil
	}
	d := s.domains[td]
	s.start(d)
	first := <-asked
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootUntil(t, time.Now().Add(time.Hour)).Raw})
	if _, err := s.Import(td, good, true); err != nil {
		t.Fatal(err)
	}
	s.fetched(first, d, stolen, nil)
	s.publish()
	if set, _ := s.sets.Load(); set.Of(td).Roots.PEM() != string(good) {
		t.Error("an answer from before the import is believed")
	}
	cancel()
	s.fetching.Wait()
}

// TestFailing: an endpoint that fails is asked no sooner than after a quarter of the hint, and never sooner than the least one; and that
// it is left alone is no reason for which it fails.
func TestFailing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("trust_domain: td-b.example\nendpoint: {url: 'https://b.example', profile: https_web}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, hint := range []time.Duration{MinRefreshHint, time.Minute, MaxRefreshHint} {
		t.Run(hint.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				td := spiffeid.RequireTrustDomainFromString("td-b.example")
				doc := &Document{trustDomain: td, authorities: []*x509.Certificate{rootUntil(t, time.Now().Add(1000*time.Hour))}, hint: hint}
				s, err := Open(Config{Dir: dir, Data: t.TempDir(), Own: func() (spiffeid.TrustDomain, bool) { return spiffeid.TrustDomain{}, false }})
				if err != nil {
					t.Fatal(err)
				}
				const rest = 3 * time.Second
				var asked []time.Time
				s.ask = func(definition) (func(context.Context) (*Document, error), error) {
					return func(context.Context) (*Document, error) {
						asked = append(asked, time.Now())
						switch len(asked) {
						case 1:
							return doc, nil
						case 4:
							return nil, &remote.Error{RetryAfter: rest, Err: errors.New("not asked")}
						}
						return nil, &remote.Error{Attempts: 1, Err: errors.New("away")}
					}, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { _ = s.Run(ctx) })
				time.Sleep(8 * hint)
				domains, _ := s.Status()
				if p := domains[0].Problem; !strings.Contains(p, "away") || strings.Contains(p, "not asked") {
					t.Errorf("problem %q", p)
				}
				cancel()
				running.Wait()
				if len(asked) < 6 {
					t.Fatalf("asked %d times", len(asked))
				}
				for i := 2; i < len(asked); i++ {
					switch d := asked[i].Sub(asked[i-1]); {
					case i == 4 && d != rest:
						t.Errorf("asked again after %s, and was to be left alone for %s", d, rest)
					case i != 4 && d < max(MinRefreshHint, hint/4):
						t.Errorf("asked again after %s, at a hint of %s", d, hint)
					}
				}
			})
		})
	}
}
