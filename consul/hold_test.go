package consul

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// After the agent was away its checks come back critical until they have run once.
func TestHold(t *testing.T) {
	healthy := func(t *testing.T, p *published) bool { return strings.Contains(endpointsOf(p.must(t), "api"), "true") }
	t.Run("not without a loss", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			f.set("/v1/health/connect/api", critical(t))
			after(100 * time.Millisecond)
			if healthy(t, p) {
				t.Errorf("held: %s", endpointsOf(p.must(t), "api"))
			}
		})
	})
	t.Run("not what was critical before", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			f.set("/v1/health/connect/api", critical(t))
			after(time.Minute)
			f.kill()
			after(20 * time.Second)
			f.revive()
			after(3 * time.Second)
			if healthy(t, p) {
				t.Errorf("held: %s", endpointsOf(p.must(t), "api"))
			}
		})
	})
	t.Run("until they have run", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			before := endpointsOf(p.must(t), "api")
			f.kill()
			after(20 * time.Second)
			f.set("/v1/health/connect/api", critical(t))
			f.revive()
			after(8 * time.Second)
			f.file("/v1/health/connect/api", "health-api.json")
			after(30 * time.Second)
			if !p.every(func(c catalog.Contents) bool { e := endpointsOf(c, "api"); return e == before || e == "unknown" }) {
				t.Error("endpoints were lost for a while")
			}
		})
	})
	t.Run("for 15 s", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			f.kill()
			after(20 * time.Second)
			f.revive()
			after(10 * time.Second)
			f.set("/v1/health/connect/api", critical(t))
			after(2 * time.Second)
			if !healthy(t, p) {
				t.Error("not held 12 s after the agent came back")
			}
			after(6 * time.Second)
			if healthy(t, p) {
				t.Error("held 18 s after the agent came back")
			}
			// A later loss brings nothing back.
			f.kill()
			after(5 * time.Second)
			f.revive()
			after(3 * time.Second)
			if healthy(t, p) {
				t.Error("the critical became healthy")
			}
		})
	})
	t.Run("from when a server with a leader answers", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			before := endpointsOf(p.must(t), "api")
			f.kill()
			after(2 * time.Second)
			var leaderless atomic.Bool
			leaderless.Store(true)
			for _, path := range []string{
				"/v1/agent/self", "/v1/catalog/datacenters", "/v1/agent/connect/ca/roots", "/v1/catalog/node-services/n1", "/v1/health/connect/api",
				"/v1/config/proxy-defaults/global", "/v1/config/mesh/mesh", "/v1/discovery-chain/web", "/v1/discovery-chain/api", "/v1/connect/intentions/match?web", "/v1/connect/intentions/match?api",
			} {
				f.hook(path, func(w http.ResponseWriter, _ *http.Request) bool {
					if leaderless.Load() {
						w.Header().Set("X-Consul-Knownleader", "false")
						http.Error(w, "No cluster leader", http.StatusInternalServerError)
					}
					return leaderless.Load()
				})
			}
			f.revive()
			after(9 * time.Second) // the agent answers, and there is no leader
			leaderless.Store(false)
			after(2 * time.Second)
			f.set("/v1/health/connect/api", []any{}) // registered anew,
			after(200 * time.Millisecond)
			f.set("/v1/health/connect/api", critical(t)) // critical,
			after(9 * time.Second)
			f.file("/v1/health/connect/api", "health-api.json") // and passing
			after(30 * time.Second)
			if got := endpointsOf(p.must(t), "api"); got != before {
				t.Errorf("at last: %s", got)
			}
			if !p.every(func(c catalog.Contents) bool {
				e := endpointsOf(c, "api")
				return e == before || e == "unknown"
			}) {
				t.Error("endpoints were gone, or critical, for a while")
			}
		})
	})
	t.Run("for 15 s of an agent that comes and goes", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			f.set("/v1/health/connect/api", critical(t))
			f.kill() // in the same instant: the answer is not read
			for range 4 {
				after(time.Second)
				f.revive()
				after(5 * time.Second)
				f.kill()
			}
			if healthy(t, p) {
				t.Error("held for 24 s")
			}
		})
	})
	t.Run("of what nobody dials for a moment", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			before := endpointsOf(p.must(t), "api")
			f.kill()
			after(2 * time.Second)
			f.set("/v1/health/connect/api", critical(t))
			f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1", "Datacenter": "dc1"}, "Services": []any{}})
			f.revive()
			after(4 * time.Second)
			if got := ids(p.must(t)); got != "" {
				t.Fatalf("proxies %q, want none", got)
			}
			f.file("/v1/catalog/node-services/n1", "node-services.json")
			after(7 * time.Second) // it has waited for what its other upstream is
			if got := endpointsOf(p.must(t), "api"); got != before {
				t.Errorf("endpoints %s, want %s", got, before)
			}
			after(20 * time.Second)
			if healthy(t, p) {
				t.Error("held for ever")
			}
		})
	})
	t.Run("not for long if there is none", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.mesh()
			p, _ := running(t, a)
			after(time.Minute)
			f.kill()
			after(20 * time.Second)
			f.set("/v1/health/connect/api", []any{})
			f.revive()
			after(20 * time.Second)
			if got := endpointsOf(p.must(t), "api"); got != "" {
				t.Errorf("instances that are not registered any more: %s", got)
			}
		})
	})
}
