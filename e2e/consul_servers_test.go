//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// cluster starts three servers and returns them, the leader last.
func cluster(t *testing.T) []*meshtest.Consul {
	t.Helper()
	var all []*meshtest.Consul
	for n := range 3 {
		all = append(all, meshtest.NewConsul(t, meshtest.Agent{Node: fmt.Sprintf("server-%d", n), Servers: 3}))
	}
	for n, c := range all {
		for k, other := range all {
			if k != n {
				c.Agent.Join = append(c.Agent.Join, other.Agent.Serf)
			}
		}
		c.Launch()
	}
	for _, c := range all {
		c.AwaitReady()
	}
	var leader string
	all[0].Must("GET", "/v1/status/leader", nil, &leader)
	for n, c := range all {
		if leader == fmt.Sprintf("127.0.0.1:%d", c.Agent.RPC) {
			all[n], all[2] = all[2], all[n]
			return all
		}
	}
	t.Fatalf("the leader %q is none of the servers", leader)
	return nil
}

// TestConsulLeaderLost kills the leader of three servers under load, and then leaves the agent's server alone without a leader. Nobody notices, and nothing is
// sent; what is changed under the new leader counts.
func TestConsulLeaderLost(t *testing.T) {
	t.Parallel()
	servers := cluster(t)
	local, other, leader := servers[0], servers[1], servers[2]
	m := consulPair(t, local, "1s")
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, local, m)
	same := unmodified(t, cars...)
	before := map[string]int64{}
	for _, car := range cars {
		before[car.Name] = elsewhere(car.Stats().Updates())
	}
	load := besideBusy(t, m)
	time.Sleep(time.Second)

	leader.Kill()
	start := time.Now()
	old := fmt.Sprintf("127.0.0.1:%d", leader.Agent.RPC)
	meshtest.Await(t, "a new leader", func() error {
		var now string
		if err := local.Do("GET", "/v1/status/leader", nil, &now); err != nil {
			return err
		}
		if now == "" || now == old {
			return fmt.Errorf("the leader is %q", now)
		}
		return nil
	})
	elected := time.Since(start)
	meshtest.Await(t, "the new leader takes an intention", func() error {
		return local.Do("PUT", "/v1/config", map[string]any{"Kind": "service-intentions", "Name": "web", "Sources": []map[string]any{{"Name": "api", "Action": "allow"}}}, nil)
	})
	written := time.Now()
	m.AwaitCheck("api", "web", true)
	seen := time.Since(written)

	other.Kill()
	time.Sleep(outageTime(t) / 2)
	if err := local.Ready(); err == nil {
		t.Error("one of three servers has a leader")
	}
	other.Launch()
	leader.Launch()
	start = time.Now()
	meshtest.Await(t, "a leader again", local.Ready)
	again := time.Since(start)
	meshtest.Await(t, "nothing is stale", func() error {
		if s := m.MustRun("status"); strings.Contains(s, "not up to date") || strings.Contains(s, "cannot be read") {
			return errors.New(s)
		}
		return nil
	})
	current := time.Since(start)
	time.Sleep(3 * time.Second)
	for _, car := range cars {
		// web's own rules, of which an intention was written.
		want := before[car.Name]
		if car.Name == "web" {
			want = elsewhere(car.Stats().Updates())
		}
		if got := elsewhere(car.Stats().Updates()); got != want {
			t.Errorf("%s's Envoy was sent other than secrets: %d updates, before %d", car.Name, got, want)
		}
	}
	unscathed(t, "leader lost", load.Stop())
	same("leader lost")
	figure(t, "new_leader_ms=%.0f change_under_new_leader_ms=%.0f leader_again_ms=%.0f all_current_again_ms=%.0f", millis(elected), millis(seen), millis(again), millis(current))
}

// TestConsulRestored restores Consul from a snapshot, after which its indexes are lower than they were: what it says then counts.
func TestConsulRestored(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	m.Serve()
	m.Sidecars("web", "api", "db")
	works(t, c, m)
	snapshot := filepath.Join(c.Agent.Dir, "snapshot")
	c.Run("snapshot", "save", snapshot)
	for n := range 5 { // so that the indexes go up by more than one
		m.Intend("api", meshtest.Intentions{fmt.Sprintf("other-%d", n): "allow"})
	}
	m.Intend("db", meshtest.Intentions{"web": "deny"})
	m.AwaitCheck("web", "db", false)
	m.AwaitCheck("web", "api", false)
	restored := c.Timed("snapshot", "restore", snapshot)
	works(t, c, m)
	took := time.Since(restored)
	if took > 10*time.Second {
		t.Errorf("what was restored was seen after %v", took)
	}
	// And the next change.
	m.Intend("db", nil)
	written := time.Now()
	_, err := meshtest.Within(promise+room, func() error { return wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
	if err != nil {
		t.Errorf("a change after the restoration is not seen: %v", err)
	}
	figure(t, "restored_seen_ms=%.0f next_change_ms=%.0f", millis(took), millis(time.Since(written)))
}

// TestConsulAwayAtStart starts the control plane anew while the agent is away. It answers from what it knew last, and its sidecars notice nothing.
func TestConsulAwayAtStart(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, c, m)
	time.Sleep(6 * time.Second) // it is written every 5 s at most
	same := unmodified(t, cars...)
	load := besideBusy(t, m)
	c.Kill()
	m.KillServe()
	m.Launch()
	took := meshtest.Await(t, "the last known good contents are used", func() error {
		if r := m.Run("intention", "check", "web", "api"); r.Exit != 0 {
			return fmt.Errorf("exit %d: %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		return nil
	})
	if r := m.Run("intention", "check", "nobody", "api"); r.Exit != 1 {
		t.Errorf("intention check nobody api: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	if s := m.Status(); len(s.NotReady) == 0 {
		t.Error("it says that it is ready")
	}
	time.Sleep(2 * time.Second)
	c.Start()
	m.AwaitServe()
	back := m.AwaitConnected("web", "api", "db")
	time.Sleep(3 * time.Second)
	unscathed(t, "started without an agent", load.Stop())
	same("started without an agent")
	m.Intend("api", meshtest.Intentions{"web": "deny"})
	meshtest.Await(t, "a change is seen", func() error { return wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api"))) })
	figure(t, "answers_without_agent_ms=%.0f sidecars_back_ms=%.0f", millis(took), millis(back))
}
