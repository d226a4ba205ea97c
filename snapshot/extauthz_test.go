package snapshot_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/snapshot"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// checks is an ext_authz server that answers as told and remembers what it was asked.
type checks struct {
	authv3.UnimplementedAuthorizationServer
	answer  atomic.Pointer[func() (*authv3.CheckResponse, error)]
	request chan asked
}

type asked struct {
	*authv3.CheckRequest
	metadata metadata.MD
}

// Check implements the server.
func (c *checks) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.request <- asked{CheckRequest: r, metadata: md}
	return (*c.answer.Load())()
}

// TestEnvoyAsks: what real Envoys send to the ext_authz server, and what they do with its answers.
func TestEnvoyAsks(t *testing.T) {
	allow := func() (*authv3.CheckResponse, error) { return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil }
	deny := func() (*authv3.CheckResponse, error) {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}, nil
	}
	fail := func() (*authv3.CheckResponse, error) { return nil, status.Error(codes.Unavailable, "not now") }
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
			t.Run(version+"/"+protocol.String(), func(t *testing.T) {
				envoy := envoytest.Binary(t, version) // first: without it nothing else is started
				dir := socketDir(t)
				app := filepath.Join(dir, "app")
				serve(t, app)
				server := &checks{request: make(chan asked, 10)}
				authz := filepath.Join(dir, "authz")
				serveChecks(t, authz, server)
				ca := newAuthority(t)
				in := input(compile("web", intention.Allow), catalog.Inbound{Protocol: protocol, Enforcement: catalog.ExtAuthz, LocalSocket: app})
				in.Envoy = features
				config := static(t, build(t, in), ca)
				socket := filepath.Join(dir, "public")
				config.StaticResources.Listeners[0].Address = pipe(socket)
				config.StaticResources.Clusters[0].LoadAssignment = &endpointv3.ClusterLoadAssignment{
					ClusterName: "sallyport",
					Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
						HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(authz)}},
					}}}},
				}
				start(t, envoy, dir, config)
				for _, test := range []struct {
					name   string
					answer func() (*authv3.CheckResponse, error)
					status int // of http; tcp is answered or ended
				}{{"allow", allow, http.StatusOK}, {"deny", deny, http.StatusForbidden}, {"error", fail, http.StatusServiceUnavailable}} {
					server.answer.Store(&test.answer)
					got, err := request(t, socket, ca)
					switch {
					case protocol.L7() && (err != nil || got != test.status):
						t.Errorf("%s: status %d, %v, want %d", test.name, got, err, test.status)
					case !protocol.L7() && (err == nil && got == http.StatusOK) != (test.status == http.StatusOK):
						t.Errorf("%s: status %d, %v", test.name, got, err)
					}
					examineCheck(t, protocol, <-server.request)
				}
			})
		}
	}
}

func examineCheck(t *testing.T, protocol catalog.Protocol, r asked) {
	t.Helper()
	a := r.GetAttributes()
	if got := r.metadata.Get(identity.DestinationHeader); len(got) != 1 || got[0] != "web" {
		t.Errorf("metadata %s = %q, want web", identity.DestinationHeader, got)
	}
	if got, want := a.GetSource().GetPrincipal(), "spiffe://"+trustDomain+"/ns/default/dc/dc1/svc/api"; got != want {
		t.Errorf("principal %q, want %q", got, want)
	}
	if !strings.Contains(a.GetSource().GetCertificate(), "BEGIN%20CERTIFICATE") {
		t.Errorf("certificate %q", a.GetSource().GetCertificate())
	}
	if !protocol.L7() {
		return
	}
	if got := a.GetContextExtensions()[identity.DestinationExtension]; got != "web" {
		t.Errorf("context extension %s = %q, want web", identity.DestinationExtension, got)
	}
	h := a.GetRequest().GetHttp()
	if h.GetMethod() != http.MethodGet || h.GetPath() != "/secret?a=b" {
		t.Errorf("method %q, path %q", h.GetMethod(), h.GetPath())
	}
	headers := map[string]string{}
	for _, header := range h.GetHeaderMap().GetHeaders() {
		headers[header.GetKey()] = string(header.GetRawValue())
	}
	if headers["authorization"] != "Bearer hunter2" || headers[":method"] != http.MethodGet { // the latter says that all are sent
		t.Errorf("headers %q", headers)
	}
}

// request is a request with a header that is nobody's business.
func request(t *testing.T, socket string, ca *authority) (int, error) {
	t.Helper()
	plain, err := net.DialTimeout("unix", socket, meshtest.Deadline)
	if err != nil {
		t.Fatal(err)
	}
	der, key := ca.signService("api")
	c := tls.Client(plain, &tls.Config{
		InsecureSkipVerify: true, // the server's certificate is no part of this
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	defer c.Close()
	code, _, err := roundTrip(c, "/secret?a=b", "Authorization: Bearer hunter2")
	return code, err
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

func serveChecks(t *testing.T, socket string, c *checks) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, c)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
