package authz_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
)

// BenchmarkCheck is one decision without the transport: by a certificate seen before, over policies
// of several sizes, and by one never seen.
func BenchmarkCheck(b *testing.B) {
	ca := newIssuer(b)
	certificate := ca.certificate(b, decisiontable.Peer{URIs: []string{uri("web")}})
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprintf("intentions=%d", n), func(b *testing.B) {
			all := someIntentions()
			for i := range n {
				all = append(all, intention.Intention{Source: intention.Source{Name: identity.NewName(fmt.Sprint("s", i))}, Destination: identity.NewName("api")})
			}
			s := newServer(b, authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), all), Authorize: known})
			ctx, req := call(b.Context(), "api"), request("http", uri("web"), certificate, "api")
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Check(ctx, req); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	b.Run("certificate=new", func(b *testing.B) {
		s := newServer(b, authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), someIntentions()), Authorize: known})
		ctx, req := call(b.Context(), "api"), request("http", uri("web"), certificate, "api")
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			req.Attributes.Source.Certificate = certificate + fmt.Sprintf("%%0A%d", n)
			if _, err := s.Check(ctx, req); err != nil {
				b.Fatal(err)
			}
		}
	})
}
