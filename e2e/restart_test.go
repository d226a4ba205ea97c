//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestRestartUnderLoad kills the control plane five times. Nobody notices: each sidecar comes back and is sent one secret, its new leaf,
// and nothing else.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	cars := []*meshtest.Sidecar{web, api, db}
	// So that a count that stays the same means something.
	for c, types := range map[*meshtest.Sidecar][]string{web: {"LDS", "CDS", "EDS", "SDS"}, api: {"LDS", "CDS", "RDS", "SDS"}, db: {"LDS", "CDS", "ECDS", "SDS"}} {
		for _, typ := range types {
			if n := c.Stats().Updates()[typ]; n == 0 {
				t.Errorf("%s's Envoy counted no update of type %s at its start: %v", c.Name, typ, c.Stats().Updates())
			}
		}
	}
	same := unmodified(t, cars...)
	load := busy(t, m)
	for n := range 5 {
		before := map[string]map[string]int64{}
		for _, c := range cars {
			before[c.Name] = c.Stats().Updates()
		}
		m.KillServe()
		time.Sleep(200 * time.Millisecond) // an outage, not only a new process
		m.Serve()
		took := m.AwaitConnected("web", "api", "db")
		for _, c := range cars {
			meshtest.Await(t, c.Name+" has its new leaf", func() error {
				if now := c.Stats().Updates()["SDS"]; now <= before[c.Name]["SDS"] {
					return fmt.Errorf("SDS updates: still %d", now)
				}
				return nil
			})
		}
		// Nothing more may come; what would come does so within the first second.
		time.Sleep(time.Second)
		for _, c := range cars {
			want := before[c.Name]
			want["SDS"]++
			if got := c.Stats().Updates(); !maps.Equal(got, want) {
				t.Errorf("restart %d: %s's Envoy counted the updates %v, want %v: one secret and nothing else", n+1, c.Name, got, want)
			}
		}
		figure(t, "restart=%d reconnected_ms=%.0f", n+1, millis(took))
	}
	unscathed(t, "5 restarts", load.Stop())
	same("5 restarts")
}

// TestStopWithinFiveSeconds: SIGTERM ends the control plane in time, with sidecars connected, and they live on.
func TestStopWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t)
	load := busy(t, m)
	took := m.StopServe()
	figure(t, "stop_ms=%.0f", millis(took))
	if took > 5*time.Second+room {
		t.Errorf("the control plane took %v to end", took)
	}
	time.Sleep(time.Second)
	unscathed(t, "without a control plane", load.Stop())
	if r := m.Run("status"); r.Exit != 2 || r.Stderr == "" {
		t.Errorf("status without a control plane: exit %d, %q; want 2 and where it looked", r.Exit, r.Stderr)
	}
}

// drained is a mesh of web and db with a live connection, whose db ends withdrawn connections after three seconds.
func drained(t *testing.T) (m *meshtest.Mesh, db *meshtest.Sidecar) {
	t.Helper()
	m = newMesh(t)
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
	m.Add(meshtest.Service{Name: "job", Upstreams: []string{"db"}})
	m.Intend("db", meshtest.Intentions{"web": "allow", "job": "allow"})
	m.Serve()
	db = m.LaunchSidecar("db", "--drain-time", "3s")
	db.AwaitReady()
	m.Sidecars("web", "job")
	return m, db
}

// TestRestartAfterTightening: what was taken away before a restart is not taken away again by it.
func TestRestartAfterTightening(t *testing.T) {
	t.Parallel()
	m, db := drained(t)
	m.Intend("db", meshtest.Intentions{"job": "allow"})
	meshtest.Await(t, "web refused", func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
	meshtest.Await(t, "the old filter chain is gone", func() error {
		if n := db.Stats()["listener_manager.total_filter_chains_draining"]; n != 0 {
			return fmt.Errorf("%d filter chains draining", n)
		}
		return nil
	})
	live := connect(t, m.Upstream("job", "db"))
	same, sds := unmodified(t, db), db.Stats().Updates()["SDS"]
	m.KillServe()
	m.Serve()
	meshtest.Await(t, "db has its new leaf", func() error {
		if now := db.Stats().Updates()["SDS"]; now == sds {
			return errors.New("no secret came")
		}
		return nil
	})
	meshtest.Holds(t, "the live connection after the restart", 4*time.Second, func() error { return wantAllowed(meshtest.Exchange(live, "ping", 4)) })
	same("restart after tightening")
}

// TestTightenedWhileAway: access that was taken away while no control plane ran ends live connections when one runs again.
func TestTightenedWhileAway(t *testing.T) {
	t.Parallel()
	m, _ := drained(t)
	live, idle := connect(t, m.Upstream("web", "db")), connect(t, m.Upstream("web", "db"))
	m.StopServe()
	m.Intend("db", meshtest.Intentions{"job": "allow"})
	if err := wantAllowed(meshtest.Exchange(live, "ping", 4)); err != nil {
		t.Fatalf("the live connection ended without a control plane: %v", err)
	}
	m.Serve()
	took := meshtest.Await(t, "the live connection ends", func() error {
		if a := meshtest.Exchange(live, "ping", 4); a.Allowed() {
			return errors.New("it is alive")
		}
		return nil
	})
	if err := idle.SetReadDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		t.Fatal(err)
	}
	if n, err := idle.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
		t.Errorf("the idle connection lives on: %d bytes, %v", n, err)
	}
	if err := wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")); err != nil {
		t.Errorf("a new connection of web: %v", err)
	}
	if err := wantAllowed(meshtest.EchoPlain(m.Upstream("job", "db"), "hello")); err != nil {
		t.Errorf("a new connection of job: %v", err)
	}
	figure(t, "ended_after_ready_ms=%.0f", millis(took))
}

// TestTokensAreRenewed: tokens live for seconds here. Long past the end of the first ones a restart of the control plane costs nothing.
func TestTokensAreRenewed(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t, "--token-ttl", "4s")
	load := busy(t, m)
	time.Sleep(9 * time.Second) // two lives of a token
	m.KillServe()
	m.Serve()
	took := m.AwaitConnected("web", "api", "db")
	m.Intend("api", meshtest.Intentions{"web": "allow", "batch": "allow"})
	m.AwaitCheck("batch", "api", true)
	unscathed(t, "tokens of 4 s", load.Stop())
	figure(t, "token_ttl_s=4 reconnected_ms=%.0f", millis(took))
}

// TestExtAuthzServerStopped: with nobody to ask, nobody gets in, and an outage does not look like a denial.
func TestExtAuthzServerStopped(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	web, both, tcp, rbac := serveHTTP(t, "hello"), serveHTTP(t, "hello"), serveEcho(t, ""), serveHTTP(t, "hello")
	m.Add(meshtest.Service{Name: "asks", Protocol: "http", Local: web, Config: []string{`intention_enforcement = "ext_authz"`}})
	m.Add(meshtest.Service{Name: "both", Protocol: "http", Local: both, Config: []string{`intention_enforcement = "both"`}})
	m.Add(meshtest.Service{Name: "tcp", Local: tcp, Config: []string{`intention_enforcement = "ext_authz"`}})
	m.Add(meshtest.Service{Name: "rbac", Protocol: "http", Local: rbac})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"asks", "both", "tcp", "rbac"}})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("asks", "both", "tcp", "rbac", "web")
	ask := func(service string) meshtest.Answer {
		if service == "tcp" {
			return meshtest.EchoPlain(m.Upstream("web", service), "hello")
		}
		return meshtest.GetPlain("http://" + m.Upstream("web", service) + "/")
	}
	for _, s := range []string{"asks", "both", "tcp", "rbac"} {
		if a := ask(s); !a.Allowed() {
			t.Fatalf("web → %s before: %v", s, a)
		}
	}
	for _, how := range []struct {
		name       string
		stop, cont func()
	}{
		{"killed", m.KillServe, m.Serve},
		{"hangs", func() { signal(t, m, syscall.SIGSTOP) }, func() { signal(t, m, syscall.SIGCONT) }},
	} {
		how.stop()
		requests, bytes := web.Requests.Load()+both.Requests.Load(), tcp.Bytes.Load()
		for _, s := range []string{"asks", "both"} {
			if a := ask(s); a.Status != 503 {
				t.Errorf("%s: web → %s: %v, want status 503", how.name, s, a)
			}
		}
		if a := ask("tcp"); !a.Denied() {
			t.Errorf("%s: web → tcp: %v, want the connection closed", how.name, a)
		}
		if a := ask("rbac"); !a.Allowed() {
			t.Errorf("%s: web → rbac, which asks nobody: %v", how.name, a)
		}
		if n := web.Requests.Load() + both.Requests.Load() - requests; n != 0 {
			t.Errorf("%s: the applications got %d requests that nobody had decided", how.name, n)
		}
		if n := tcp.Bytes.Load() - bytes; n != 0 {
			t.Errorf("%s: the application got %d bytes that nobody had decided", how.name, n)
		}
		how.cont()
		took := meshtest.Await(t, "allowed again", func() error {
			return errors.Join(wantAllowed(ask("asks")), wantAllowed(ask("both")), wantAllowed(ask("tcp")))
		})
		figure(t, "outage=%s back_after_ms=%.0f", how.name, millis(took))
	}
}

// signal sends s to the control plane. After SIGSTOP it waits until each thread stands still: the one that the kernel chose to stop the others
// may have to wait for a processor.
func signal(t *testing.T, m *meshtest.Mesh, s syscall.Signal) {
	t.Helper()
	if err := m.ServeProcess().Signal(s); err != nil {
		t.Fatal(err)
	}
	if s != syscall.SIGSTOP {
		return
	}
	meshtest.Await(t, "every thread stopped", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", m.ServeProcess().PID()))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads, %w", err)
		}
		for _, thread := range threads {
			// proc_pid_stat(5): the state is what follows the name in brackets.
			if b, err := os.ReadFile(thread); err == nil && !strings.Contains(string(b), ") T ") {
				return fmt.Errorf("%s: %s", thread, b)
			}
		}
		return nil
	})
}
