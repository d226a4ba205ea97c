// Package observe receives the access logs of Envoys (accesslog.v3). It counts by service what they
// have refused, and keeps nothing else.
//
// The load that a proxy can cause is bounded: messages by their size, which is checked before they
// are decoded, and streams by the rate at which they are read. Envoy drops entries that do not fit
// into its own buffer, and counts them itself.
package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// maxMessage bounds a message, in bytes. Envoy sends one as soon as it has 16 KB of entries;
	// the first of a stream also has the node, some 60 KB.
	maxMessage = 256 << 10
	// maxRate is how many entries a second are read of one stream.
	maxRate = 200
)

var errEnding = status.Error(codes.Unavailable, "the control plane is ending")

// Config says what a Server is made of. Views and Authorize are required.
type Config struct {
	Views *latest.Value[*catalog.View]
	// Authorize says which proxy a stream comes from, and of which service; its error becomes the
	// stream's. It is called once for each message.
	Authorize func(ctx context.Context) (identity.Caller, error)
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Server is the access log service. Make it with New, register it with a gRPC server, and Run it.
type Server struct {
	alsv3.UnimplementedAccessLogServiceServer
	views     *latest.Value[*catalog.View]
	authorize func(ctx context.Context) (identity.Caller, error)
	refusals  refusals

	mu      sync.Mutex
	closing chan struct{}  // closed when Run begins to end: no new streams
	streams sync.WaitGroup // goroutines that read
}

// New returns a Server, or an error if its metrics are registered already.
func New(c Config) (*Server, error) {
	s := &Server{
		views: c.Views, authorize: c.Authorize, closing: make(chan struct{}),
		refusals: refusals{views: c.Views, by: map[identity.Name]*[reasons]uint64{}},
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(&s.refusals); err != nil {
			return nil, fmt.Errorf("observe metrics: %w", err)
		}
	}
	return s, nil
}

// Run waits until ctx ends, ends all streams then, and returns nil. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	close(s.closing)
	s.mu.Unlock()
	s.streams.Wait()
	return nil
}

// StreamAccessLogs reads one stream until its Envoy or the control plane ends it. gRPC calls it.
func (s *Server) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	read := make(chan error, 1)
	if !s.begin(func() { read <- s.read(stream) }) {
		return errEnding
	}
	select {
	case err := <-read:
		return err
	case <-s.closing: // returning ends the goroutine that reads
		return errEnding
	case <-stream.Context().Done():
		return context.Cause(stream.Context())
	}
}

// begin calls f in a goroutine, unless Run is ending.
func (s *Server) begin(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return false
	default:
		s.streams.Go(f)
		return true
	}
}

func (s *Server) read(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	ctx := stream.Context()
	for {
		caller, err := s.caller(ctx)
		if err != nil {
			return err
		}
		// To an empty message all fields are unknown, and those are kept as raw bytes.
		var m emptypb.Empty
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		} else if err != nil {
			return err
		}
		n, err := s.take(caller.Service, m.ProtoReflect().GetUnknown())
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(time.Duration(n) * time.Second / maxRate):
		}
	}
}

// caller authorizes the stream and returns its proxy, which has to be one of the service that it
// names.
func (s *Server) caller(ctx context.Context) (identity.Caller, error) {
	c, err := s.authorize(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	view, ok := s.views.Load()
	if !ok {
		return identity.Caller{}, status.Error(codes.Unavailable, "the catalog is not known yet")
	}
	p := view.Proxy(c.Proxy)
	if p == nil || p.Proxy.Service != c.Service {
		return identity.Caller{}, status.Errorf(codes.PermissionDenied, "the catalog has no proxy %.64q of the service %.64q", c.Proxy, c.Service)
	}
	if err := p.Proxy.Admits(c.Proof); err != nil {
		return identity.Caller{}, status.Error(codes.PermissionDenied, err.Error())
	}
	return c, nil
}

// take counts the refusals of a message that a proxy of service sent, and returns how many entries
// it counts as for maxRate: at least 1.
func (s *Server) take(service identity.Name, message []byte) (int, error) {
	if len(message) > maxMessage {
		return 0, status.Errorf(codes.ResourceExhausted, "message of %d bytes: must be at most %d", len(message), maxMessage)
	}
	var m alsv3.StreamAccessLogsMessage
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(message, &m); err != nil {
		return 0, status.Error(codes.InvalidArgument, "not a message of access logs")
	}
	var n [reasons]uint64
	for _, e := range m.GetTcpLogs().GetLogEntry() {
		n[reasonOf(e.GetCommonProperties(), "")]++
	}
	for _, e := range m.GetHttpLogs().GetLogEntry() {
		n[reasonOf(e.GetCommonProperties(), e.GetResponse().GetResponseCodeDetails())]++
	}
	s.refusals.add(service, n)
	return max(1, len(m.GetTcpLogs().GetLogEntry())+len(m.GetHttpLogs().GetLogEntry())), nil
}

// reasonOf is why Envoy refused the connection or request of an entry. details are those of an http
// response.
func reasonOf(p *accesslogv3.AccessLogCommon, details string) reason {
	const denied = "rbac_access_denied" // the name of the intention's rule follows
	const byRevocation = denied + "_matched_policy[revoked"
	switch {
	case p.GetDownstreamTransportFailureReason() != "":
		return handshake
	case strings.HasPrefix(p.GetConnectionTerminationDetails(), byRevocation), strings.HasPrefix(details, byRevocation):
		return revoked
	case strings.HasPrefix(p.GetConnectionTerminationDetails(), denied), strings.HasPrefix(details, denied):
		return rules
	}
	return uncounted
}
