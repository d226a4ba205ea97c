//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestChainTCP has what a tcp service leads to be another in every way that a resolver can say, and be sick and well again, under load: new
// connections lead there and do not fail, those that are held stay, and no listener is another one.
func TestChainTCP(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			chainTCP(t, envoy)
		})
	}
}

// tcpChains are resolvers of api, each with who answers first, and then if that is sick.
var tcpChains = []struct{ resolver, first, next string }{
	{"", "", ""}, // there is none: any instance of api
	{`DefaultSubset = "v1"`, "api-v1", ""},
	{`DefaultSubset = "v2"`, "api-v2", ""},
	{`Redirect { Service = "other" }`, "other-1", ""},
	{"DefaultSubset = \"v1\"\nFailover = { \"*\" = { ServiceSubset = \"v2\" } }", "api-v1", "api-v2"},
	{"DefaultSubset = \"v1\"\nFailover = { \"*\" = { Service = \"other\" } }", "api-v1", "other-1"},
	{"DefaultSubset = \"v2\"\nConnectTimeout = \"7s\"\nFailover = { \"*\" = { Targets = [{ Service = \"other\" }, { ServiceSubset = \"v1\" }] } }", "api-v2", "other-1"},
}

// subsets are those of api, as its resolver defines them.
const subsets = `Subsets {
  v1 { Filter = "Service.Meta.version == v1" }
  v2 { Filter = "Service.Meta.version == v2" }
}
`

func chainTCP(t *testing.T, envoy string) {
	t.Helper()
	m := &routedMesh{Mesh: meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy}), t: t, ports: map[string]int{}, apps: map[string]*meshtest.Server{}}
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	instances := map[string][2]string{"api-v1": {"api", "v1"}, "api-v2": {"api", "v2"}, "other-1": {"other", "v1"}}
	health := func(id, status string) { m.served(instances[id][0], id, instances[id][1], status, m.apps[id]) }
	for id := range instances {
		app, err := meshtest.ServeEcho("127.0.0.1:0", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(app.Close)
		m.apps[id] = app
		health(id, "passing")
	}
	m.Serve()
	cars := m.Sidecars("api-v1", "api-v2", "other-1", "web")
	web, addr := cars[3], m.Upstream("web", "api")
	meshtest.Await(t, "api answers", func() error { return meshtest.EchoPlain(addr, "hello").Err })
	same := sameListeners(t, cars...)
	// leads waits until all new connections, the load's too, lead to one instance; "": until they succeed.
	leads := func(what, to string) {
		t.Helper()
		meshtest.Await(t, what+": "+to+" answers", func() error {
			before := map[string]int64{}
			for id, app := range m.apps {
				before[id] = app.Dials.Load()
			}
			for range 3 {
				if a := meshtest.EchoPlain(addr, "hello"); a.Err != nil {
					return a.Err
				}
			}
			for id, app := range m.apps {
				if n := app.Dials.Load() - before[id]; to != "" && id != to && n > 0 {
					return fmt.Errorf("%s took %d connections", id, n)
				}
			}
			return nil
		})
	}
	load := startLoad(t, meshtest.LoadConfig{TCP: addr, Held: 4, Dialled: 30, Patience: patience})
	changes := 20
	if os.Getenv(longVariable) != "" {
		changes = 200
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	was := false // there is a resolver
	for n := range changes {
		c := tcpChains[r.IntN(len(tcpChains))]
		what := fmt.Sprintf("change %d, %q", n, c.resolver)
		if c.first != "" {
			m.Write("resolver.hcl", "Kind = \"service-resolver\"\nName = \"api\"\n"+subsets+c.resolver+"\n")
		} else if was {
			m.Remove("resolver.hcl")
		}
		was = c.first != ""
		if c.first == "" || r.IntN(4) == 0 { // the next change comes before it is known whether this one is in force
			time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
			continue
		}
		leads(what, c.first)
		if c.next != "" {
			// Before web's Envoy knows who is next there is nobody.
			meshtest.Await(t, what+": its levels", func() error {
				known := web.Admin("/clusters")
				for level, id := range []string{c.first, c.next} {
					if line := fmt.Sprintf("::127.0.0.1:%d::priority::%d\n", m.ports[id], level); !strings.Contains(known, line) {
						return fmt.Errorf("no line %q in\n%s", line, known)
					}
				}
				return nil
			})
			health(c.first, "critical")
			leads(what+", sick", c.next)
			health(c.first, "passing")
			leads(what+", well", c.first)
		}
	}
	report := load.Stop()
	figure(t, "seed=%d changes=%d %s", seed, changes, report)
	if report.Held != 4 {
		t.Errorf("%d connections were held, want 4", report.Held)
	}
	unscathed(t, "a tcp service's chain changes", report)
	same("changes of chains")
}
