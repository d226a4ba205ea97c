package admission_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/admission"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authority knows the tokens "good" and "bad" at once, and has to ask about "new", whose answer is
// that it is good, and "old", whose is that it is not.
type authority struct {
	asked   chan struct{}
	revoked *atomic.Bool // "good" is not any more
}

func (a authority) Admit(_ context.Context, text string, proxy identity.ProxyID, service identity.Name) (identity.Caller, bool, error) {
	caller := identity.Caller{Proxy: proxy, Service: service}
	switch text {
	case "good":
		if a.revoked.Load() {
			return identity.Caller{}, false, status.Error(codes.Unauthenticated, "revoked")
		}
		return caller, proxy != "", nil
	case "new", "old":
		return caller, false, nil
	}
	return caller, false, status.Error(codes.Unauthenticated, "no such token")
}

func (a authority) Stream(ctx context.Context, text string, node identity.ProxyID) (identity.Caller, error) {
	return a.Call(ctx, text, node, identity.Name{})
}

func (a authority) Call(_ context.Context, text string, proxy identity.ProxyID, service identity.Name) (identity.Caller, error) {
	if a.asked <- struct{}{}; text == "old" {
		return identity.Caller{}, status.Error(codes.PermissionDenied, "not any more")
	}
	return identity.Caller{Proxy: proxy, Service: service}, nil
}

// plane is a control plane that answers each request with its number of names.
type plane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	read chan int // the size of each message that was read
}

func (p *plane) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests, failed := make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			q, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			requests <- q
		}
	}()
	for {
		var q *discoveryv3.DeltaDiscoveryRequest
		select {
		case q = <-requests:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		p.read <- len(q.GetResourceNamesSubscribe())
		if err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{Nonce: strconv.Itoa(len(q.GetResourceNamesSubscribe()))}); err != nil {
			return err
		}
	}
}

type server struct {
	t         *testing.T
	plane     *plane
	authority authority
	gate      *admission.Gate
	addr      string
	mu        sync.Mutex
	refusals  []admission.Refusal
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, plane: &plane{read: make(chan int, 1000)}, authority: authority{make(chan struct{}, 1000), new(atomic.Bool)}}
	gate := admission.New(admission.Config{Callers: token.Authorizer{Authority: s.authority}, Refused: func(r admission.Refusal) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refusals = append(s.refusals, r)
	}})
	s.gate = gate
	g := grpc.NewServer(gate.ServerOptions(nil)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s.plane)
	checks, err := authz.New(authz.Config{})
	if err != nil {
		t.Fatal(err)
	}
	checks.Register(g)
	s.addr = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(gate.Listen(l)) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return s
}

func (s *server) dial() *grpc.ClientConn {
	s.t.Helper()
	c, err := grpc.NewClient("unix://"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// headers are those of an Envoy with a token; empty values are left out.
func headers(t *testing.T, text, proxy, service string) context.Context {
	t.Helper()
	ctx := t.Context()
	for key, value := range map[string]string{"authorization": "Bearer " + text, identity.ProxyHeader: proxy, identity.DestinationHeader: service} {
		if value != "" && value != "Bearer " {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
	}
	return ctx
}

func request(names int) *discoveryv3.DeltaDiscoveryRequest {
	q := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web"}}
	for i := range names {
		q.ResourceNamesSubscribe = append(q.ResourceNamesSubscribe, fmt.Sprint("n", i))
	}
	return q
}

// TestStreams opens streams and sends a message on each: it is read only of those whose token was
// judged to be good.
func TestStreams(t *testing.T) {
	tests := map[string]struct {
		token, proxy string
		request      *discoveryv3.DeltaDiscoveryRequest
		code         codes.Code
		asked        int
	}{
		"known":                 {token: "good", proxy: "web", request: request(1)},
		"no token":              {proxy: "web", request: request(1), code: codes.Unauthenticated},
		"bad":                   {token: "bad", proxy: "web", request: request(1), code: codes.Unauthenticated},
		"asked about":           {token: "new", proxy: "web", request: request(1), asked: 1},
		"asked about, refused":  {token: "old", proxy: "web", request: request(1), code: codes.PermissionDenied, asked: 1},
		"nameless":              {token: "new", request: request(1), asked: 1},
		"nameless, refused":     {token: "old", request: request(1), code: codes.PermissionDenied, asked: 1},
		"nameless and large":    {token: "new", request: large(1100 << 10), code: codes.ResourceExhausted},
		"named and large":       {token: "good", proxy: "web", request: large(1100 << 10)},
		"too large":             {token: "good", proxy: "web", request: large(3 << 20), code: codes.ResourceExhausted},
		"many small fields":     {token: "good", proxy: "web", request: small(100_001), code: codes.Internal},
		"not too many of those": {token: "good", proxy: "web", request: small(99_000)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(s.dial()).DeltaAggregatedResources(headers(t, test.token, test.proxy, ""))
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(test.request) // Recv says why not
			_, err = stream.Recv()
			if status.Code(err) != test.code {
				t.Fatalf("the stream answers %v, want %s", err, test.code)
			}
			if read := len(s.plane.read); (read == 1) != (test.code == codes.OK) {
				t.Errorf("%d messages came as far as the server", read)
			}
			if asked := len(s.authority.asked); asked != test.asked {
				t.Errorf("asked %d times, want %d", asked, test.asked)
			}
		})
	}
}

// TestRejudge: streams that are open end when their token is not good any more, and no others do.
func TestRejudge(t *testing.T) {
	s := start(t)
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(s.dial())
	open := func(token string) discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
		t.Helper()
		stream, err := client.DeltaAggregatedResources(headers(t, token, "web", ""))
		if err == nil {
			err = stream.Send(request(1))
		}
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	good, asked := open("good"), open("new")
	if n := s.gate.Rejudge(); n != 0 {
		t.Errorf("%d streams ended whose tokens are good", n)
	}
	s.authority.revoked.Store(true)
	if n := s.gate.Rejudge(); n != 1 {
		t.Errorf("%d streams ended, want one", n)
	}
	if _, err := good.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream of the revoked token: %v", err)
	}
	if err := asked.Send(request(2)); err != nil {
		t.Fatal(err)
	}
	if r, err := asked.Recv(); err != nil || r.GetNonce() != "2" {
		t.Errorf("the other stream: %v, %v", r, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refusals) != 1 || s.refusals[0].Proxy != "web" || status.Code(s.refusals[0].Err) != codes.Unauthenticated {
		t.Errorf("told of %+v", s.refusals)
	}
}

// large is a request of one name of that many bytes, small one of so many names of none.
func large(size int) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web"}, ResourceNamesSubscribe: []string{strings.Repeat("x", size)}}
}

func small(names int) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web"}, ResourceNamesSubscribe: make([]string, names)}
}

// TestCalls asks as ext_authz does: of no stranger a message is read, and one that does not come to
// an end ends.
func TestCalls(t *testing.T) {
	for text, want := range map[string]codes.Code{
		"bad": codes.Unauthenticated, "old": codes.PermissionDenied,
		// authz, which knows nobody here, has read it.
		"good": codes.Unauthenticated, "new": codes.Unauthenticated,
	} {
		s := start(t)
		_, err := authv3.NewAuthorizationClient(s.dial()).Check(headers(t, text, "web", "web"), &authv3.CheckRequest{})
		read := strings.Contains(status.Convert(err).Message(), "knows no proxies")
		if status.Code(err) != want || read != (text == "good" || text == "new") {
			t.Errorf("%s: Check returns %v", text, err)
		}
	}
}

// TestEndless demands that a call whose message does not end is ended.
func TestEndless(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, cancel := context.WithTimeout(headers(t, "good", "web", "web"), time.Minute)
	defer cancel()
	stream, err := s.dial().NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, authv3.Authorization_Check_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&authv3.CheckResponse{}); status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
		t.Errorf("a call without a message: %v", err)
	}
}

// TestBounds demands that a proxy cannot have any number of streams, nor those who do not name
// themselves, and that those that end make room.
func TestBounds(t *testing.T) {
	for name, test := range map[string]struct {
		token, proxy string
		most         int
	}{"of one proxy": {"good", "web", 8}, "nameless": {"new", "", 16}} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			client := discoveryv3.NewAggregatedDiscoveryServiceClient(s.dial())
			open := func(ctx context.Context) (ended chan error) {
				stream, err := client.DeltaAggregatedResources(ctx)
				if err != nil {
					t.Fatal(err)
				}
				ended = make(chan error, 1)
				go func() { _, err := stream.Recv(); ended <- err }()
				return ended
			}
			ctx, cancel := context.WithCancel(headers(t, test.token, test.proxy, ""))
			var all []chan error
			for range test.most {
				all = append(all, open(ctx))
			}
			if err := <-open(headers(t, test.token, test.proxy, "")); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("one too many: %v", err)
			}
			for i, ended := range all {
				select {
				case err := <-ended:
					t.Errorf("stream %d: %v", i, err)
				default:
				}
			}
			cancel()
			for begin := time.Now(); ; {
				again := open(headers(t, test.token, test.proxy, ""))
				select {
				case <-again:
				case <-time.After(time.Second):
					return
				}
				if time.Since(begin) > time.Minute {
					t.Fatal("streams that ended make no room")
				}
			}
		})
	}
}

// TestStrangers demands that a connection that shows no good token ends, one on which many streams
// were refused at once, and one with a good token does not.
func TestStrangers(t *testing.T) {
	t.Parallel()
	s := start(t)
	silent, err := net.Dial("unix", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	good := s.dial()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(good).DeltaAggregatedResources(headers(t, "good", "web", ""))
	if err != nil {
		t.Fatal(err)
	}
	bad := s.dial()
	for range 300 {
		_, err := authv3.NewAuthorizationClient(bad).Check(headers(t, "bad", "web", "web"), &authv3.CheckRequest{})
		if err == nil {
			t.Fatal("a bad token is good")
		}
		if status.Code(err) == codes.Unavailable {
			break // the connection was closed
		}
	}
	if err := silent.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, silent); err != nil {
		t.Errorf("a silent connection is not closed: %v", err)
	}
	if err := stream.Send(request(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Errorf("the stream with a good token: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.refusals); n < 101 || n > 300 {
		t.Errorf("%d refusals were told", n)
	}
	for _, r := range s.refusals {
		if !strings.HasPrefix(r.Peer, "uid ") || r.Proxy != "web" {
			t.Errorf("refusal %+v", r)
			break
		}
	}
}
