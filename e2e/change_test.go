//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// promise is what sallyport promises for a reload and for a revocation; room is what a busy machine may take on top before a test fails.
const (
	promise = time.Second
	room    = 3 * time.Second
)

func wantDenied(a meshtest.Answer) error {
	if a.Denied() {
		return nil
	}
	return errors.New(a.String())
}

func wantAllowed(a meshtest.Answer) error {
	if a.Allowed() {
		return nil
	}
	return errors.New(a.String())
}

// pair is a mesh in which web dials api over http and db over tcp.
func pair(t *testing.T, flags ...string) (m *meshtest.Mesh, web, api, db *meshtest.Sidecar) {
	t.Helper()
	m = newMesh(t, flags...)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello from api")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	all := m.Sidecars("web", "api", "db")
	return m, all[0], all[1], all[2]
}

// busy is load of every kind on the mesh that pair makes.
func busy(t *testing.T, m *meshtest.Mesh) *meshtest.Load {
	t.Helper()
	return startLoad(t, meshtest.LoadConfig{
		URL: "http://" + m.Upstream("web", "api"), KeepAlive: 100, Fresh: 25,
		TCP: m.Upstream("web", "db"), Held: 8, Dialled: 20,
	})
}

// rotate rotates the leafs of all the sidecars n times and returns how long each took to serve with the new one.
func rotate(t *testing.T, m *meshtest.Mesh, n int, cars ...*meshtest.Sidecar) (took []time.Duration) {
	t.Helper()
	for round := range n {
		if round > 0 {
			time.Sleep(300 * time.Millisecond) // so that there is load between the rotations
		}
		for _, c := range cars {
			old, err := c.Leaf()
			if err != nil {
				t.Fatal(err)
			}
			m.MustRun("leaf", "rotate", c.Name)
			took = append(took, meshtest.Await(t, c.Name+" serves with its new leaf", func() error {
				l, err := c.Leaf()
				if err == nil && l.Serial == old.Serial {
					err = errors.New("still the old serial " + l.Serial)
				}
				return err
			}))
		}
	}
	return took
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// unmodified remembers what the Envoys counted of changes to listeners and clusters; the function that it returns fails the
// test if one of these counters moved.
func unmodified(t *testing.T, cars ...*meshtest.Sidecar) (check func(what string)) {
	t.Helper()
	var before []map[string]int64
	for _, c := range cars {
		before = append(before, c.Stats().Modified())
	}
	return func(what string) {
		t.Helper()
		for n, c := range cars {
			if after := c.Stats().Modified(); !maps.Equal(before[n], after) {
				t.Errorf("%s: %s's Envoy counted %v, before %v", what, c.Name, after, before[n])
			}
		}
	}
}

func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	same := unmodified(t, web, api, db)
	load := busy(t, m)
	took := rotate(t, m, 20, web, api, db)
	unscathed(t, "20 rotations of 3 leafs", load.Stop())
	same("20 rotations")
	figure(t, "rotations=%d rotate_to_served_median_ms=%.0f max_ms=%.0f listener_modified=%d", len(took), millis(median(took)), millis(slices.Max(took)), db.Stats()["listener_manager.listener_modified"])
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// TestUnrelatedAndLooseningChanges adds intentions for other sources, and takes ones away that denied: no connection ends.
func TestUnrelatedAndLooseningChanges(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	same := unmodified(t, web, api, db)
	load := busy(t, m)
	apiRules, dbRules := meshtest.Intentions{"web": "allow"}, meshtest.Intentions{"web": "allow"}
	change := func() {
		t.Helper()
		rds, sds := api.Stats().Updates()["RDS"], db.Stats().Updates()["SDS"]
		m.Intend("api", apiRules)
		m.Intend("db", dbRules)
		meshtest.Await(t, "api and db took the change", func() error {
			if a, d := api.Stats().Updates()["RDS"], db.Stats().Updates()["SDS"]; a == rds || d == sds {
				return fmt.Errorf("RDS %d → %d, SDS %d → %d", rds, a, sds, d)
			}
			return nil
		})
	}
	for n := range 10 {
		other := fmt.Sprintf("other%d", n)
		apiRules[other], dbRules[other] = "allow", "allow"
		change()
		time.Sleep(200 * time.Millisecond) // so that there is load between the changes
	}
	unscathed(t, "10 unrelated changes", load.Stop())

	load = busy(t, m)
	// Of tcp a denied source beside a wildcard is the other form of rules: "all but one".
	apiRules["*"], dbRules["*"] = "allow", "allow"
	change()
	delete(apiRules, "other1")
	delete(dbRules, "other1")
	m.Intend("*", meshtest.Intentions{"web": "allow"}) // less exact than those of api and db: decides nothing there
	m.Intend("api", apiRules)
	m.Intend("db", dbRules)
	m.AwaitCheck("other1", "api", true)
	time.Sleep(time.Second) // what has to stay away needs time to come
	unscathed(t, "loosening", load.Stop())
	same("unrelated and loosening changes")
}

// TestTighteningEndsLiveConnections: access that is taken away ends the live tcp connections and refuses the next ones, within a second.
func TestTighteningEndsLiveConnections(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"rbac", "both", "ext_authz"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, ""), Config: []string{fmt.Sprintf("intention_enforcement = %q", mode)}})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
			m.Add(meshtest.Service{Name: "job", Upstreams: []string{"db"}})
			m.Intend("db", meshtest.Intentions{"web": "allow", "job": "allow"})
			m.Serve()
			const drain = 3 * time.Second
			m.LaunchSidecar("db", "--drain-time", drain.String()).AwaitReady()
			m.Sidecars("web", "job")
			// Connections through web's sidecar, one that speaks and one that does not.
			live, idle := connect(t, m.Upstream("web", "db")), connect(t, m.Upstream("web", "db"))
			const dialled = 50 // a second
			allowed := startLoad(t, meshtest.LoadConfig{TCP: m.Upstream("job", "db"), Dialled: dialled})

			start := time.Now()
			m.Intend("db", meshtest.Intentions{"job": "allow"})
			ended := make(chan time.Duration, 1)
			go func() {
				for time.Since(start) < meshtest.Deadline {
					if a := meshtest.Exchange(live, "ping", 4); !a.Allowed() {
						ended <- time.Since(start)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
				close(ended)
			}()
			refused, err := meshtest.Within(promise+room, func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
			if err != nil {
				t.Errorf("a new connection is still let in after %v: %v", refused, err)
			}
			liveEnded, ok := <-ended
			if !ok || liveEnded > promise+room {
				t.Errorf("the live connection ended after %v, want %v", liveEnded, promise)
			}
			for range 20 {
				if a := meshtest.EchoPlain(m.Upstream("web", "db"), "hello"); !a.Denied() {
					t.Errorf("let in again after it was refused: %v", a)
				}
			}
			// The silent one ends when the drain time is over.
			if err := idle.SetReadDeadline(time.Now().Add(drain + room)); err != nil {
				t.Fatal(err)
			}
			if n, err := idle.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
				t.Errorf("the idle connection lives on after the drain time of %v: %d bytes, %v", drain, n, err)
			}
			idleEnded := time.Since(start)
			r := allowed.Stop()
			figure(t, "new_refused_ms=%.0f live_ended_ms=%.0f idle_ended_ms=%.0f drain_time_s=%.0f allowed_meanwhile: %s", millis(refused), millis(liveEnded), millis(idleEnded), drain.Seconds(), r)
			// Envoy ends a connection of the draining chain at its next byte, also one of an allowed source that was accepted just before:
			// as many as there are at a time.
			if most := 3 + int(r.P99.Seconds()*dialled); r.Failed > most {
				t.Errorf("%d of %d connections of an allowed source failed during the revocation, want %d at most: %v", r.Failed, r.Requests, most, r)
			}
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// connect opens a tcp connection through a sidecar and proves that it works.
func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if a := meshtest.Exchange(conn, "ping", 4); !a.Allowed() {
		t.Fatalf("connection through %s: %v", addr, a)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestRevocationNew: a service that says revocation = "new" keeps its live connections and refuses new ones.
func TestRevocationNew(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, ""), Config: []string{`revocation = "new"`}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("db", "web")
	live := connect(t, m.Upstream("web", "db"))
	m.Intend("db", nil)
	meshtest.Await(t, "new connections refused", func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
	meshtest.Holds(t, "the live connection", time.Second, func() error { return wantAllowed(meshtest.Exchange(live, "ping", 4)) })
}

// TestNextRequest: on http the next request is judged by the new intention, also through the connections that web's sidecar has pooled.
func TestNextRequest(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 100} {
		t.Run(fmt.Sprintf("%d_a_second", rate), func(t *testing.T) {
			t.Parallel()
			app := serveHTTP(t, "hello")
			m := newMesh(t)
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: app})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			m.Serve()
			all := m.Sidecars("web", "api")
			web, api := all[0], all[1]
			same := unmodified(t, web, api)
			ask := newAsker("http://"+m.Upstream("web", "api"), rate)
			defer ask.Stop()
			meshtest.Await(t, "first answers", func() error { return ask.Since(time.Time{}, 200, 1) })
			pooled := web.Stats().Sum(`cluster\.api\..*\.upstream_cx_total`)
			var lags []time.Duration
			for n := range 4 {
				want, action := 403, "deny"
				if n%2 == 1 {
					want, action = 200, "allow"
				}
				rds := api.Stats().Updates()["RDS"]
				m.Intend("api", meshtest.Intentions{"web": action})
				meshtest.Await(t, "api's Envoy took the change", func() error {
					if now := api.Stats().Updates()["RDS"]; now == rds {
						return fmt.Errorf("RDS updates: still %d", now)
					}
					return nil
				})
				taken := time.Now()
				// The ACK comes from Envoy's main thread; its workers get the new rules right after, when they get to run.
				const grace = 250 * time.Millisecond
				meshtest.Await(t, "answers by the new intention", func() error { return ask.Since(taken.Add(grace), want, 3) })
				if wrong := ask.Wrong(taken.Add(grace), want); wrong != 0 {
					t.Errorf("%s: %d requests that began more than %v after Envoy took it were judged by the old intention", action, wrong, grace)
				}
				lags = append(lags, ask.LastWrong(taken, want))
			}
			now := web.Stats().Sum(`cluster\.api\..*\.upstream_cx_total`)
			figure(t, "flips=4 last_old_answer_after_ack_ms=%v upstream_connections_before=%d after=%d", lags, pooled, now)
			if rate == 1 && now != pooled {
				t.Errorf("web's sidecar made %d connections to api during the flips; want the pooled ones used", now-pooled)
			}
			same("4 flips")
		})
	}
}
