package grpccredentials_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/connect/grpccredentials"
	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

// checker answers health checks and notes who asks.
type checker struct {
	*health.Server
	asked atomic.Int64
	from  atomic.Value
}

func (c *checker) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	c.asked.Add(1)
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && info.SPIFFEID != nil {
			c.from.Store(info.SPIFFEID.String())
		}
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// serve serves a service's checker until the test ends.
func serve(t *testing.T, svc *connect.Service) (*checker, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{Server: health.NewServer()}
	server := grpc.NewServer(grpccredentials.Server(svc))
	healthpb.RegisterHealthServer(server, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return c, l.Addr().String()
}

func service(t *testing.T, address, name string) *connect.Service {
	t.Helper()
	s, err := connect.NewService(context.Background(), name, connect.Options{Address: address, Logger: slog.New(slog.DiscardHandler), EndOnRevocation: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func dial(t *testing.T, target string, options ...grpc.DialOption) healthpb.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func check(t *testing.T, c healthpb.HealthClient, options ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, options...)
	return err
}

// await calls try until it does as wanted.
func await(t *testing.T, what string, try func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if try() {
			return
		}
	}
	t.Fatalf("%s: still not so after %s", what, deadline)
}

func TestClient(t *testing.T) {
	a := apitest.New(t)
	address := a.Serve()
	api, web := service(t, address, "api"), service(t, address, "web")
	one, first := serve(t, api)
	two, second := serve(t, api)
	a.Register("api", first)
	balanced := append(grpccredentials.Client(web), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	c := dial(t, "connect:///api", balanced...)
	if err := check(t, c); err != nil {
		t.Fatal(err)
	}
	if from := one.from.Load(); from != apitest.ID("web") {
		t.Errorf("asked by %v", from)
	}
	if err := check(t, dial(t, "connect:///API.service.dc1.consul", grpccredentials.Client(web)...)); err != nil {
		t.Error(err)
	}
	// Another instance comes, and the first one goes.
	a.Register("api", first, second)
	await(t, "the second instance is asked", func() bool { return check(t, c) == nil && two.asked.Load() > 0 })
	a.Register("api", second)
	await(t, "the first instance is asked no more", func() bool {
		n := one.asked.Load()
		for range 10 {
			if err := check(t, c); err != nil {
				return false
			}
		}
		return one.asked.Load() == n
	})
	// A denial ends the connection that is open, and lets in no other.
	a.Deny("web", "api")
	await(t, "denied", func() bool { return check(t, c) != nil })
	for range 5 {
		if err := check(t, c); err == nil {
			t.Error("let in although denied")
		}
	}
	a.Allow("web", "api")
	await(t, "allowed again", func() bool { return check(t, c, grpc.WaitForReady(true)) == nil })
	a.Register("api")
	await(t, "no instance", func() bool { return check(t, c) != nil })
}

func TestRefused(t *testing.T) {
	a := apitest.New(t)
	address := a.Serve()
	web, other := service(t, address, "web"), service(t, address, "other")
	_, at := serve(t, other)
	a.Register("api", at)
	for target, want := range map[string]string{
		"connect:///api":              "another service",
		"connect:///nobody":           "no healthy instance of nobody",
		"connect:///a%20b":            "is not the name of a service",
		"passthrough:///" + at:        "nobody knows which service",
		"connect:///api.query.consul": "cannot be dialled",
	} {
		err := check(t, dial(t, target, grpccredentials.Client(web)...))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", target, err, want)
		}
	}
	if err := check(t, dial(t, "connect://api", grpccredentials.Client(web)...)); err == nil || !strings.Contains(err.Error(), "three slashes") {
		t.Errorf("got %v", err)
	}
	for id, good := range map[string]bool{apitest.ID("other"): true, apitest.ID("api"): false} {
		peer := spiffeid.RequireFromString(id)
		err := check(t, dial(t, "passthrough:///"+at, grpc.WithTransportCredentials(grpccredentials.ClientTo(web, peer))))
		if (err == nil) != good {
			t.Errorf("%s: %v", id, err)
		}
	}
	_ = web.Close()
	if err := check(t, dial(t, "connect:///api", grpccredentials.Client(web)...)); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v", err)
	}
}
