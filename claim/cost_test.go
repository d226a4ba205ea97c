package claim_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mesh is one of n proxies on one machine, each with ten upstreams on ports of its own.
func mesh(n int) catalog.Contents {
	c := catalog.Contents{Mesh: catalog.Mesh{
		TrustDomain: spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul"), Datacenter: "dc1", Datacenters: []string{"dc1"},
	}}
	for i := range n {
		p := proxy(fmt.Sprintf("service-%05d-sidecar-proxy", i), uint16(1+i%60000))
		p.Service = identity.NewName(fmt.Sprintf("service-%05d", i))
		p.Inbound.LocalAddress = fmt.Sprintf("127.9.%d.%d", i/250, i%250+1)
		for k := range 10 {
			upstream(fmt.Sprintf("service-%05d", (i+k+1)%n), fmt.Sprintf("127.%d.%d.%d", 10+k, i/250, i%250+1), uint16(5000+k))(p)
		}
		c.Proxies = append(c.Proxies, p)
		c.Services = append(c.Services, &catalog.Service{Name: p.Service})
	}
	return c
}

// BenchmarkAdmit is what judging costs beside what the View costs that it is judged for: of a mesh that
// is read for the first time, and when one proxy of it changes.
func BenchmarkAdmit(b *testing.B) {
	const n = 1000
	c := mesh(n)
	changed := c
	changed.Proxies = append([]*catalog.Proxy(nil), c.Proxies...)
	other := *c.Proxies[n/2]
	other.Upstreams = append([]catalog.Upstream(nil), other.Upstreams...)
	other.Upstreams[3].BindPort++
	changed.Proxies[n/2] = &other
	if r := claim.New(claim.Config{}); len(r.Admit(changed).Proxies) != n || len(r.Refusals()) > 0 {
		b.Fatal(r.Refusals())
	}
	b.Run("first/claims", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			claim.New(claim.Config{}).Admit(c)
		}
	})
	b.Run("first/view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			new(catalog.View).Next(c)
		}
	})
	turns := [2]catalog.Contents{changed, c}
	b.Run("change/claims", func(b *testing.B) {
		b.ReportAllocs()
		r := claim.New(claim.Config{})
		r.Admit(c)
		for i := 0; b.Loop(); i++ {
			r.Admit(turns[i%2])
		}
	})
	b.Run("change/view", func(b *testing.B) {
		b.ReportAllocs()
		v := new(catalog.View).Next(c)
		for i := 0; b.Loop(); i++ {
			v = v.Next(turns[i%2])
		}
	})
}
