package issuance

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// BenchmarkStart is 10,000 proxies that get a leaf at once, by the built-in CA: processor time of all threads, of the same leafs with a
// record and without.
func BenchmarkStart(b *testing.B) {
	for _, recorded := range []bool{false, true} {
		name := "plain"
		if recorded {
			name = "recorded"
		}
		b.Run(name, func(b *testing.B) {
			authority, err := ca.Open(ca.Config{Dir: filepath.Join(b.TempDir(), "ca")})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = authority.Close() }()
			td := authority.TrustDomain()
			issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: authority, TrustDomain: td, TTL: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			var before, after syscall.Rusage
			for b.Loop() {
				source := sds.Source(issuer)
				end := func() {}
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
					b.Fatal(err)
				}
				if recorded {
					r, _ := open(b, filepath.Join(b.TempDir(), "issued-leafs"))
					end, source = running(b, r), r.Source(issuer)
				}
				jobs := make(chan int)
				var all sync.WaitGroup
				for range 16 {
					all.Go(func() {
						for n := range jobs {
							id := identity.Service{TrustDomain: td, Datacenter: "dc1", Name: identity.NewName("web")}
							ctx, cancel := context.WithCancel(b.Context())
							caller := identity.Caller{Proxy: identity.ProxyID("web-" + string(rune('a'+n%26)))}
							if err := source.WatchSVID(ctx, caller, id, func(*sds.SVID) { cancel() }); err != nil {
								b.Error(err)
							}
							cancel()
						}
					})
				}
				for n := range 10_000 {
					jobs <- n
				}
				close(jobs)
				all.Wait()
				end()
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
					b.Fatal(err)
				}
				cpu := time.Duration(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano()) * time.Nanosecond
				b.ReportMetric(cpu.Seconds(), "cpu-s")
			}
		})
	}
}
