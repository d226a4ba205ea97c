package xds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

var ports meshtest.Ports

func port(t testing.TB) int {
	t.Helper()
	n, err := ports.Next()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// real is a control plane with a real Envoy of web, which dials api.
type real struct {
	t     testing.TB
	m     *mesh
	admin string
	dials int // the port of the upstream
}

func startReal(t testing.TB, version string, protocol catalog.Protocol) *real {
	t.Helper()
	binary := envoytest.Binary(t, version)
	m := start(t, Config{})
	m.service("web", protocol, "api")
	m.service("api", protocol)
	web := &m.contents.Proxies[0]
	r := &real{t: t, m: m, dials: port(t)}
	web.Inbound.Port, web.Inbound.LocalPort, web.Upstreams[0].BindPort = uint16(port(t)), uint16(port(t)), uint16(r.dials)
	web.Upstreams[0].ConnectTimeout = patience
	m.publish()
	dir, err := os.MkdirTemp("", "xds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "xds"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(ServerOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, m.server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { m.stop(); g.Stop(); serving.Wait() })
	r.admin = filepath.Join(dir, "admin")
	pipe := func(path string) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	h2, err := anypb.New(&upstreamhttpv3.HttpProtocolOptions{UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ads := &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3, InitialFetchTimeout: &durationpb.Duration{},
	}
	var control []*clusterv3.Cluster
	for _, name := range []string{"xds", "sallyport_control_plane", "sallyport_ext_authz"} {
		control = append(control, &clusterv3.Cluster{
			Name: name, ConnectTimeout: durationpb.New(time.Second), TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": h2},
			LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(filepath.Join(dir, "xds"))}},
			}}}}},
		})
	}
	self := node("web")
	is := self.GetUserAgentBuildVersion().GetVersion()
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &is.MajorNumber, &is.MinorNumber, &is.Patch); err != nil {
		t.Fatal(err)
	}
	b, err := protojson.Marshal(&bootstrapv3.Bootstrap{
		Node:            self,
		Admin:           &bootstrapv3.Admin{Address: pipe(r.admin)},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: control},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: ads, CdsConfig: ads,
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{
					TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "xds"}},
					InitialMetadata: []*corev3.HeaderValue{{Key: "proxy", Value: string(proxyID("web"))}},
				}},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	meshtest.Start(t, "envoy", filepath.Join(dir, "log"), exec.Command(binary, "--config-path", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"))
	meshtest.Await(t, "Envoy is ready", func() error {
		status, text, err := r.ask("/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d, %s", status, text)
		}
		return err
	})
	meshtest.Await(t, "Envoy has all", r.inSync)
	return r
}

// session is Envoy's; nil: it has no stream.
func (r *real) session() *session {
	for _, n := range r.m.server.sessionsOf(proxyID("web")) {
		return n
	}
	return nil
}

func (r *real) inSync() error {
	n := r.session()
	if n == nil {
		return errors.New("no stream")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.target == nil {
		return errors.New("no target")
	}
	if !n.report.inSync {
		return fmt.Errorf("not in sync: %v", n.waitingFor())
	}
	return nil
}

// ask asks Envoy's admin interface.
func (r *real) ask(path string) (status int, text string, err error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.admin)
	}}}
	a, err := c.Get("http://admin" + path)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return a.StatusCode, string(b), err
}

func (r *real) stats(expression string) map[string]int {
	r.t.Helper()
	_, text, err := r.ask("/stats")
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]int{}
	match := regexp.MustCompile(expression)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil && match.MatchString(name) {
			out[name] = n
		}
	}
	return out
}

// get is the answer to a request through the upstream: its status, and who answered.
func (r *real) get() (int, string) {
	r.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", r.dials))
	if err != nil {
		return 0, err.Error()
	}
	defer a.Body.Close()
	b, _ := io.ReadAll(a.Body)
	return a.StatusCode, string(b)
}

// tlsServer is the sidecar of an instance of a service.
type tlsServer struct {
	service, called string
	port            int
}

// serveTLS serves as a service, over http/1.1 and HTTP/2, and says who it is.
func (r *real) serveTLS(service, called string) *tlsServer {
	r.t.Helper()
	leaf := testca.Sign(r.t, &x509.Certificate{
		URIs:     []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/ns/default/dc/dc1/svc/" + service}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, r.m.certs.root)
	s := &tlsServer{service, called, port(r.t)}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		r.t.Fatal(err)
	}
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprintf(w, "%s %s", called, q.TLS.ServerName) }),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"},
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = h.ServeTLS(l, "", "") })
	r.t.Cleanup(func() { h.Close(); serving.Wait() })
	return s
}
