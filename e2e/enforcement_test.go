//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// changesOfEnforcement is how often the mode changes: each of the six changes four times, ten times in the long form.
func changesOfEnforcement() int {
	if os.Getenv(longVariable) != "" {
		return 60
	}
	return 24
}

// TestEnforcementChanges changes how intentions are enforced under load, beside a client that is
// denied and a server that speaks first: no request fails, no connection ends, and the denied get
// nothing.
func TestEnforcementChanges(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			enforcementChanges(t, envoy)
		})
	}
}

func enforcementChanges(t *testing.T, envoy string) {
	t.Helper()
	rpc := grpc.NewServer()
	healthv1.RegisterHealthServer(rpc, health.NewServer())
	grpcServer, err := meshtest.ServeHTTP("127.0.0.1:0", "", rpc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(grpcServer.Close)
	mail := serveEcho(t, banner)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
	m.Add(meshtest.Service{Name: "h1", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "h2", Protocol: "http2", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "rpc", Protocol: "grpc", Local: grpcServer})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "mail", Local: mail})
	all := []string{"h1", "h2", "rpc", "db", "mail"}
	m.Add(meshtest.Service{Name: "web", Upstreams: all})
	m.Add(meshtest.Service{Name: "batch", Upstreams: all})
	for _, s := range all {
		m.Intend(s, meshtest.Intentions{"web": "allow"})
	}
	enforce(m, "rbac")
	m.Serve()
	startRelay(t, m, patientAuthz)
	cars := m.Sidecars("h1", "h2", "rpc", "db", "mail", "web", "batch")
	same := unmodified(t, cars...)

	changeUnderLoad(t, m, all, cars, mail, envoy)
	same("changes of enforcement")
	if a := m.Client("web", "mail").Listen(m.Public("mail"), time.Second); a.Body != banner {
		t.Errorf("web's certificate hears %q of mail, want the banner: %v", a.Body, a)
	}
}

// changeUnderLoad fails the test if any request of an allowed client failed, or a denied one got
// something.
func changeUnderLoad(t *testing.T, m *meshtest.Mesh, all []string, cars []*meshtest.Sidecar, mail *meshtest.Server, envoy string) {
	t.Helper()
	dials, outages, checks := mail.Dials.Load(), -sum(cars, `.*ext_authz\..*error`), -sum(cars, `.*ext_authz\.intentions\.ok`)
	denied := startDenied(t, m, all)
	loads := map[string]func() meshtest.Report{
		"h1":   startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "h1"), KeepAlive: 60, Fresh: 10, Patience: patience}).Stop,
		"h2":   startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "h2"), KeepAlive: 50, Patience: patience}).Stop,
		"gRPC": startRPC(t, m.Upstream("web", "rpc"), 40),
		"tcp":  startLoad(t, meshtest.LoadConfig{TCP: m.Upstream("web", "db"), Held: 4, Dialled: 40, Patience: patience}).Stop,
	}
	// Each of the six changes once a round.
	modes := []string{"both", "ext_authz", "rbac", "ext_authz", "both", "rbac"}
	var slowest time.Duration
	changes := changesOfEnforcement()
	for n := range changes {
		mode := modes[n%len(modes)]
		enforce(m, mode)
		time.Sleep(300 * time.Millisecond) // asking costs as much as the load
		slowest = max(slowest, meshtest.Await(t, "all enforce by "+mode, func() error { return enforced(m, mode, all) }))
	}
	tried, heard := denied()
	var total meshtest.Report
	for name, stop := range loads {
		r := stop()
		figure(t, "%s %s", name, r)
		if r.Requests == 0 || r.Failed != 0 || r.Closed != 0 {
			t.Errorf("%s: %v", name, r)
		}
		total.Requests, total.Failed, total.Closed = total.Requests+r.Requests, total.Failed+r.Failed, total.Closed+r.Closed
	}
	outages, checks = outages+sum(cars, `.*ext_authz\..*error`), checks+sum(cars, `.*ext_authz\.intentions\.ok`)
	dialled := mail.Dials.Load() - dials
	figure(t, "changes=%d slowest_ms=%.0f requests=%d failed=%d closed=%d ext_authz_ok=%d ext_authz_outages=%d denied_tries=%d denied_heard_bytes=%d denied_dials=%d",
		changes, millis(slowest), total.Requests, total.Failed, total.Closed, checks, outages, tried, heard, dialled)
	if heard != 0 || tried == 0 {
		t.Errorf("the denied got %d bytes in %d tries", heard, tried)
	}
	if dialled != 0 && envoy == meshtest.Version { // Envoy 1.36 dials at once, and the status says so
		t.Errorf("the application was dialled %d times for the denied", dialled)
	}
	if checks == 0 {
		t.Error("ext_authz was never asked")
	}
	if outages != 0 {
		t.Errorf("ext_authz was not answered %d times within %s", outages, patience)
	}
}

// patience is how long clients and Envoys wait here for an answer: on a machine that stands still a
// request that fails after Envoy's 250 ms says nothing of what is tested.
const patience = 30 * time.Second

// patientAuthz has Envoy wait that long for the answer of ext_authz.
func patientAuthz(r *discoveryv3.Resource) error {
	wait := durationpb.New(patience)
	return errors.Join(
		alterAny(r.Resource, &corev3.TypedExtensionConfig{}, func(c *corev3.TypedExtensionConfig) error {
			return alterAny(c.TypedConfig, &networkauthzv3.ExtAuthz{}, func(a *networkauthzv3.ExtAuthz) error {
				a.GrpcService.Timeout = wait
				return nil
			})
		}),
		alterAny(r.Resource, &listenerv3.Listener{}, func(l *listenerv3.Listener) (err error) {
			for _, c := range l.FilterChains {
				for _, f := range c.Filters {
					err = errors.Join(err, alterAny(f.GetTypedConfig(), &hcmv3.HttpConnectionManager{}, func(m *hcmv3.HttpConnectionManager) (err error) {
						for _, f := range m.HttpFilters {
							err = errors.Join(err, alterAny(f.GetTypedConfig(), &httpauthzv3.ExtAuthz{}, func(a *httpauthzv3.ExtAuthz) error {
								a.GetGrpcService().Timeout = wait
								return nil
							}))
						}
						return err
					}))
				}
			}
			return err
		}))
}

// sum adds counters of all these Envoys.
func sum(cars []*meshtest.Sidecar, expression string) (n int64) {
	for _, c := range cars {
		n += c.Stats().Sum(expression)
	}
	return n
}

// enforce sets how the intentions about all services are enforced.
func enforce(m *meshtest.Mesh, mode string) {
	m.Write("proxy-defaults.hcl", fmt.Sprintf("Kind = \"proxy-defaults\"\nName = \"global\"\nConfig {\n  intention_enforcement = %q\n}\n", mode))
}

// enforced is nil if all these services' Envoys have all that there is to mode.
func enforced(m *meshtest.Mesh, mode string, services []string) error {
	in := map[string]bool{}
	for _, p := range m.Status().Proxies {
		in[p.Instance] = p.InSync && strings.Contains(p.String(), fmt.Sprintf("%q:%q", "enforcement", mode))
	}
	for _, s := range services {
		if !in[s] {
			return fmt.Errorf("%s is not, or not in sync", s)
		}
	}
	return nil
}

// startDenied tries to reach services as batch, without a pause. The function that it returns ends
// that, and says how often it tried and how many bytes of the applications it got.
func startDenied(t *testing.T, m *meshtest.Mesh, services []string) (stop func() (tries, bytes int64)) {
	t.Helper()
	certificate := m.Authority().Issue(t, meshtest.LeafSpec{URIs: []string{m.URI("batch")}})
	var tries, bytes atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var trying sync.WaitGroup
	try := func(f func() meshtest.Answer) {
		trying.Go(func() {
			for ctx.Err() == nil {
				a := f()
				tries.Add(1)
				if a.Status == 0 || a.Status == http.StatusOK { // else Envoy's words
					bytes.Add(int64(len(a.Body)))
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	for _, s := range services {
		upstream, public := m.Upstream("batch", s), m.Public(s)
		switch s {
		case "db", "mail":
			try(func() meshtest.Answer { return meshtest.EchoPlain(upstream, "hello") })
			try(func() meshtest.Answer { return meshtest.ListenPlain(upstream, 200*time.Millisecond) })
			try(func() meshtest.Answer {
				return meshtest.Client{Certificate: certificate}.Listen(public, 200*time.Millisecond)
			})
		default:
			try(func() meshtest.Answer { return meshtest.GetPlain("http://" + upstream) })
			try(func() meshtest.Answer { return meshtest.Client{Certificate: certificate}.Get(public, "/") })
		}
	}
	return func() (int64, int64) {
		cancel()
		trying.Wait()
		return tries.Load(), bytes.Load()
	}
}

// startRPC asks for the health of a gRPC service at a fixed rate, on one connection, until the
// function that it returns is called.
func startRPC(t *testing.T, addr string, rate int) (stop func() meshtest.Report) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := healthv1.NewHealthClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	report := meshtest.Report{Errors: map[string]int{}}
	var asking sync.WaitGroup
	asking.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			asking.Go(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
				defer cancel()
				_, err := client.Check(ctx, &healthv1.HealthCheckRequest{})
				mu.Lock()
				defer mu.Unlock()
				report.Requests++
				if err != nil {
					report.Failed++
					report.Errors[err.Error()]++
				}
			})
		}
	})
	return func() meshtest.Report {
		cancel()
		asking.Wait()
		_ = conn.Close()
		return report
	}
}
