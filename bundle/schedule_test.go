package bundle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
