package grpccredentials_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/connect/grpccredentials"
	"github.com/sallyport/sallyport/connect/internal/apitest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func Example() {
	var t apitest.Standalone
	defer t.Close()
	mesh := apitest.New(&t)
	options := connect.Options{Address: mesh.Serve(), Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	api, err := connect.NewService(ctx, "api", options)
	if err != nil {
		panic(err)
	}
	defer api.Close()
	server := grpc.NewServer(grpccredentials.Server(api))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	mesh.Register("api", l.Addr().String())

	web, err := connect.NewService(ctx, "web", options)
	if err != nil {
		panic(err)
	}
	defer web.Close()
	conn, err := grpc.NewClient("connect:///api", grpccredentials.Client(web)...)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.GetStatus())
	// Output: SERVING
}
