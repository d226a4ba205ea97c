//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestChain asks by routes, splits and hashes of what a request says, and looks at what the applications see.
func TestChain(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := newRoutedMesh(t, envoy)
			m.instance("api", "api-v1", "v1", "passing")
			m.instance("api", "api-v2", "v2", "passing")
			m.instance("other", "other-1", "v1", "passing")
			m.Serve()
			web := m.Sidecars("api-v1", "api-v2", "other-1", "web")[3]
			same := sameListeners(t, web)
			t.Run("routes", func(t *testing.T) { chainRoutes(t, m) })
			t.Run("split", func(t *testing.T) { chainSplit(t, m) })
			t.Run("sticky", func(t *testing.T) { chainSticky(t, m) })
			same("routes, splits and balancers")
		})
	}
}

// sameListeners is of Envoys of which no listener may change: it returns what fails the test if one did. Clusters may.
func sameListeners(t *testing.T, cars ...*meshtest.Sidecar) (check func(what string)) {
	t.Helper()
	listeners := func(c *meshtest.Sidecar) map[string]int64 {
		of := c.Stats().Modified()
		maps.DeleteFunc(of, func(name string, _ int64) bool { return !strings.HasPrefix(name, "listener_") })
		return of
	}
	var before []map[string]int64
	for _, c := range cars {
		before = append(before, listeners(c))
	}
	return func(what string) {
		t.Helper()
		for n, c := range cars {
			if after := listeners(c); !maps.Equal(before[n], after) {
				t.Errorf("%s: %s's Envoy counted %v, before %v", what, c.Name, after, before[n])
			}
		}
	}
}

// chainSplit sends a hundredth of the requests to v2, with headers of its own.
func chainSplit(t *testing.T, m *routedMesh) {
	t.Helper()
	m.Write("resolver.hcl", `Kind = "service-resolver"
Name = "api"
Subsets {
  v1 { Filter = "Service.Meta.version == v1" }
  v2 { Filter = "Service.Meta.version == v2" }
}
`)
	c := m.client()
	requests := 3000
	if os.Getenv(longVariable) != "" {
		requests = 20000
	}
	for _, percent := range []float64{1, 50, 99.99} {
		m.Write("splitter.hcl", fmt.Sprintf(`Kind = "service-splitter"
Name = "api"
Splits = [
  { Weight = %v, ServiceSubset = "v2", RequestHeaders { Set { "x-leg" = "%v" } } },
  { Weight = %.2f, ServiceSubset = "v1", RequestHeaders { Set { "x-leg" = "%v" } } },
]
`, percent, percent, 100-percent, percent))
		leg := fmt.Sprint(percent)
		meshtest.Await(t, "the split is there", func() error {
			a, err := c.ask(t.Context(), "GET", "/")
			if err == nil {
				err = sees("X-Leg", leg)(a)
			}
			return err
		})
		var v2, sent atomic.Int64
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for sent.Add(1) <= int64(requests) {
					a, err := c.ask(t.Context(), "GET", "/")
					if err == nil && a.status != http.StatusOK {
						err = fmt.Errorf("status %d", a.status)
					}
					if err == nil {
						err = sees("X-Leg", leg)(a)
					}
					if err != nil {
						t.Error(err)
						return
					}
					if a.seen.Instance == "api-v2" {
						v2.Add(1)
					}
				}
			})
		}
		asking.Wait()
		figure(t, "percent=%v requests=%d v2=%d", percent, requests, v2.Load())
		if err := within(int(v2.Load()), requests, percent/100); err != nil {
			t.Errorf("%v%% for v2: %v", percent, err)
		}
	}
	m.Remove("splitter.hcl")
}

// stickiness is how 40 users ask, and whether each of them is answered by one instance.
type stickiness struct {
	name, policy, hash string
	ask                func(ctx context.Context, c *chainClient, user int, cookies *[]string) (asked, error)
	sticky             bool
	instances          int // of all users together; 0: Envoy gives the users of one connection the same cookie, so it depends
}

func byHeader(ctx context.Context, c *chainClient, user int, _ *[]string) (asked, error) {
	return c.ask(ctx, "GET", "/", fmt.Sprintf("X-User: user-%d", user))
}

// byCookies sends back the cookies that it was given.
func byCookies(ctx context.Context, c *chainClient, _ int, cookies *[]string) (asked, error) {
	a, err := c.ask(ctx, "GET", "/", *cookies...)
	for _, set := range a.headers.Values("Set-Cookie") {
		pair, _, _ := strings.Cut(set, ";")
		*cookies = []string{"Cookie: " + pair}
	}
	return a, err
}

// byBoth has a parameter that is another one in each request.
func byBoth(ctx context.Context, c *chainClient, user int, _ *[]string) (asked, error) {
	return c.ask(ctx, "GET", fmt.Sprintf("/?n=%d", nth.Add(1)), fmt.Sprintf("X-User: user-%d", user))
}

var stickinesses = []stickiness{
	{"header-ring", "ring_hash", `{ Field = "header", FieldValue = "x-user" }`, byHeader, true, 2},
	{"header-maglev", "maglev", `{ Field = "header", FieldValue = "x-user" }`, byHeader, true, 2},
	{"query", "maglev", `{ Field = "query_parameter", FieldValue = "u" }`, func(ctx context.Context, c *chainClient, user int, _ *[]string) (asked, error) {
		return c.ask(ctx, "GET", fmt.Sprintf("/?u=user-%d", user))
	}, true, 2},
	{"cookie-ttl", "ring_hash", `{ Field = "cookie", FieldValue = "sid", CookieConfig { TTL = "60s", Path = "/" } }`, byCookies, true, 0},
	{"cookie-session", "maglev", `{ Field = "cookie", FieldValue = "sid", CookieConfig { Session = true } }`, byCookies, true, 0},
	{"cookie-alone", "ring_hash", `{ Field = "cookie", FieldValue = "sid" }`, byCookies, false, 2},
	{"terminal", "ring_hash", `{ Field = "header", FieldValue = "x-user", Terminal = true }, { Field = "query_parameter", FieldValue = "n" }`, byBoth, true, 2},
	{"not-terminal", "ring_hash", `{ Field = "header", FieldValue = "x-user" }, { Field = "query_parameter", FieldValue = "n" }`, byBoth, false, 2},
	{"source", "ring_hash", `{ SourceIP = true }`, byHeader, true, 1},
}

var nth atomic.Int64

// chainSticky has 40 users ask ten times each, over three connections, for each way of being sticky.
func chainSticky(t *testing.T, m *routedMesh) {
	t.Helper()
	const users, times = 40, 10
	clients := []*chainClient{m.client(), m.client(), m.client()}
	for _, s := range stickinesses {
		m.Write("resolver.hcl", fmt.Sprintf(`Kind = "service-resolver"
Name = "api"
LoadBalancer {
  Policy = %q
  HashPolicies = [%s]
}
`, s.policy, s.hash))
		// A route of the same publication says when it is there.
		m.Write("router.hcl", fmt.Sprintf(`Kind = "service-router"
Name = "api"
Routes = [{ Match { HTTP { PathPrefix = "/" } }, Destination { RequestHeaders { Set { "x-case" = %q } } } }]
`, s.name))
		meshtest.Await(t, s.name+" is there", func() error {
			a, err := clients[0].ask(t.Context(), "GET", "/")
			if err == nil {
				err = sees("X-Case", s.name)(a)
			}
			return err
		})
		by := map[string]int{}
		sticky := 0
		for user := range users {
			var cookies []string
			of := map[string]bool{}
			for n := range times {
				a, err := s.ask(t.Context(), clients[(user+n)%len(clients)], user, &cookies)
				if err == nil && a.status != http.StatusOK {
					err = fmt.Errorf("status %d", a.status)
				}
				if err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				of[a.seen.Instance] = true
				by[a.seen.Instance]++
			}
			if len(of) == 1 {
				sticky++
			}
		}
		figure(t, "%s sticky=%d of=%d instances=%d", s.name, sticky, users, len(by))
		switch {
		case s.sticky && sticky != users:
			t.Errorf("%s: %d of %d users are on one instance", s.name, sticky, users)
		case !s.sticky && sticky > users/2:
			t.Errorf("%s: %d of %d users are on one instance: it is sticky", s.name, sticky, users)
		case s.instances != 0 && s.instances != len(by):
			t.Errorf("%s: %d instances answer all users: %v", s.name, len(by), by)
		}
	}
	m.Remove("router.hcl")
	m.Remove("resolver.hcl")
}
