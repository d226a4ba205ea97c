package observe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/observe"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a server, the catalog and who calls it.
type fixture struct {
	store    catalog.Store
	registry *prometheus.Registry
	server   *observe.Server
	client   alsv3.AccessLogServiceClient
	stop     func() // ends Run

	mu     sync.Mutex
	caller identity.Caller
	err    error
}

func (f *fixture) is(c identity.Caller, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caller, f.err = c, err
}

var api = identity.Caller{Proxy: "api-sidecar-proxy", Service: identity.NewName("api")}

func contents(services ...string) catalog.Contents {
	var c catalogtest.Mesh
	for _, s := range services {
		for _, id := range []string{s + "-sidecar-proxy", s + "-2-sidecar-proxy"} {
			c.Proxies = append(c.Proxies, catalog.Proxy{ID: identity.ProxyID(id), Service: identity.NewName(s)})
		}
	}
	return c.Contents()
}

// start runs a server that takes everybody for api's proxy.
func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{registry: prometheus.NewRegistry(), caller: api}
	var err error
	f.server, err = observe.New(observe.Config{Views: &f.store.Views, Registerer: f.registry, Authorize: func(context.Context) (identity.Caller, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.caller, f.err
	}})
	if err != nil {
		t.Fatal(err)
	}
	f.store.Publish(contents("api", "db"))
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.server.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// serve makes f.client a client over gRPC.
func (f *fixture) serve(t *testing.T) {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	s := grpc.NewServer(grpc.MaxRecvMsgSize(8 << 20))
	alsv3.RegisterAccessLogServiceServer(s, f.server)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///observe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	f.client = alsv3.NewAccessLogServiceClient(conn)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// send sends messages over a stream of its own, and returns how that ended.
func (f *fixture) send(t *testing.T, messages ...*alsv3.StreamAccessLogsMessage) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := f.client.StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) { // EOF: the status says why
			t.Fatal(err)
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// counts demands what the metric says: lines of "destination reason n".
func (f *fixture) counts(t *testing.T, lines ...string) {
	t.Helper()
	var want strings.Builder
	want.WriteString("# HELP sallyport_refusals_total Connections and requests that the Envoys of a service refused by themselves and reported, by reason: handshake (no certificate of the mesh, or one that may not), rules (of an intention), revoked (the certificate or the identity is).\n# TYPE sallyport_refusals_total counter\n")
	for _, l := range lines {
		w := strings.Fields(l)
		fmt.Fprintf(&want, "sallyport_refusals_total{destination=%q,reason=%q} %s\n", w[0], w[1], w[2])
	}
	if err := testutil.GatherAndCompare(f.registry, strings.NewReader(want.String())); err != nil {
		t.Error(err)
	}
}

// total is the sum of the metric.
func (f *fixture) total(t *testing.T) (sum float64) {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	return sum
}

func tcp(entries ...*accesslogv3.AccessLogCommon) *alsv3.StreamAccessLogsMessage {
	var list []*accesslogv3.TCPAccessLogEntry
	for _, e := range entries {
		list = append(list, &accesslogv3.TCPAccessLogEntry{CommonProperties: e})
	}
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: list}}}
}

func http(details ...string) *alsv3.StreamAccessLogsMessage {
	var list []*accesslogv3.HTTPAccessLogEntry
	for _, d := range details {
		list = append(list, &accesslogv3.HTTPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{}, Response: &accesslogv3.HTTPResponseProperties{ResponseCodeDetails: d}})
	}
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: list}}}
}

func failed(reason string) *accesslogv3.AccessLogCommon {
	return &accesslogv3.AccessLogCommon{DownstreamTransportFailureReason: reason}
}

func ended(details string) *accesslogv3.AccessLogCommon {
	return &accesslogv3.AccessLogCommon{ConnectionTerminationDetails: details}
}

func TestCounts(t *testing.T) {
	f := start(t)
	f.serve(t)
	f.counts(t, "api handshake 0", "api revoked 0", "api rules 0", "db handshake 0", "db revoked 0", "db rules 0")
	first := tcp(failed("TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"), ended("rbac_access_denied_matched_policy[none]"))
	first.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{LogName: "refusals", Node: &corev3.Node{Id: "db-sidecar-proxy", Cluster: "db"}}
	if err := f.send(t, first, tcp(failed("x"), ended("something_else"), nil, ended("")), http("rbac_access_denied_matched_policy[web_=>_api]", "via_upstream", "ext_authz_denied")); err != nil {
		t.Fatal(err)
	}
	// It is the token that says whose they are, not the node.
	f.counts(t, "api handshake 2", "api revoked 0", "api rules 2", "db handshake 0", "db revoked 0", "db rules 0")
	f.is(identity.Caller{Proxy: "db-2-sidecar-proxy", Service: identity.NewName("db")}, nil)
	if err := f.send(t, tcp(failed("x"))); err != nil {
		t.Fatal(err)
	}
	f.counts(t, "api handshake 2", "api revoked 0", "api rules 2", "db handshake 1", "db revoked 0", "db rules 0")
	// By a filter for connections, which names whose certificates it refuses, and by rules of requests.
	if err := f.send(t, tcp(ended("rbac_access_denied_matched_policy[revoked_spiffe://x/ns/default/dc/dc1/svc/web]"), ended("rbac_access_denied_matched_policy[revoked]")), http("rbac_access_denied_matched_policy[revoked]")); err != nil {
		t.Fatal(err)
	}
	f.counts(t, "api handshake 2", "api revoked 0", "api rules 2", "db handshake 1", "db revoked 3", "db rules 0")
	// A service that has left is not shown any more; one that comes begins at zero.
	f.store.Publish(contents("web", "db"))
	f.counts(t, "db handshake 1", "db revoked 3", "db rules 0", "web handshake 0", "web revoked 0", "web rules 0")
	f.store.Publish(contents("api"))
	f.counts(t, "api handshake 0", "api revoked 0", "api rules 0")
	if problems, err := testutil.GatherAndLint(f.registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

func TestRefuses(t *testing.T) {
	big := tcp(failed("x"), ended(strings.Repeat("x", 256<<10)))
	garbled := &alsv3.StreamAccessLogsMessage{}
	garbled.ProtoReflect().SetUnknown([]byte{0x12, 0x03, 0xff, 0xff, 0xff}) // http_logs that are none
	for name, tt := range map[string]struct {
		caller  identity.Caller
		err     error
		message *alsv3.StreamAccessLogsMessage
		code    codes.Code
	}{
		"nobody":             {err: status.Error(codes.Unauthenticated, "who?"), code: codes.Unauthenticated},
		"no such proxy":      {caller: identity.Caller{Proxy: "gone", Service: api.Service}, code: codes.PermissionDenied},
		"of another service": {caller: identity.Caller{Proxy: api.Proxy, Service: identity.NewName("db")}, code: codes.PermissionDenied},
		"made for another":   {caller: identity.Caller{Proxy: api.Proxy, Service: api.Service, Proof: identity.Proof{Service: identity.NewName("db")}}, code: codes.PermissionDenied},
		"names no proxy":     {caller: identity.Caller{Service: api.Service}, code: codes.PermissionDenied},
		"a big message":      {caller: api, message: big, code: codes.ResourceExhausted},
		"a garbled message":  {caller: api, message: garbled, code: codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.serve(t)
			f.is(tt.caller, tt.err)
			message := tt.message
			if message == nil {
				message = tcp(failed("x"))
			}
			if err := f.send(t, message); status.Code(err) != tt.code {
				t.Errorf("the stream ended with %v, want %s", err, tt.code)
			}
			f.counts(t, "api handshake 0", "api revoked 0", "api rules 0", "db handshake 0", "db revoked 0", "db rules 0")
		})
	}
	t.Run("no catalog", func(t *testing.T) {
		f := start(t)
		f.store = catalog.Store{}
		f.serve(t)
		if err := f.send(t, tcp(failed("x"))); status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// TestEnds: the end of the control plane ends streams that are open, and lets no new one begin.
func TestEnds(t *testing.T) {
	f := start(t)
	f.serve(t)
	stream, err := f.client.StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(tcp(failed("x"))); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); f.total(t) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the message was not counted")
		}
	}
	f.stop()
	if err := stream.RecvMsg(&alsv3.StreamAccessLogsResponse{}); status.Code(err) != codes.Unavailable {
		t.Errorf("an open stream ended with %v", err)
	}
	if err := f.send(t); status.Code(err) != codes.Unavailable {
		t.Errorf("a new stream ended with %v", err)
	}
}

// pipe is a stream whose messages are there at once.
type pipe struct {
	grpc.ServerStream
	ctx      context.Context
	messages chan *alsv3.StreamAccessLogsMessage
	read     func()
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) SendAndClose(*alsv3.StreamAccessLogsResponse) error { return nil }

func (p *pipe) Recv() (*alsv3.StreamAccessLogsMessage, error) { return nil, errors.New("not used") }

func (p *pipe) RecvMsg(m any) error {
	select {
	case <-p.ctx.Done():
		return p.ctx.Err()
	case next, ok := <-p.messages:
		if !ok {
			return io.EOF
		}
		p.read()
		b, err := proto.Marshal(next)
		if err != nil {
			return err
		}
		return proto.Unmarshal(b, m.(proto.Message))
	}
}

// TestRate: what is sent faster is not read faster, however it is cut into messages.
func TestRate(t *testing.T) {
	for name, tt := range map[string]struct {
		entries, messages int
		want              time.Duration
	}{
		"single entries":  {entries: 1, messages: 400, want: 2 * time.Second},
		"large messages":  {entries: 1000, messages: 2, want: 10 * time.Second},
		"nothing in them": {entries: 0, messages: 200, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t)
				p := &pipe{ctx: metadata.NewIncomingContext(t.Context(), nil), messages: make(chan *alsv3.StreamAccessLogsMessage, tt.messages), read: func() {}}
				for range tt.messages {
					p.messages <- tcp(make([]*accesslogv3.AccessLogCommon, tt.entries)...)
				}
				close(p.messages)
				before := time.Now()
				if err := f.server.StreamAccessLogs(p); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(before); took != tt.want {
					t.Errorf("%d messages of %d entries were read in %s, want %s", tt.messages, tt.entries, took, tt.want)
				}
				f.stop()
			})
		})
	}
}

// TestAuthorizedAgain: a caller that loses its right loses the stream with its next message.
func TestAuthorizedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		read := 0
		p := &pipe{ctx: ctx, messages: make(chan *alsv3.StreamAccessLogsMessage), read: func() { read++ }}
		result := make(chan error, 1)
		go func() { result <- f.server.StreamAccessLogs(p) }()
		p.messages <- tcp(failed("x"))
		time.Sleep(time.Minute)
		f.is(identity.Caller{}, status.Error(codes.Unauthenticated, "the token has expired"))
		p.messages <- tcp(failed("x")) // it was authorized when this began to be waited for
		if err := <-result; status.Code(err) != codes.Unauthenticated || read != 2 {
			t.Errorf("after %d messages the stream ended with %v", read, err)
		}
		f.counts(t, "api handshake 2", "api revoked 0", "api rules 0", "db handshake 0", "db revoked 0", "db rules 0")
		cancel()
		f.stop()
	})
}
