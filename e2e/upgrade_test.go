//go:build e2e && upgrade

package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestUpgrade puts this sallyport in the place of the last release's, whose Envoys live on, and back again: with the data directory of the
// other each time. Envoys refuse nothing, requests do not fail, and what CHANGELOG.md says drains is all that ends a connection.
// What was denied meanwhile stays so.
func TestUpgrade(t *testing.T) {
	last := os.Getenv("LAST_RELEASE")
	if last == "" {
		t.Fatal("LAST_RELEASE is not set: make test-upgrade builds it")
	}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		for _, beside := range []string{"files", "Consul"} {
			t.Run(beside+"/"+version, func(t *testing.T) {
				c := meshtest.Config{Sallyport: last, Envoy: version}
				if beside == "Consul" {
					c.Consul = meshtest.StartConsul(t, meshtest.Agent{})
				}
				upgrade(t, c, last)
			})
		}
	}
}

// allButOutages is unscathed, but for requests that ext_authz was asked about while no control plane ran: nobody is let in then
// (docs/operations.md).
func allButOutages(t *testing.T, what string, r meshtest.Report, outages int64) {
	t.Helper()
	if outages == 0 || r.Failed == 0 {
		unscathed(t, what, r)
		return
	}
	figure(t, "load=%q outages=%d %s", what, outages, r)
	if int64(r.Failed) > outages {
		t.Errorf("%s: %d of %d requests failed, want no more than the %d that no control plane answered for: %v", what, r.Failed, r.Requests, outages, r)
	}
}

func carOf(cars []*meshtest.Sidecar, name string) *meshtest.Sidecar {
	return cars[slices.IndexFunc(cars, func(c *meshtest.Sidecar) bool { return c.Name == name })]
}

// drainTime is long enough for a request, and short for a test.
const drainTime = 3 * time.Second

func upgrade(t *testing.T, c meshtest.Config, last string) {
	t.Helper()
	m := meshtest.New(t, c)
	modes := []string{"rbac", "ext_authz", "both"}
	web := meshtest.Service{Name: "web"}
	for _, mode := range modes {
		config := []string{fmt.Sprintf("intention_enforcement = %q", mode)}
		for name, s := range map[string]meshtest.Service{
			"http-": {Protocol: "http", Local: serveHTTP(t, "hello"), Config: config},
			"tcp-":  {Local: serveEcho(t, ""), Config: config},
		} {
			s.Name = name + mode[:2]
			m.Add(s)
			web.Upstreams = append(web.Upstreams, s.Name)
		}
	}
	m.Add(web)
	job := meshtest.Service{Name: "job", Upstreams: web.Upstreams}
	m.Add(job)
	for _, u := range web.Upstreams {
		m.Intend(u, meshtest.Intentions{"web": "allow", "job": "deny"})
	}
	m.Serve()
	names := append([]string{"web", "job"}, web.Upstreams...)
	var cars []*meshtest.Sidecar
	for _, name := range names {
		cars = append(cars, m.LaunchSidecar(name, "--drain-time", drainTime.String()))
	}
	for _, car := range cars {
		car.AwaitReady()
	}
	denied := func() error {
		for _, mode := range modes {
			if err := wantDenied(meshtest.GetPlain("http://" + m.Upstream("job", "http-"+mode[:2]))); err != nil {
				return fmt.Errorf("http, %s: %w", mode, err)
			}
			if err := wantDenied(meshtest.EchoPlain(m.Upstream("job", "tcp-"+mode[:2]), "hello")); err != nil {
				return fmt.Errorf("tcp, %s: %w", mode, err)
			}
		}
		return nil
	}
	meshtest.Await(t, "job refused", denied)
	meshtest.Await(t, "web let in", func() error {
		for _, mode := range modes {
			if err := wantAllowed(meshtest.GetPlain("http://" + m.Upstream("web", "http-"+mode[:2]))); err != nil {
				return fmt.Errorf("http, %s: %w", mode, err)
			}
			if err := wantAllowed(meshtest.EchoPlain(m.Upstream("web", "tcp-"+mode[:2]), "hello")); err != nil {
				return fmt.Errorf("tcp, %s: %w", mode, err)
			}
		}
		return nil
	})

	for _, turn := range []struct{ what, sallyport string }{{"upgrade", sallyport}, {"back", last}, {"upgrade again", sallyport}} {
		outages := map[string]int64{}
		for _, car := range cars {
			outages[car.Name] = car.Outages()
		}
		requests := map[string]*meshtest.Load{}
		held := map[string]*meshtest.Load{}
		for _, mode := range modes {
			requests[mode] = startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "http-"+mode[:2]), KeepAlive: 20, Fresh: 10})
			held[mode] = startLoad(t, meshtest.LoadConfig{TCP: m.Upstream("web", "tcp-"+mode[:2]), Held: 2})
		}
		m.StopServe()
		m.SetSallyport(turn.sallyport)
		m.Serve()
		m.AwaitConnected(names...)
		// Until the drain is over, nobody is let in who was not.
		meshtest.Holds(t, "job is refused after the "+turn.what, drainTime+2*time.Second, denied)
		for _, mode := range modes {
			name := "http-" + mode[:2]
			r, n := requests[mode].Stop(), carOf(cars, name).Outages()-outages[name]
			if turn.sallyport == last && mode != "rbac" {
				// The last release denied what it did not know yet.
				figure(t, "load=%q outages=%d %s", turn.what+", requests, "+mode, n, r)
				continue
			}
			allButOutages(t, turn.what+", requests, "+mode, r, n)
		}
		for _, mode := range modes {
			figure(t, "turn=%q held connections, %s: %s", turn.what, mode, held[mode].Stop())
		}
		for _, car := range cars {
			if n := car.Stats().Sum(`.*\.update_rejected`); n != 0 {
				t.Errorf("%s: %s's Envoy refused %d updates", turn.what, car.Name, n)
			}
		}
		// After it nothing ends any more: a new start of the same release is no change.
		same := unmodified(t, cars...)
		after := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "http-rb"), KeepAlive: 20, TCP: m.Upstream("web", "tcp-rb"), Held: 2, Dialled: 10})
		m.KillServe()
		m.Serve()
		m.AwaitConnected(names...)
		time.Sleep(time.Second)
		unscathed(t, turn.what+", after the drain", after.Stop())
		same(turn.what + ", another start")
	}
	// A sidecar whose command is the new one too.
	cars[1].Close()
	m.Sidecar("job")
	meshtest.Await(t, "job refused with a sidecar of this release", denied)
}
