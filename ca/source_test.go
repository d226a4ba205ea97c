package ca

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// TestAsSource: what the CA signs passes all that sds looks at, for days, and after a restart the
// roots are the same to the byte.
func TestAsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		var roots string
		for range 2 {
			c := mustOpen(t, Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute})
			stop := run(t, c)
			registry := prometheus.NewRegistry()
			issuer := issuerOf(t, c)
			credentials, err := sds.New(sds.Config{Source: issuer, Registerer: registry})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- credentials.Run(ctx) }()
			var woken atomic.Int64
			l, web := credentials.Open(identity.Caller{Proxy: "web-proxy"}, func() { woken.Add(1) }), service(c.TrustDomain(), "web")
			l.SVID(web)
			synctest.Wait()
			for range 60 * 6 {
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if _, _, err := x509svid.Verify(l.SVID(web).Certificates, bundleOf(c)); err != nil {
					t.Fatal(err)
				}
			}
			before := l.SVID(web)
			if err := credentials.Rotate(identity.NewName("web")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if l.SVID(web) == before {
				t.Error("Rotate did not change the leaf")
			}
			if n, signed := woken.Load(), int64(testutil.ToFloat64(issuer.issued)); n != signed || n < 60 || n > 102 {
				t.Errorf("woken %d times for %d leafs in an hour, want once for each of 67 to 101", n, signed)
			}
			r, ok := credentials.Roots()
			if !ok {
				t.Fatal("no roots")
			}
			if roots != "" && roots != r.PEM() {
				t.Error("the roots changed with a restart")
			}
			roots = r.PEM()
			l.Close()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			stop()
			mustClose(t, c)
		}
	})
}
