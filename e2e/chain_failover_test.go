//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestChainFailover has what a chain leads to first be sick, gone and dead, and come back: the next target answers, and no request fails.
func TestChainFailover(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			chainFailover(t, envoy)
		})
	}
}

func chainFailover(t *testing.T, envoy string) {
	t.Helper()
	m := newRoutedMesh(t, envoy)
	primary := []string{"api-1", "api-2"}
	all := func(status string) {
		for _, id := range primary {
			m.instance("api", id, "v1", status)
		}
	}
	all("passing")
	m.instance("other", "other-1", "v1", "passing")
	m.Write("resolver.hcl", `Kind = "service-resolver"
Name = "api"
Failover = { "*" = { Service = "other" } }
`)
	m.Serve()
	cars := m.Sidecars("api-1", "api-2", "other-1", "web")
	c := m.client()
	answered := func(by string) {
		t.Helper()
		meshtest.Await(t, by+" answers", func() error {
			for range 5 {
				a, err := c.ask(t.Context(), "GET", "/")
				if err != nil {
					return err
				}
				if a.status != 200 || a.seen.Instance[:len(by)] != by {
					return fmt.Errorf("status %d by %s", a.status, a.seen.Instance)
				}
			}
			return nil
		})
	}
	start := func() *meshtest.Load {
		return startLoad(t, meshtest.LoadConfig{URL: "http://" + c.addr, KeepAlive: 60, Fresh: 20, Patience: patience})
	}
	phase := func(by string) {
		t.Helper()
		answered(by)
		time.Sleep(500 * time.Millisecond)
	}
	answered("api")
	load := start()
	all("critical")
	phase("other")
	all("passing")
	phase("api")
	for _, id := range primary {
		m.Remove(id + ".hcl")
	}
	phase("other")
	all("passing")
	phase("api")
	unscathed(t, "the first target is sick, gone, and back", load.Stop())

	// The control plane says that they are well all the while. What is under way when an Envoy is killed is lost, so the load begins after that.
	cars[0].Close()
	answered("api-2")
	load = start()
	time.Sleep(2 * time.Second)
	unscathed(t, "one of two is dead", load.Stop())
	cars[1].Close()
	answered("other")
	load = start()
	before := m.apps["api-1"].Requests.Load() + m.apps["api-2"].Requests.Load()
	time.Sleep(2 * time.Second)
	if after := m.apps["api-1"].Requests.Load() + m.apps["api-2"].Requests.Load(); after != before {
		t.Errorf("the dead answered %d requests", after-before)
	}
	cars = m.Sidecars(primary...)
	answered("api")
	unscathed(t, "the first target is dead, and back", load.Stop())

	// A route that says how often to retry has that number: with one, the second try is for the next target.
	m.Write("router.hcl", `Kind = "service-router"
Name = "api"
Routes = [{ Match { HTTP { PathPrefix = "/once" } }, Destination { NumRetries = 1, RequestHeaders { Set { "x-route" = "once" } } } }]
`)
	meshtest.Await(t, "the route is there", func() error {
		a, err := c.ask(t.Context(), "GET", "/once")
		if err == nil {
			err = sees("X-Route", "once")(a)
		}
		return err
	})
	for _, s := range cars {
		s.Close()
	}
	answered("other")
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		a, err := c.ask(ctx, "GET", "/once")
		cancel()
		if err != nil || a.status != 200 || a.seen.Instance != "other-1" {
			t.Fatalf("with one retry: status %d by %q, %v", a.status, a.seen.Instance, err)
		}
	}
}
