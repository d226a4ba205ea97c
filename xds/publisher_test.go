package xds

import (
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
)

func TestStorm(t *testing.T) {
	ms := func(n int) time.Time { return time.Unix(1000, 0).Add(time.Duration(n) * time.Millisecond) }
	for name, tt := range map[string]struct {
		changes []int // milliseconds
		want    []int
	}{
		"one":                      {[]int{0}, []int{0}},
		"apart":                    {[]int{0, 100, 200}, []int{0, 100, 200}},
		"two at once":              {[]int{0, 1}, []int{0, 21}},
		"a burst":                  {[]int{0, 5, 10, 15, 200}, []int{0, 35, 200}},
		"a storm without a pause":  {every(10, 0, 1000), []int{0, 510, 1010}},
		"right after the last one": {[]int{0, 20}, []int{0, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			var s storm
			var got []int
			for now := range 2000 {
				for _, c := range tt.changes {
					if c == now {
						s.change(ms(now))
					}
				}
				if s.due(ms(now)) {
					got = append(got, now)
					s.published(ms(now))
				}
			}
			if len(got) != len(tt.want) {
				t.Fatalf("published at %v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Fatalf("published at %v, want %v", got, tt.want)
				}
			}
		})
	}
}

func every(step, from, to int) (out []int) {
	for n := from; n < to; n += step {
		out = append(out, n)
	}
	return out
}

func TestInternedAcrossProxies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		m.service("web", catalog.TCP, "api")
		m.service("other", catalog.TCP, "api")
		m.service("api", catalog.TCP)
		m.publish()
		for _, service := range []string{"web", "other"} {
			c := m.stream(service)
			c.subscribe(endpoints, apiSNI)
			c.accept("endpoint " + apiSNI)
			c.subscribe(secrets, "roots")
			c.accept("secret roots")
		}
		kept := map[kind]map[*discoveryv3.Resource]bool{endpoints: {}, secrets: {}}
		for _, n := range m.server.sessions() {
			kept[endpoints][n.target.resources[endpoints].Get(apiSNI)] = true
			kept[secrets][n.target.resources[secrets].Get("roots")] = true
		}
		if len(kept[endpoints]) != 1 || len(kept[secrets]) != 1 {
			t.Errorf("%d endpoints and %d roots are kept, want one of each", len(kept[endpoints]), len(kept[secrets]))
		}
	})
}

// What is kept of proxies goes when they do.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.configure()
		m.contents.Proxies = m.contents.Proxies[1:]
		m.publish()
		synctest.Wait()
		m.contents.Endpoints[0].List[0].Port++
		m.publish()
		synctest.Wait()
		m.server.mu.Lock()
		defer m.server.mu.Unlock()
		if len(m.server.proxies) != 0 || len(m.server.pending) != 0 {
			t.Errorf("%d proxies and %d sessions are remembered", len(m.server.proxies), len(m.server.pending))
		}
	})
}
