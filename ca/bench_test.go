package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// BenchmarkIssue is one leaf: key, request, signature, check.
func BenchmarkIssue(b *testing.B) {
	c := mustOpen(b, Config{Dir: caDir(b)})
	defer mustClose(b, c)
	issuer, id := issuerOf(b, c), service(c.TrustDomain(), "web").ID()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := issuer.issue(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCrowd is 10,000 sidecars that want a leaf at once: processor time of all threads, until the last one has it. Beside it, in turns, is
// what nobody can do without: keys and crypto/x509's certificates by the same key, as many at once as there are processors.
func BenchmarkCrowd(b *testing.B) {
	const leafs = 10_000
	c := mustOpen(b, Config{Dir: caDir(b)})
	defer mustClose(b, c)
	b.Run("leafs=10000", func(b *testing.B) {
		var took, bare time.Duration
		for b.Loop() {
			took += processorTime(b, func() { crowdOf(b, c, leafs) })
			b.StopTimer()
			bare += processorTime(b, func() { bareLoop(b, c, leafs) })
			b.StartTimer()
		}
		b.ReportMetric(float64(took.Microseconds())/1e3/float64(b.N), "cpu-ms/op")
		b.ReportMetric(float64(took)/float64(bare), "x-bare/op")
	})
}

// processorTime is that of all threads while f runs.
func processorTime(b *testing.B, f func()) time.Duration {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	runtime.GC() // of what was before
	before := used()
	f()
	return used() - before
}

// crowdOf has so many watch a leaf at once, until each has one.
func crowdOf(b *testing.B, c *CA, leafs int) {
	b.Helper()
	issuer := issuerOf(b, c)
	var all sync.WaitGroup
	for n := range leafs {
		id := service(c.TrustDomain(), fmt.Sprint("s-", n))
		all.Go(func() {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			if err := issuer.WatchSVID(ctx, identity.Caller{}, id, func(*sds.SVID) { cancel() }); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
}

// bareLoop makes as many keys and certificates as crypto/x509 does, by the key that signs the leafs of c.
func bareLoop(b *testing.B, c *CA, leafs int) {
	b.Helper()
	signer := c.authority.signer()
	var all sync.WaitGroup
	processors := runtime.GOMAXPROCS(0)
	for p := range processors {
		all.Go(func() {
			for n := p; n < leafs; n += processors {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					b.Error(err)
					return
				}
				_, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
					SerialNumber: big.NewInt(int64(n + 1)), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
					URIs: []*url.URL{service(c.TrustDomain(), fmt.Sprint("s-", n)).ID().URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
				}, signer.cert, key.Public(), signer.key)
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
