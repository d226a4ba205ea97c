//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// TestChainChanges changes chains at random under load: no request fails, no stream or WebSocket ends, and no listener is another one.
func TestChainChanges(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			chainChanges(t, envoy)
		})
	}
}

func chainChanges(t *testing.T, envoy string) {
	t.Helper()
	m := newRoutedMesh(t, envoy)
	m.Write("defaults-rpc.hcl", "Kind = \"service-defaults\"\nName = \"rpc\"\nProtocol = \"grpc\"\n")
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "rpc"}})
	for _, version := range []string{"v1", "v2"} {
		m.instance("api", "api-"+version, version, "passing")
		rpc := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(rpc, tickingHealth(t))
		server, err := meshtest.ServeHTTP("127.0.0.1:0", "", rpc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		m.served("rpc", "rpc-"+version, version, "passing", server)
	}
	m.instance("other", "other-1", "v1", "passing")
	m.Serve()
	cars := m.Sidecars("api-v1", "api-v2", "rpc-v1", "rpc-v2", "other-1", "web")
	same := sameListeners(t, cars...)

	conn, err := grpc.NewClient(m.Upstream("web", "rpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	rpc := healthClient{grpc_health_v1.NewHealthClient(conn)}
	url := "http://" + m.Upstream("web", "api")
	h2 := meshtest.NewHTTP2(url)
	t.Cleanup(h2.Close)
	c := m.client()
	load := startLoad(t, meshtest.LoadConfig{
		URL: url, KeepAlive: 30, Fresh: 5, Streams: 2, Patience: patience,
		Calls: []meshtest.Call{{Rate: 20, Do: h2.Get}, {Rate: 20, Do: rpc.check}},
		Holds: []meshtest.Hold{h2.Hold, h2.Hold, rpc.hold, rpc.hold, c.hold("/"), c.hold("/socket")},
	})
	changes := 30
	if os.Getenv(longVariable) != "" {
		changes = 200
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	var slowest time.Duration
	for n := range changes {
		mark := strconv.Itoa(n)
		service := "api"
		if n%3 == 2 {
			service = "rpc"
		}
		if n%10 == 9 { // nothing is said of it any more
			service, mark = "api", ""
			for _, kind := range []string{"router", "splitter", "resolver"} {
				m.Remove("api-" + kind + ".hcl")
			}
		} else {
			entries := randomChain(r, service, mark)
			for _, kind := range []string{"resolver", "splitter", "router"} { // each needs the one before
				m.Write(service+"-"+kind+".hcl", entries[kind])
			}
		}
		if service == "rpc" {
			time.Sleep(300 * time.Millisecond)
			continue
		}
		slowest = max(slowest, meshtest.Await(t, fmt.Sprintf("change %d is in force", n), func() error {
			a, err := c.ask(t.Context(), "GET", "/")
			if err == nil {
				err = sees("X-Mark", mark)(a)
			}
			return err
		}))
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
	}
	report := load.Stop()
	figure(t, "seed=%d changes=%d slowest_ms=%.0f", seed, changes, millis(slowest))
	if report.Held != 8 {
		t.Errorf("%d connections were held, want 8", report.Held)
	}
	unscathed(t, "chains change", report)
	same("changes of chains")
	text, err := os.ReadFile(m.ServeLog())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "not taken") {
		t.Error("the control plane did not take all changes")
	}
}

// randomChain are entries of a service whose routes all mark what they lead with mark, by kind.
func randomChain(r *rand.Rand, service, mark string) map[string]string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	legs := []string{`ServiceSubset = "v1"`, `ServiceSubset = "v2"`}
	if service == "api" {
		legs = append(legs, `Service = "other"`)
	}
	r.Shuffle(len(legs), func(i, j int) { legs[i], legs[j] = legs[j], legs[i] })

	var router strings.Builder
	fmt.Fprintf(&router, "Kind = \"service-router\"\nName = %q\nRoutes = [\n", service)
	matches := []string{
		`PathExact = "/"`, `PathPrefix = "/so"`, `PathRegex = "/s.*"`, `Methods = ["GET", "POST"]`, `Header = [{ Name = "x-none", Present = true, Invert = true }]`,
		`QueryParam = [{ Name = "q", Present = true }]`, `PathPrefix = "/"`,
	}
	for range r.IntN(4) {
		fmt.Fprintf(&router, "  { Match { HTTP { %s } }\n    Destination {\n", one(matches...))
		if r.IntN(2) == 0 {
			fmt.Fprintf(&router, "      %s\n", one(legs...))
		}
		fmt.Fprintf(&router, "      %s\n", one("", `RequestTimeout = "1h"`, `RequestTimeout = "-1s"`, `IdleTimeout = "1h"`, "NumRetries = 3\nRetryOn = [\"reset\"]", "NumRetries = 2\nRetryOnStatusCodes = [599]"))
		fmt.Fprintf(&router, "      RequestHeaders { Set { \"x-mark\" = %q, \"x-more\" = \"%d\" } }\n", mark, r.IntN(9))
		router.WriteString(one("", "      ResponseHeaders { Add { \"x-route\" = \"%PROTOCOL%\" } }\n") + "    }\n  },\n")
	}
	fmt.Fprintf(&router, "  { Destination { RequestHeaders { Set { \"x-mark\" = %q } } } },\n]\n", mark)

	weights := []int{r.IntN(101)}
	weights = append(weights, 100-weights[0])
	if len(legs) > 2 && r.IntN(2) == 0 {
		half := weights[1] / 2
		weights = append(weights[:1], half, weights[1]-half)
	}
	var splitter strings.Builder
	fmt.Fprintf(&splitter, "Kind = \"service-splitter\"\nName = %q\nSplits = [\n", service)
	for i, w := range weights {
		fmt.Fprintf(&splitter, "  { Weight = %d, %s },\n", w, legs[i])
	}
	splitter.WriteString("]\n")

	resolver := fmt.Sprintf("Kind = \"service-resolver\"\nName = %q\n", service) + `Subsets {
  v1 { Filter = "Service.Meta.version == v1" }
  v2 { Filter = "Service.Meta.version == v2" }
}
` + one("", "DefaultSubset = \"v1\"\n", "DefaultSubset = \"v2\"\n") + one("", "ConnectTimeout = \"7s\"\n", "RequestTimeout = \"2h\"\n") + one("", "LoadBalancer { Policy = \"least_request\" }\n",
		"LoadBalancer { Policy = \"random\" }\n",
		"LoadBalancer {\n Policy = \"ring_hash\"\n HashPolicies = [{ Field = \"header\", FieldValue = \"x-more\" }]\n}\n",
		"LoadBalancer {\n Policy = \"maglev\"\n HashPolicies = [{ Field = \"cookie\", FieldValue = \"sid\", CookieConfig { Session = true } }]\n}\n")
	failovers := []string{"", "Failover = { \"*\" = { ServiceSubset = \"v1\" } }\n", "Failover = { \"v1\" = { ServiceSubset = \"v2\" } }\n"}
	if service == "api" {
		failovers = append(failovers, "Failover = { \"*\" = { Service = \"other\" } }\n",
			"Failover = { \"*\" = { Targets = [{ ServiceSubset = \"v2\" }, { Service = \"other\" }, { ServiceSubset = \"v1\" }] } }\n", "Redirect { Service = \"other\" }\n")
	}
	resolver += one(failovers...)
	return map[string]string{"resolver": resolver, "splitter": splitter.String(), "router": router.String()}
}
