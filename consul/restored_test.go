package consul

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Where one query notices that Consul's state was put back, another that waits for an index of before begins anew.
func TestRestored(t *testing.T) {
	for name, c := range map[string]struct {
		after20     string
		first, firm bool // the one that notices it, and the other one, take no turns
	}{
		"ended without anything new":               {after20: "40"},
		"ended with a lower index":                 {after20: "7"},
		"ended with a lower index, without turns":  {after20: "7", firm: true},
		"ended without anything new, before turns": {after20: "40", first: true},
	} {
		after20 := c.after20
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				play(f, step{index: "50"}, step{after: time.Hour, index: "51"}, step{index: "3", body: `["restored"]`})
				r := read(t, a, func(q *query[[]string]) { q.first = c.firm })
				var n atomic.Int32
				f.hook("/other", func(w http.ResponseWriter, r *http.Request) bool {
					switch n.Add(1) {
					case 1:
						w.Header().Set("X-Consul-Index", "40")
					case 2:
						time.Sleep(20 * time.Second)
						w.Header().Set("X-Consul-Index", after20)
					case 3:
						w.Header().Set("X-Consul-Index", "7")
					default:
						<-r.Context().Done()
					}
					_, _ = w.Write([]byte(`"x"`))
					return true
				})
				other := query[string]{client: a.client, metrics: a.metrics, path: "/other", first: c.first, got: func(string, meta) {}}
				other.failed = func(err error) bool { t.Errorf("%v", err); return false }
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- other.run(ctx) }()
				after(time.Minute)
				if got, want := r.values(), "v0@0s restored@20s"; got != want {
					t.Errorf("values %q, want %q", got, want)
				}
				if got, want := indexes(f), "0@0s 50@0s 0@20s 3@20s"; got != want {
					t.Errorf("indexes %q, want %q", got, want)
				}
				if errs := r.errors(); len(errs) > 0 {
					t.Errorf("errors: %s", strings.Join(errs, "; "))
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// One request that the agent does not answer does not have the agent taken for lost until something else is asked by itself, as nothing may change for
// minutes.
func TestDoubtedAgentIsAsked(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		running(t, a)
		after(35 * time.Second)
		const slow = "/v1/connect/intentions/match?web"
		f.hook(slow, func(_ http.ResponseWriter, r *http.Request) bool {
			f.hook(slow, nil)
			<-r.Context().Done() // as Consul may do while its servers have no leader
			return true
		})
		f.refuse(slow, http.StatusInternalServerError) // ends the query that waits
		after(0)
		f.file(slow, "match-web.json")
		var lost bool
		for since := time.Now(); time.Since(start) < 100*time.Second; {
			after(100 * time.Millisecond)
			s := a.Status()
			if lost = lost || !s.Connected || len(f.of("/v1/agent/self")) > 3; s.Connected {
				since = time.Now()
			}
			if time.Since(since) > time.Second { // it is asked within recoverySpread
				t.Fatalf("after %s: Status() = %+v", time.Since(start), s)
			}
		}
		if s := a.Status(); !lost || !s.Connected || !s.StaleSince.IsZero() {
			t.Errorf("lost %v, Status() = %+v", lost, s)
		}
	})
}
