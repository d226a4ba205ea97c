package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// lab is a CA with two roots, which signs by the first that it does not distrust if it may.
type lab struct {
	roots latest.Value[[]*x509.Certificate]

	mu    sync.Mutex
	by    *testca.Pair
	asked int
}

func (l *lab) use(by *testca.Pair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.by = by
}

func (l *lab) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *lab) Sign(_ context.Context, r ca.UpstreamRequest) ([]*x509.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: l.by.Cert.SerialNumber, Subject: csr.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(r.TTL),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, l.by.Cert, csr.PublicKey, l.by.Key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return []*x509.Certificate{cert}, err
}

func (l *lab) WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error {
	l.roots.Watch(ctx, f)
	return nil
}

// nobody is a ca.Gate of a mesh in which one proxy is silent for ever.
type nobody struct{}

func (nobody) Untold([]*x509.Certificate) []ca.Holder { return []ca.Holder{{Name: "proxy silent"}} }
func (nobody) Outdated(*x509.Certificate) []ca.Holder { return []ca.Holder{{Name: "proxy silent"}} }
func (nobody) Changed() <-chan struct{}               { return nil }

// TestDistrust: a root that a plug-in distrusts leaves without waiting for the silent as soon as the plug-in signs under another one, which it
// is asked for less and less, and no more when it trusts the root again.
func TestDistrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := func(n int) *testca.Pair {
			return testca.Sign(t, &x509.Certificate{
				Subject: pkix.Name{CommonName: fmt.Sprint("root ", n)}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
			}, nil)
		}
		one, two := root(1), root(2)
		l := &lab{}
		l.use(one)
		l.roots.Set([]*x509.Certificate{one.Cert})
		c, err := ca.Open(ca.Config{
			Dir: filepath.Join(t.TempDir(), "ca"), TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test"), Gate: nobody{}, Upstreams: map[string]ca.UpstreamConfig{"lab": {Upstream: l}}, Provider: "lab",
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var list latest.Value[[][sha256.Size]byte]
		var runs sync.WaitGroup
		defer runs.Wait()
		defer cancel()
		runs.Go(func() { _ = c.Run(ctx) })
		runs.Go(func() { distrust(ctx, slog.New(slog.DiscardHandler), c, "lab", &list) })
		time.Sleep(time.Minute)
		if asked := l.count(); asked != 1 {
			t.Fatalf("asked %d times", asked)
		}

		list.Set([][sha256.Size]byte{sha256.Sum256(one.Cert.Raw)})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if asked := l.count(); asked < 10 || asked > 40 || len(c.Status().Roots) != 1 {
			t.Errorf("asked %d times in two hours in which there is no other root; %+v", asked, c.Status().Roots)
		}
		list.Set(nil)
		time.Sleep(time.Minute)
		asked := l.count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := l.count() - asked; n > 0 {
			t.Errorf("asked %d times more though the root is trusted again", n)
		}

		list.Set([][sha256.Size]byte{sha256.Sum256(one.Cert.Raw)})
		l.use(two)
		l.roots.Set([]*x509.Certificate{two.Cert})
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		want := sha256.Sum256(two.Cert.Raw)
		if s := c.Status(); len(s.Roots) != 1 || s.Roots[0].SHA256 != hex.EncodeToString(want[:]) || s.Rotation != nil {
			t.Errorf("%+v, %+v", s.Roots, s.Rotation)
		}
		cancel()
		runs.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
