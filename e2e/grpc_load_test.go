//go:build e2e

package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// ticking is a service whose health is another one ten times a second.
const ticking = "ticking"

// tickingHealth is a gRPC server's health, until the test ends.
func tickingHealth(t *testing.T) *health.Server {
	t.Helper()
	s := health.NewServer()
	tick, done := time.NewTicker(100*time.Millisecond), make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		defer tick.Stop()
		for is := grpc_health_v1.HealthCheckResponse_SERVING; ; is = 3 - is { // or NOT_SERVING
			s.SetServingStatus(ticking, is)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return s
}

// healthClient asks a gRPC server for its health, on one connection.
type healthClient struct{ client grpc_health_v1.HealthClient }

// check asks once.
func (g healthClient) check(ctx context.Context) error {
	answer, err := g.client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		err = errors.New(answer.GetStatus().String())
	}
	return err
}

// hold watches the health of what changes all the while: an Envoy ends a stream on which nothing is said for five minutes.
func (g healthClient) hold(ctx context.Context, alive func()) error {
	stream, err := g.client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: ticking})
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		alive()
	}
}
