package workload_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// bare sends one message, and is all that grpc-go needs for it.
type bare struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer
	message *workloadpb.X509SVIDResponse
}

func (b bare) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	if err := stream.Send(b.message); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// BenchmarkFirstMessage measures a new stream to its first message, beside a bare grpc-go server that sends the same bytes on
// a socket of the same kind to a client of the same user. The two take turns; what is reported are medians of the rounds'
// medians, and how many times the bare server's ours is.
func BenchmarkFirstMessage(b *testing.B) {
	h := start(b, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	ours := h.client(b, webUID)
	message, err := fetch(b, ours).Recv()
	if err != nil {
		b.Fatal(err)
	}
	socket := h.socket + ".bare"
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer()
	workloadpb.RegisterSpiffeWorkloadAPIServer(s, bare{message: message})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() { s.Stop(); <-served }()
	h.socket = socket
	theirs := h.client(b, webUID)

	const rounds, each = 11, 300
	round := func(c *grpc.ClientConn) time.Duration {
		api := workloadpb.NewSpiffeWorkloadAPIClient(c)
		took := make([]time.Duration, each)
		for i := range took {
			ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(b.Context(), "workload.spiffe.io", "true"))
			began := time.Now()
			stream, err := api.FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			took[i] = time.Since(began)
			cancel()
			if err != nil {
				b.Fatal(err)
			}
		}
		return median(took)
	}
	for b.Loop() {
		var a, z []time.Duration
		for n := range rounds {
			if n%2 == 0 {
				a, z = append(a, round(ours)), append(z, round(theirs))
			} else {
				z, a = append(z, round(theirs)), append(a, round(ours))
			}
		}
		us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
		b.ReportMetric(us(median(a)), "µs/first-message")
		b.ReportMetric(us(median(z)), "µs/bare")
		b.ReportMetric(us(median(a))/us(median(z)), "x-bare")
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
