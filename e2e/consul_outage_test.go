//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// outageVariable is how long the agent is away in the tests of its loss, as "60s".
const outageVariable = "SALLYPORT_TEST_OUTAGE"

func outageTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(outageVariable)
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", outageVariable, err)
	}
	return d
}

// elsewhere are the updates of all types but secrets.
func elsewhere(u map[string]int64) (n int64) {
	for typ, k := range u {
		if typ != "SDS" {
			n += k
		}
	}
	return n
}

func wantStatus(a meshtest.Answer, status int) error {
	if a.Status == status {
		return nil
	}
	return errors.New(a.String())
}

// TestConsulAgentKilled kills the agent for a while under load and starts it again with its data. It comes back with all checks critical, and with
// new leafs: nobody notices, and nothing but secrets is sent again.
func TestConsulAgentKilled(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "10s") // as Consul does by default
	m.Add(meshtest.Service{Name: "job"})
	m.Serve()
	cars := m.Sidecars("web", "api", "db", "job")[:3]
	works(t, c, m)
	same := unmodified(t, cars...)
	load := besideBusy(t, m)
	time.Sleep(2 * time.Second)
	before := map[string]map[string]int64{}
	for _, car := range cars {
		before[car.Name] = car.Stats().Updates()
	}

	c.Kill()
	away := outageTime(t)
	time.Sleep(away)
	if _, failed := load.Sofar(); failed > 0 {
		t.Errorf("%d requests failed while the agent was away", failed)
	}
	if s := m.Status(); len(s.NotReady) == 0 {
		t.Error("the status does not say that the agent is away")
	}
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 0 {
		t.Errorf("intention check without an agent: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	c.Start()
	back := time.Now()
	meshtest.Await(t, "the control plane has the agent again", func() error {
		if s := m.Status(); len(s.NotReady) > 0 {
			return errors.New(strings.Join(s.NotReady, "; "))
		}
		return nil
	})
	connected := time.Since(back)
	// A registration that is new: job gets an upstream, at which it is refused.
	m.Add(meshtest.Service{Name: "job", Upstreams: []string{"api"}})
	began := time.Now()
	_, err := meshtest.Within(meshtest.Deadline, func() error {
		return wantStatus(meshtest.GetPlain("http://"+m.Upstream("job", "api")), http.StatusForbidden)
	})
	registered := time.Since(began)
	if err != nil || registered > 5*time.Second+room {
		t.Errorf("a new registration reached job's Envoy after %v: %v", registered, err)
	}
	// Every check has run by then, and what was kept over the outage is kept no longer.
	time.Sleep(time.Until(back.Add(20 * time.Second)))
	for _, car := range cars {
		now := car.Stats().Updates()
		others := elsewhere(now) - elsewhere(before[car.Name])
		if others != 0 {
			t.Errorf("%s's Envoy was sent other than secrets: %v, before %v", car.Name, now, before[car.Name])
		}
		figure(t, "service=%s secrets_updated=%d other_updates=%d", car.Name, now["SDS"]-before[car.Name]["SDS"], others)
	}
	unscathed(t, fmt.Sprintf("agent killed for %v and restarted", away), load.Stop())
	same("agent killed")
	figure(t, "away_s=%.0f ready_again_ms=%.0f registration_reached_envoy_ms=%.0f", away.Seconds(), millis(connected), millis(registered))
}
