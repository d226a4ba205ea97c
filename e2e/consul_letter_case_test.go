//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulLetterCase writes intentions in random letter case about two services, of which one's sidecar is sallyport's and the other one's is of Consul's own
// control plane. Whoever dials both is let in by both or by neither: a destination is matched without regard to letter case, a source as it is spelled. An
// upstream that spells its destination otherwise finds its sidecars and refuses their certificates, as under Consul.
func TestConsulLetterCase(t *testing.T) { //nolint:tparallel // four agents and a dozen Envoys at one time are too much load
	t.Parallel()
	for seed, agent := range []meshtest.Agent{{Default: "allow"}, {}} {
		for _, flags := range [][]string{nil, {"--max-queries", "10"}} {
			name := "default deny"
			if agent.Default != "" {
				name = "default allow"
			}
			t.Run(fmt.Sprint(name, " ", flags), func(t *testing.T) { letterCase(t, agent, flags, rand.New(rand.NewPCG(7, uint64(seed)))) })
		}
	}
}

func letterCase(t *testing.T, agent meshtest.Agent, flags []string, r *rand.Rand) {
	t.Helper()
	c := meshtest.StartConsul(t, agent)
	m := besideConsul(t, c)
	m.SetFlags(flags...)
	const ours, theirs, odd = "Orders", "Billing", "orders"
	clients := []string{"web", "Job"} // not two that differ by letter case: on a node IDs are one then
	m.Add(meshtest.Service{Name: ours, Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: theirs, Protocol: "http", Local: serveHTTP(t, "hello")})
	for _, s := range clients {
		m.Add(meshtest.Service{Name: s, Upstreams: []string{ours, theirs, odd}})
	}
	m.Serve()
	callers := m.Sidecars(clients...)
	m.Sidecars(ours)
	c.Envoy(m, theirs, time.Second)

	var allowed, denied int
	for round := range 12 {
		// What each client is to come to follows from the entry as Consul documents it, so that both being wrong shows, too.
		want := map[string]string{}
		var rules []map[string]any
		for _, s := range append([]string{"*", "Web", "WEB", "job"}, clients...) {
			action := []string{"allow", "deny"}[r.IntN(2)]
			if s != "*" && r.IntN(3) == 0 {
				continue
			}
			rules = append(rules, map[string]any{"Name": s, "Action": action})
			want[s] = action
		}
		spelling := r.Uint64()
		for _, name := range []string{"orders", "billing"} {
			c.PutConfig(intentionsEntry(spell(rand.New(rand.NewPCG(spelling, 0)), name), rules))
		}
		meshtest.Await(t, fmt.Sprintf("round %d: %v", round, rules), func() error {
			for _, client := range clients {
				w := wantAllowed
				if a, ok := want[client]; a == "deny" || !ok && want["*"] == "deny" {
					w = wantDenied
				}
				for _, service := range []string{ours, theirs} {
					if err := w(meshtest.GetPlain("http://" + m.Upstream(client, service))); err != nil {
						return fmt.Errorf("%s → %s: %w", client, service, err)
					}
				}
			}
			return nil
		})
		for _, client := range clients {
			a, ok := want[client]
			if !ok {
				a = want["*"]
			}
			exit := 0
			if a == "deny" {
				denied++
				exit = 1
			} else {
				allowed++
			}
			for _, destination := range []string{"Orders", "orders", "ORDERS"} {
				if res := m.Run("intention", "check", client, destination); res.Exit != exit {
					t.Errorf("round %d: `sallyport intention check %s %s`: exit %d, want %d: %s%s", round, client, destination, res.Exit, exit, res.Stdout, res.Stderr)
				}
			}
		}
	}
	c.PutConfig(intentionsEntry("*", []map[string]any{{"Name": "*", "Action": "allow"}}))
	c.Must("DELETE", "/v1/config/service-intentions/orders", nil, nil)
	meshtest.Await(t, "everybody is allowed", func() error { return wantAllowed(meshtest.GetPlain("http://" + m.Upstream("web", ours))) })
	for _, car := range callers {
		if err := wantAllowed(meshtest.GetPlain("http://" + m.Upstream(car.Name, odd))); err == nil {
			t.Errorf("%s reaches %s as %s: Consul's sidecars refuse its certificate", car.Name, ours, odd)
		}
		if n := car.Stats().Sum(`cluster\.orders\..*\.ssl\.fail_verify_san`); n == 0 {
			t.Errorf("%s has found no sidecar of %s under the name %s", car.Name, ours, odd)
		}
	}
	if allowed == 0 || denied == 0 {
		t.Errorf("%d allowed, %d denied: nothing was compared", allowed, denied)
	}
	figure(t, "allowed=%d denied=%d", allowed, denied)
}
