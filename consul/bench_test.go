package consul

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

const benchUpstreams = 11

// benchAssembly knows all of a node with size sidecars that dial each other, without an agent.
func benchAssembly(b *testing.B, size, perService int, publish func(catalog.Contents)) *assembly {
	b.Helper()
	a, err := New(Config{Address: "fake:8500", Token: "t", MaxQueries: 100_000})
	if err != nil {
		b.Fatal(err)
	}
	k := &a.known
	k.self.ok, k.datacenters.ok, k.roots.ok, k.mesh.ok, k.proxyDefaults.ok, k.services.ok, k.matched = true, true, true, true, true, true, true
	k.self.value.Config.Datacenter = "dc1"
	k.datacenters.value = []string{"dc1"}
	roots := testRoots(b, testAuthority(b))
	k.roots.value = &roots
	k.services.value = &nodeServices{Node: &node{Node: "n1"}}
	k.wildcard = catalog.ByDestination([]intention.Intention{{Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("*")}})[0]
	for i := range size {
		name := fmt.Sprintf("svc-%d", i)
		r := &registration{Kind: kindProxy, ID: name + "-proxy", Port: 20000 + i, Proxy: &proxyRegistration{DestinationServiceName: name, LocalServicePort: 80}}
		for u := range benchUpstreams {
			r.Proxy.Upstreams = append(r.Proxy.Upstreams, &upstreamRegistration{DestinationName: fmt.Sprintf("svc-%d", (i+u+1)%size), LocalBindPort: 5000 + u})
		}
		k.services.value.Services = append(k.services.value.Services, r)
		c := &watch[*discovery]{stop: func() {}}
		c.ok = true
		c.value = &discovery{chain: &chain.Chain{Service: identity.NewName(name), Datacenter: "dc1", Protocol: "tcp", Default: true}}
		k.chains[name] = c
		e := &watch[instances]{stop: func() {}}
		list, err := decodeList[*instance](benchAnswer(b, name, perService, false))
		if err != nil {
			b.Fatal(err)
		}
		e.ok, e.value = true, readInstances(list, false)
		k.endpoints[name] = e
		t := &watch[matched]{stop: func() {}}
		t.ok = true
		t.value.own = catalog.ByDestination([]intention.Intention{{Source: intention.Source{Name: identity.NewName("web")}, Destination: identity.NewName(name), Action: intention.Allow}})[0]
		k.intentions[name] = t
	}
	return newAssembly(a, publish)
}

// benchAnswer is what an agent says of the instances of a service, of which one changes its weight.
func benchAnswer(b *testing.B, name string, n int, heavy bool) []byte {
	b.Helper()
	type object = map[string]any
	var list []object
	for n := range n {
		weight := 1
		if heavy && n == 0 {
			weight = 2
		}
		check := func(id string) object {
			return object{"Node": fmt.Sprintf("node-%d", n), "CheckID": id, "Name": "Service '" + name + "' check", "Status": "passing", "Notes": "", "Output": "HTTP GET http://127.0.0.1:8080/health: 200 OK Output: fine", "ServiceID": name, "ServiceName": name, "ServiceTags": []string{}, "Type": "http", "Interval": "10s", "Timeout": "5s", "ExposedPort": 0, "Definition": object{}, "CreateIndex": 12, "ModifyIndex": 13}
		}
		list = append(list, object{
			"Node":    object{"ID": "1e6a7b9c-0000-1111-2222-333344445555", "Node": fmt.Sprintf("node-%d", n), "Address": "10.0.0.1", "Datacenter": "dc1", "TaggedAddresses": object{"lan": "10.0.0.1", "wan": "10.0.0.1"}, "Meta": object{"consul-network-segment": "", "consul-version": "1.19.2"}, "CreateIndex": 5, "ModifyIndex": 7},
			"Service": object{"Kind": "connect-proxy", "ID": name + "-sidecar-proxy", "Service": name + "-sidecar-proxy", "Tags": []string{}, "Address": fmt.Sprintf("10.0.1.%d", n), "Port": 20000, "Meta": nil, "Weights": object{"Passing": weight, "Warning": 1}, "EnableTagOverride": false, "Proxy": object{"DestinationServiceName": name, "DestinationServiceID": name, "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080, "Mode": "", "Config": object{"max_inbound_connections": 500}, "MeshGateway": object{}, "Expose": object{}, "Upstreams": []object{{"DestinationType": "service", "DestinationName": "db", "LocalBindPort": 5000}}}, "Connect": object{}, "PeerName": "", "CreateIndex": 12, "ModifyIndex": 12},
			"Checks":  []object{check("serfHealth"), check("service:" + name), check("alias")},
		})
	}
	body, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmark measures f, by processor time too, as that says more where others share the machine.
func benchmark(b *testing.B, f func(i int)) {
	b.Helper()
	b.ReportAllocs()
	n, before := 0, cpu(b)
	for b.Loop() {
		f(n)
		n++
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n)/1000, "cpu-ms/op")
}

// BenchmarkEndpoints is one answer about the endpoints of one service, from its bytes to contents handed
// to publish.
func BenchmarkEndpoints(b *testing.B) {
	for _, c := range []struct{ sidecars, instances int }{{20, 1}, {1000, 1}, {1000, 10}, {10_000, 1}} {
		b.Run(fmt.Sprintf("sidecars=%d,instances=%d", c.sidecars, c.instances), func(b *testing.B) {
			published := 0
			as := benchAssembly(b, c.sidecars, c.instances, func(catalog.Contents) { published++ })
			as.turn(b.Context())
			const name = "svc-7"
			q := endpointsQuery(name)
			attach(b.Context(), as.agent, &as.agent.known.endpoints[name].queryState, &q)
			bodies := [][]byte{benchAnswer(b, name, c.instances, true), benchAnswer(b, name, c.instances, false)}
			before := published
			n := 0
			benchmark(b, func(i int) {
				value, err := q.decode(bodies[i%2])
				if err != nil || q.doubt(value) {
					b.Fatal(err)
				}
				q.got(value, meta{index: 1})
				as.turn(b.Context())
				n++
			})
			if published-before != n {
				b.Fatalf("%d of %d answers were published", published-before, n)
			}
		})
	}
}

// BenchmarkRebuild is one change of anything else.
func BenchmarkRebuild(b *testing.B) {
	for _, size := range []int{20, 1000} {
		b.Run(fmt.Sprintf("sidecars=%d", size), func(b *testing.B) {
			var got catalog.Contents
			as := benchAssembly(b, size, 1, func(c catalog.Contents) { got = c })
			benchmark(b, func(int) {
				as.agent.known.epoch++
				as.turn(b.Context())
			})
			if len(got.Proxies) != size || len(got.Services) != size || len(got.Intentions) != size+1 {
				b.Fatalf("%d proxies, %d services, %d destinations", len(got.Proxies), len(got.Services), len(got.Intentions))
			}
		})
	}
}
