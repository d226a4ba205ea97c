//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulDeny writes denials with `consul config write`. On tcp the live connections end, busy ones at once and idle ones within the drain time,
// and new ones are refused within a second; on http that is the next request, on whatever connection.
func TestConsulDeny(t *testing.T) { //nolint:tparallel // the parts share a mesh
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	m.Serve()
	const drain = 3 * time.Second
	cars := []*meshtest.Sidecar{m.LaunchSidecar("db", "--drain-time", drain.String()), m.LaunchSidecar("api"), m.LaunchSidecar("web")}
	for _, car := range cars {
		car.AwaitReady()
	}
	works(t, c, m)

	t.Run("tcp", func(t *testing.T) {
		live, idle := connect(t, m.Upstream("web", "db")), connect(t, m.Upstream("web", "db"))
		file := c.File("deny-db.hcl", `Kind = "service-intentions", Name = "db", Sources = [{ Name = "web", Action = "deny" }]`)
		written := c.Timed("config", "write", file)
		var liveEnded time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			for time.Since(written) < meshtest.Deadline {
				if a := meshtest.Exchange(live, "ping", 4); !a.Allowed() {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			liveEnded = time.Since(written)
		})
		_, err := meshtest.Within(promise+room, func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
		refused := time.Since(written)
		if err != nil {
			t.Errorf("a new connection is still let in after %v: %v", refused, err)
		}
		if wg.Wait(); liveEnded > promise+room {
			t.Errorf("the live connection ended after %v, want %v", liveEnded, promise)
		}
		if err := idle.SetReadDeadline(time.Now().Add(drain + room)); err != nil {
			t.Fatal(err)
		}
		if n, err := idle.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("the idle connection lives on after the drain time of %v: %d bytes, %v", drain, n, err)
		}
		figure(t, "new_refused_ms=%.0f busy_ended_ms=%.0f idle_ended_ms=%.0f drain_time_s=%.0f", millis(refused), millis(liveEnded), millis(time.Since(written)), drain.Seconds())
	})

	t.Run("http", func(t *testing.T) {
		for n := range 3 {
			url := "http://" + m.Upstream("web", "api")
			pooled := &http.Transport{MaxIdleConnsPerHost: 1}
			defer pooled.CloseIdleConnections()
			for range 20 { // so that web's Envoy has connections in its pool
				if a := meshtest.Get(pooled, url); !a.Allowed() {
					t.Fatalf("before: %v", a)
				}
			}
			turn := func(action string, want func(meshtest.Answer) error) time.Duration {
				file := c.File(action+"-api.hcl", `Kind = "service-intentions", Name = "api", Sources = [{ Name = "web", Action = "`+action+`" }]`)
				written := c.Timed("config", "write", file)
				_, err := meshtest.Within(promise+room, func() error { return want(meshtest.GetPlain(url)) })
				took := time.Since(written)
				if err != nil {
					t.Fatalf("%s: a new request after %v: %v", action, took, err)
				}
				// From the first new answer on there is no old one, on whichever connection.
				for range 50 {
					for kind, rt := range map[string]http.RoundTripper{"pooled": pooled, "new": &http.Transport{DisableKeepAlives: true}} {
						if err := want(meshtest.Get(rt, url)); err != nil {
							t.Fatalf("%s: a %s request after one that was answered as it should: %v", action, kind, err)
						}
					}
				}
				return took
			}
			denied := turn("deny", wantDenied)
			allowed := turn("allow", wantAllowed)
			figure(t, "round=%d denied_ms=%.0f allowed_ms=%.0f", n+1, millis(denied), millis(allowed))
		}
	})
	for _, car := range cars {
		if n := car.Stats()["listener_manager.listener_modified"]; n > 1 || n > 0 && car.Name != "db" {
			t.Errorf("%s: listener_modified %d", car.Name, n)
		}
	}
	out := m.MustRun("status")
	if n := strings.Count(out, "warning"); n != 1 || !strings.Contains(out, "warning: ACLs: they are off") {
		t.Errorf("status does not warn of ACLs that are off, and of nothing else: %s", out)
	}
}
