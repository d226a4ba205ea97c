package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// svidEach is how many streams one client opens in a turn, one after the other.
const svidEach = 70

// svidClient is a client of the Workload API, of the user of service(0).
func (b *apiBench) svidClient(s *apiServer) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:workload", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialAs(ctx, b.uid, "unix", s.workload) }))
}

// firstSVID is the first message of a new stream.
func firstSVID(ctx context.Context, c *grpc.ClientConn) (*workloadpb.X509SVIDResponse, error) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"))
	defer cancel()
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	r, err := stream.Recv()
	if err == nil && (len(r.GetSvids()) != 1 || !strings.HasSuffix(r.GetSvids()[0].GetSpiffeId(), "/svc/"+service(0)) || len(r.GetSvids()[0].GetX509SvidKey()) == 0) {
		err = fmt.Errorf("%d SVIDs, %v, which is not %s's with its key", len(r.GetSvids()), r.GetSvids(), service(0))
	}
	return r, err
}

// svids measures new streams of FetchX509SVID until their first message.
func (b *apiBench) svids(ctx context.Context) ([]row, error) {
	const work = "FetchX509SVID to the first message, c=1 on one processor"
	all := map[string]*apiFigures{}
	if b.uid == 0 {
		none := &apiFigures{why: noUser}
		return apiRows(work, grpcClient, svidOne, map[string]*apiFigures{byFiles: none, byBeside: none}), nil
	}
	files := b.by(byFiles)
	conn, err := b.svidClient(files)
	if err != nil {
		return nil, err
	}
	message, err := firstSVID(ctx, conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	recorded := nothing{}
	if recorded.SVID, err = proto.Marshal(message); err != nil {
		return nil, err
	}
	bare, err := b.nothing(ctx, "nothing-svid", &recorded)
	if err != nil {
		return nil, err
	}
	servers := []*apiServer{files, bare}
	if b.agent != nil {
		servers = append(servers, b.by(byBeside))
	}
	conns := map[*apiServer]*grpc.ClientConn{}
	for _, s := range servers {
		c, err := b.svidClient(s)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[s], all[s.by] = c, &apiFigures{}
	}
	profiled := b.profile(ctx, "svid")
	took := make([]time.Duration, svidEach)
	back, err := onOneProcessor(processes(servers)...)
	if err != nil {
		return nil, err
	}
	err = turns(apiRounds+1, servers, func(n int, s *apiServer) error {
		for i := range took {
			began := time.Now()
			if _, err := firstSVID(ctx, conns[s]); err != nil {
				return err
			}
			took[i] = time.Since(began)
		}
		if n > 0 { // the first is to warm
			slices.Sort(took)
			f := all[s.by]
			f.p50, f.p99 = append(f.p50, percentile(took, 50)), append(f.p99, percentile(took, 99))
		}
		return nil
	})
	b.keep("SVID", all)
	return apiRows(work, grpcClient, svidOne, all), errors.Join(err, back(), profiled())
}
