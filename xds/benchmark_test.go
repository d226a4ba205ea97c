package xds

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/xdstest"
	"github.com/sallyport/sallyport/snapshot"
)

const benchmarkStreams = 200

// fleet is a mesh of services that each dial ten others, and an Envoy for each.
func fleet(b *testing.B) (m *mesh, envoys []*xdstest.Envoy) {
	b.Helper()
	m = start(b, Config{})
	m.pause = 0
	name := func(n int) string { return fmt.Sprintf("service-%d", n%benchmarkStreams) }
	for n := range benchmarkStreams {
		var upstreams []string
		for i := range 9 {
			upstreams = append(upstreams, name(n+7*i+8))
		}
		m.service(name(n), catalog.TCP, append(upstreams, "shared")...)
	}
	m.service("shared", catalog.TCP)
	m.publish()
	for n := range benchmarkStreams {
		envoys = append(envoys, xdstest.NewEnvoy(m.conn, node(name(n))))
	}
	return m, envoys
}

// connect runs the Envoys until the function that is returned is called.
func (m *mesh) connect(envoys []*xdstest.Envoy) (stop func()) {
	var stops []func()
	for n, e := range envoys {
		stops = append(stops, m.runEnvoy(e, fmt.Sprintf("service-%d", n)))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// await waits until ok holds for each Envoy, and returns how long it took for each since begin, in
// order.
func await(b *testing.B, begin time.Time, envoys []*xdstest.Envoy, ok func(*xdstest.Envoy) bool) []time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	took := make([]time.Duration, len(envoys))
	var all sync.WaitGroup
	for n, e := range envoys {
		all.Go(func() {
			if !e.Await(ctx, func() bool { return ok(e) }) {
				b.Errorf("envoy %d waits in vain", n)
			}
			took[n] = time.Since(begin)
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

func reportTimes(b *testing.B, p50, last []time.Duration) {
	b.Helper()
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds()) / 1000
	}
	b.ReportMetric(median(p50), "p50-ms")
	b.ReportMetric(median(last), "last-ms")
	b.ReportMetric(0, "ns/op") // the times above are what it is about
}

// BenchmarkFirstConfiguration is from the opening of all streams to each Envoy having all it needs
// to start.
func BenchmarkFirstConfiguration(b *testing.B) {
	b.Run(fmt.Sprintf("streams=%d", benchmarkStreams), func(b *testing.B) {
		b.ReportAllocs()
		m, _ := fleet(b)
		var p50, last []time.Duration
		for b.Loop() {
			envoys := make([]*xdstest.Envoy, benchmarkStreams)
			for n := range envoys {
				envoys[n] = xdstest.NewEnvoy(m.conn, node(fmt.Sprintf("service-%d", n)))
			}
			begin := time.Now()
			stop := m.connect(envoys)
			took := await(b, begin, envoys, (*xdstest.Envoy).Complete)
			p50, last = append(p50, took[len(took)/2]), append(last, took[len(took)-1])
			stop()
		}
		reportTimes(b, p50, last)
	})
}

// BenchmarkEndpointChange is from the publication of an endpoint that all dial to each Envoy's ACK.
func BenchmarkEndpointChange(b *testing.B) {
	b.Run(fmt.Sprintf("streams=%d", benchmarkStreams), func(b *testing.B) {
		b.ReportAllocs()
		m, envoys := fleet(b)
		const sni = "shared.default.dc1.internal." + trustDomain
		acked := make(chan time.Time, benchmarkStreams)
		for _, e := range envoys {
			e.Accepted = func(r *discoveryv3.DeltaDiscoveryResponse) {
				if r.GetTypeUrl() == endpoints.url() && len(r.GetResources()) == 1 && r.GetResources()[0].GetName() == sni {
					select {
					case acked <- time.Now():
					default: // the first configuration
					}
				}
			}
		}
		defer m.connect(envoys)()
		await(b, time.Now(), envoys, (*xdstest.Envoy).Complete)
		time.Sleep(100 * time.Millisecond)
		for len(acked) > 0 {
			<-acked
		}
		var p50, last []time.Duration
		for b.Loop() {
			time.Sleep(2 * stormQuiet)
			shared := &m.contents.Endpoints[len(m.contents.Endpoints)-1]
			shared.List[0].Port++
			begin := time.Now()
			m.publish()
			var took []time.Duration
			for range benchmarkStreams {
				select {
				case at := <-acked:
					took = append(took, at.Sub(begin))
				case <-time.After(time.Minute):
					b.Fatal("an ACK did not come")
				}
			}
			p50, last = append(p50, took[len(took)/2]), append(last, took[len(took)-1])
		}
		reportTimes(b, p50, last)
	})
}

// cpuTime is the processor time that the process has used, in all threads: what a change costs in
// the background counts too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rounds is a publisher with a session for each of n services, which each dial ten others and allow
// one more. All sessions have all they need. Nobody is connected, so nothing is sent.
func rounds(b *testing.B, n int) (p *publisher, m *mesh, contents catalog.Contents) {
	b.Helper()
	m = start(b, Config{})
	name := func(i int) string { return fmt.Sprintf("service-%d", i%n) }
	for i := range n {
		var upstreams []string
		for u := range 10 {
			upstreams = append(upstreams, name(i+7*u+8))
		}
		proxy := m.service(name(i), catalog.TCP, upstreams...)
		for u := range proxy.Upstreams { // as on machines of their own
			proxy.Upstreams[u].BindPort = uint16(9000 + u)
		}
		m.intend(name(i+1), name(i), intention.Allow)
	}
	// One that does not run: a publisher is for one goroutine.
	server, err := New(Config{Views: &m.store.Views, Credentials: m.server.credentials, Authorize: byMetadata{}.Stream})
	if err != nil {
		b.Fatal(err)
	}
	p = newPublisher(server)
	features := snapshot.FeaturesOf(node(name(0)))
	var sessions []*session
	for i := range n {
		s := newSession(server, identity.Caller{Proxy: proxyID(name(i))}, features, func(error) {})
		b.Cleanup(s.leafs.Close)
		sessions = append(sessions, s)
		if err := server.join(s); err != nil {
			b.Fatal(err)
		}
	}
	contents = m.contents.Contents()
	m.store.Publish(contents)
	p.publish(p.concerned(), time.Now(), false)
	p.record()
	deadline := time.Now().Add(time.Minute)
	for complete := 0; complete < n; { // until all leafs are there
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d sessions have all they need", complete, n)
		}
		p.publish(sessions, time.Now(), true)
		complete = 0
		for _, s := range sessions {
			if s.published.complete {
				complete++
			}
		}
	}
	return p, m, contents
}

// record waits until all generations are recorded.
func (p *publisher) record() {
	p.recorder.start(p.server.generations, time.Now(), func(f func()) { f() })
	if p.recorder.busy {
		p.recorded(<-p.recorder.done)
	}
}

// BenchmarkPublishRound is one change of an endpoint that ten dial, from the catalog's contents to what each
// session is to have.
func BenchmarkPublishRound(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p, m, contents := rounds(b, n)
			b.ReportAllocs()
			begin := cpuTime(b)
			for i := 0; b.Loop(); i++ {
				contents.Endpoints = slices.Clone(contents.Endpoints)
				changed := *contents.Endpoints[n/2]
				changed.List = []catalog.Endpoint{{Address: "10.0.0.1", Port: uint16(i)}}
				contents.Endpoints[n/2] = &changed
				m.store.Publish(contents)
				if told := p.concerned(); len(told) != 10 {
					b.Fatalf("%d are told, want those that dial the service", len(told))
				} else {
					p.publish(told, time.Now(), false)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-begin).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// BenchmarkWildcardRound is one more intention for all destinations, of ten to twenty that there
// are, likewise. It concerns everybody.
func BenchmarkWildcardRound(b *testing.B) {
	const n = 1000
	b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
		p, m, contents := rounds(b, n)
		own := contents.Intentions
		b.ReportAllocs()
		begin := cpuTime(b)
		for i := 0; b.Loop(); i++ {
			all := &catalog.Destination{Name: identity.Name{Partition: "default", Namespace: "default", Service: identity.Wildcard}}
			for k := range 10 + i%10 {
				all.Intentions = append(all.Intentions, intention.Intention{
					Source:      intention.Source{Name: identity.Name{Partition: "default", Namespace: "default", Service: fmt.Sprintf("operator-%d", k)}},
					Destination: all.Name, Action: intention.Allow,
				})
			}
			contents.Intentions = append([]*catalog.Destination{all}, own...)
			m.store.Publish(contents)
			if told := p.concerned(); len(told) != n {
				b.Fatalf("%d are told, want all", len(told))
			} else {
				p.publish(told, time.Now(), false)
			}
			p.record()
		}
		b.ReportMetric(float64((cpuTime(b)-begin).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
}
