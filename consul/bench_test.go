package consul

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// BenchmarkTurn is one change of something on a node with many proxies.
func BenchmarkTurn(b *testing.B) {
	for _, size := range []int{10, 1000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			const upstreams = 11
			a, err := New(Config{Address: "fake:8500", Token: "t", MaxQueries: 10_000})
			if err != nil {
				b.Fatal(err)
			}
			k := &a.known
			k.self = found[self]{ok: true}
			k.self.value.Config.Datacenter = "dc1"
			k.datacenters = found[[]string]{ok: true, value: []string{"dc1"}}
			roots := testRoots(b, testAuthority(b))
			k.roots.value, k.roots.ok = &roots, true
			k.mesh.ok, k.proxyDefaults.ok, k.services.ok = true, true, true
			k.services.value.Node = &node{Node: "n1"}
			w := &watcher{agent: a}
			for i := range size {
				name := fmt.Sprintf("svc-%d", i)
				r := &registration{Kind: kindProxy, ID: name + "-proxy", Port: 20000 + i, Proxy: &proxyRegistration{DestinationServiceName: name, LocalServicePort: 80}}
				for u := range upstreams {
					r.Proxy.Upstreams = append(r.Proxy.Upstreams, &upstreamRegistration{DestinationName: fmt.Sprintf("svc-%d", (i+u+1)%max(size, 12)), LocalBindPort: 5000 + u})
				}
				k.services.value.Services = append(k.services.value.Services, r)
			}
			for i := range max(size, 12) {
				name := fmt.Sprintf("svc-%d", i)
				c := &watched[*chain]{}
				c.ok, c.stop = true, func() {}
				c.value = &chain{ServiceName: name, StartNode: "r", Nodes: map[string]*chainNode{"r": {Type: "resolver", Resolver: &chainResolver{Default: true, Target: "t"}}}, Targets: map[string]*chainTarget{"t": {Service: name, Datacenter: "dc1"}}}
				k.chains[name] = c
				e := &watched[[]*instance]{}
				e.ok, e.stop, e.at = true, func() {}, time.Now()
				for n := range 10 {
					e.value = append(e.value, &instance{Service: &registration{ID: name, Address: fmt.Sprintf("10.0.%d.%d", n, i%250), Port: 20000}})
				}
				k.endpoints[name] = e
				t := &watched[[]intention.Intention]{}
				t.ok, t.stop, t.at = true, func() {}, time.Now()
				t.value = []intention.Intention{{Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("*")}}
				k.intentions[name] = t
			}
			if size < 12 { // what nobody wants is dropped
				delete(k.intentions, "svc-11")
			}
			var got catalog.Contents
			as := newAssembly(a, func(c catalog.Contents) { got = c })
			w.stop = func() {}
			b.ReportAllocs()
			for b.Loop() {
				as.turn(b.Context(), w)
			}
			if len(got.Proxies) != size {
				b.Fatalf("%d proxies", len(got.Proxies))
			}
		})
	}
}
