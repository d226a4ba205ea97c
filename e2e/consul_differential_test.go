//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/rbactest"
	"github.com/sallyport/sallyport/snapshot"
)

const (
	// setsPerRound is how many destinations there are, each of which has a set of intentions of its own in each round. What changes all the
	// time is read once a second, so many are written at one time.
	setsPerRound = 25
	rounds       = 10 // for each default policy
)

// sources are who is asked about. Some are alike, some differ by letter case alone, some nobody has registered, and some are destinations too.
var sources = []string{"web", "Web", "WEB", "web-2", "we", "a.b", "axb", "d-0", "D-0", "d-1", "job", "nobody"}

// spell is a name in random letter case.
func spell(r *rand.Rand, name string) string {
	switch r.IntN(3) {
	case 0:
		return strings.ToUpper(name)
	case 1:
		return strings.ToUpper(name[:1]) + name[1:]
	}
	return name
}

// TestConsulDifferential writes 500 random sets of intentions to Consul, with wildcards, sources of peers and intentions on http among them, and names in any
// letter case. For each source and destination Consul's own answer, that of `sallyport intention check` and what an Envoy would do with the compiled rules are
// the same.
//
// Consul answers for a destination as its entry spells it: of others its check says what holds by default, unlike its data plane, which
// TestConsulLetterCase looks at.
func TestConsulDifferential(t *testing.T) { //nolint:tparallel // two agents at one time are enough load
	t.Parallel()
	// Where nothing is said the default of the ACLs decides. Consul's answer would leave default_intention_policy out of account, which its agent and its Envoys
	// do not.
	for n, agent := range []meshtest.Agent{{Management: management}, {Default: "allow"}} {
		name := "default allow"
		if agent.Management != "" {
			name = "default deny"
		}
		t.Run(name, func(t *testing.T) { differential(t, agent, rand.New(rand.NewPCG(4, uint64(n)))) })
	}
}

func differential(t *testing.T, agent meshtest.Agent, r *rand.Rand) {
	t.Helper()
	c := meshtest.StartConsul(t, agent)
	m := besideConsul(t, c)
	// They read the intentions of all destinations together, one of the two with exactly the documented policy; the view that both are compared with is of those of
	// each alone.
	flags := []string{"--max-queries", "10"}
	if c.Token != "" {
		flags = append(flags, "--token-file", tokenFile(t, filepath.Join(t.TempDir(), "token"), c.Token))
	}
	m.SetFlags(flags...)
	destinations := make([]string, setsPerRound)
	for n := range destinations {
		destinations[n] = spell(r, fmt.Sprintf("d-%d", n))
		protocol := "tcp"
		if n%2 == 1 {
			protocol = "http"
		}
		m.Add(meshtest.Service{Name: destinations[n], Protocol: protocol})
	}
	m.Serve()
	client, err := admin.Find(m.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	views := read(t, c)

	var pairs, allowed, commands, wrong int
	start := time.Now()
	for round := range rounds {
		marker := fmt.Sprintf("round-%d", round)
		everybody := draw(r, false)
		if len(everybody) == 0 {
			_ = c.Do("DELETE", "/v1/config/service-intentions/*", nil, nil) // there may be none
		} else {
			c.PutConfig(intentionsEntry("*", everybody))
		}
		entries := make([]string, setsPerRound) // as they are spelled in this round
		for n, d := range destinations {
			s := draw(r, n%2 == 1)
			s = append(s, map[string]any{"Name": marker, "Action": "allow"})
			entries[n] = spell(r, strings.ToLower(d))
			c.PutConfig(intentionsEntry(entries[n], s))
		}
		var view *catalog.View
		meshtest.Await(t, "the round is read", func() error {
			v, _ := views()
			for _, d := range destinations {
				if v == nil {
					return errors.New("nothing is read")
				}
				if p := v.Policy(identity.NewName(d)); p == nil || !strings.Contains(fmt.Sprint(maps.Collect(p.Exact())), marker) {
					return errors.New(d + " is not read")
				}
				if a, err := client.Check(t.Context(), marker, d); err != nil || !strings.Contains(a.Intention, marker) {
					return fmt.Errorf("sallyport has not read %s: %v %w", d, a, err)
				}
			}
			view = v
			return nil
		})
		for n, d := range destinations {
			rules := compiled(t, view, d)
			for _, s := range sources {
				var answer struct{ Allowed bool }
				c.Must("GET", "/v1/connect/intentions/check?"+url.Values{"source": {s}, "destination": {entries[n]}}.Encode(), nil, &answer)
				pairs++
				if answer.Allowed {
					allowed++
				}
				asked := spell(r, strings.ToLower(d))
				ours, err := client.Check(t.Context(), s, asked)
				if err != nil {
					t.Fatal(err)
				}
				id := view.Identity(identity.NewName(s))
				envoy, _, err := rbactest.Decided(rules, []string{id.String()}, &rbactest.Request{Method: "GET", Path: "/"})
				if err != nil {
					t.Fatal(err)
				}
				// Consul's check is about connections, which permissions deny; they let in what they say.
				request := answer.Allowed
				if view.Decide(id, identity.NewName(d)).Reason == intention.RequestsOnly {
					request = view.DecideRequest(identity.ID(id.String()), identity.NewName(d), &intention.Request{Method: "GET", Path: "/"}).Allowed()
				}
				if ours.Allowed != answer.Allowed || envoy != request {
					if wrong++; wrong > 5 {
						continue
					}
					var said any
					c.Must("GET", "/v1/connect/intentions/match?"+url.Values{"by": {"destination"}, "name": {d}}.Encode(), nil, &said)
					t.Errorf("round %d: %s → %s: Consul %v, sallyport %v (%s), its rules %v; rules %v, as Consul has them %v", round, s, d, answer.Allowed, ours.Allowed, ours.Explain(), envoy, maps.Collect(view.Policy(identity.NewName(d)).Exact()), said)
				}
				if pairs%97 == 0 { // the command itself, now and then
					commands++
					exit := 1
					if answer.Allowed {
						exit = 0
					}
					if r := m.Run("intention", "check", s, asked); r.Exit != exit {
						t.Errorf("`sallyport intention check %s %s`: exit %d, want %d: %s%s", s, asked, r.Exit, exit, r.Stdout, r.Stderr)
					}
				}
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d pairs differ", wrong, pairs)
	}
	if allowed == 0 || allowed == pairs {
		t.Errorf("%d of %d pairs are allowed: nothing was compared", allowed, pairs)
	}
	figure(t, "sets=%d pairs=%d allowed=%d commands=%d took_s=%.0f", rounds*setsPerRound, pairs, allowed, commands, time.Since(start).Seconds())
}

// draw makes the sources of one destination, with permissions among them if it is http.
func draw(r *rand.Rand, http bool) []map[string]any {
	var out []map[string]any
	for _, name := range append(slices.Clone(sources), "*") {
		if r.IntN(3) > 0 {
			continue
		}
		s := map[string]any{"Name": name}
		if r.IntN(6) == 0 {
			s["Peer"] = "cloud"
			if r.IntN(2) == 0 { // the local one of that name too
				local := maps.Clone(s)
				delete(local, "Peer")
				local["Action"] = []string{"allow", "deny"}[r.IntN(2)]
				out = append(out, local)
			}
		}
		if http && r.IntN(8) == 0 {
			s["Permissions"] = []map[string]any{{"Action": []string{"allow", "deny"}[r.IntN(2)], "HTTP": map[string]any{"PathPrefix": "/"}}}
		} else {
			s["Action"] = []string{"allow", "deny"}[r.IntN(2)]
		}
		out = append(out, s)
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func intentionsEntry(destination string, sources []map[string]any) map[string]any {
	return map[string]any{"Kind": "service-intentions", "Name": destination, "Sources": sources}
}

// read reads the agent as `sallyport serve` does, for the rules that it compiles. The function that it returns is what is known now.
func read(t *testing.T, c *meshtest.Consul) func() (*catalog.View, bool) {
	t.Helper()
	agent, err := consul.New(consul.Config{Address: c.Addr, Token: c.Token})
	if err != nil {
		t.Fatal(err)
	}
	var store catalog.Store
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, store.Publish) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return store.Views.Load
}

// compiled is the matcher that the Envoy of a service's sidecar is given.
func compiled(t *testing.T, v *catalog.View, service string) *matcherv3.Matcher {
	t.Helper()
	in := snapshot.Input{
		ProxyView: v.Proxy(identity.ProxyID(service + "-sidecar-proxy")),
		Envoy:     snapshot.Features{RegexSize: 10_000, DrainTime: time.Minute},
	}
	if in.ProxyView == nil {
		t.Fatalf("%s has no proxy", service)
	}
	m, err := rbactest.Rules(in)
	if err != nil {
		t.Fatalf("%s: %v", service, err)
	}
	return m
}
