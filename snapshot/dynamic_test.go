package snapshot_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/xdstest"
	"github.com/sallyport/sallyport/snapshot"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// dynamic is an Envoy that is told what a test says: all of it by xDS, as in a mesh.
type dynamic struct {
	t      testing.TB
	xds    *xdstest.Server
	ca     *authority
	admin  string
	public string // the socket, or the address, of the inbound listener
	asked  atomic.Int64
	mu     sync.Mutex
	logged map[string]int // entries by the name of their log
	accesslogv3.UnimplementedAccessLogServiceServer
	authv3.UnimplementedAuthorizationServer
}

// startDynamic starts an Envoy with what r says. The inbound listener is on a socket.
func startDynamic(t testing.TB, version string, r *snapshot.Resources) *dynamic {
	t.Helper()
	return startDynamicOn(t, version, r, "")
}

// startDynamicOnPort is startDynamic with the inbound listener on a port of 127.0.0.1: who comes
// from there has an address.
func startDynamicOnPort(t testing.TB, version string, r *snapshot.Resources) *dynamic {
	t.Helper()
	port, err := ports.Next()
	if err != nil {
		t.Fatal(err)
	}
	return startDynamicOn(t, version, r, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// ports are given out once in a test process.
var ports meshtest.Ports

func startDynamicOn(t testing.TB, version string, r *snapshot.Resources, public string) *dynamic {
	t.Helper()
	binary := envoytest.Binary(t, version) // first: without it nothing else is started
	dir := socketDir(t)
	d := &dynamic{t: t, ca: newAuthority(t), admin: filepath.Join(dir, "admin"), public: cmp.Or(public, filepath.Join(dir, "public")), logged: map[string]int{}}
	d.xds = xdstest.NewServer(d.resources(r)...)
	socket := filepath.Join(dir, "xds")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, d.xds)
	authv3.RegisterAuthorizationServer(s, d)
	accesslogv3.RegisterAccessLogServiceServer(s, d)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	control := controlPlane(t)
	control.ConnectTimeout = durationpb.New(time.Second)
	control.LoadAssignment = &endpointv3.ClusterLoadAssignment{
		ClusterName: control.Name,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(socket)}},
		}}}},
	}
	ads := &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3, InitialFetchTimeout: &durationpb.Duration{},
	}
	runtime, err := structpb.NewStruct(map[string]any{"re2.max_program_size.error_level": newest.RegexSize})
	if err != nil {
		t.Fatal(err)
	}
	start(t, binary, dir, &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "web-sidecar-proxy", Cluster: "web"},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "base", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: runtime},
		}}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{control}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: ads, CdsConfig: ads,
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: control.Name},
				}}},
			},
		},
	})
	return d
}

// resources are those of r with the secrets that it names.
func (d *dynamic) resources(r *snapshot.Resources) (out []*discoveryv3.Resource) {
	d.t.Helper()
	for _, res := range all(r) {
		if res.GetResource().GetTypeUrl() == listeners && strings.HasPrefix(res.GetName(), "public_listener") {
			l := resource(d.t, r, listeners, res.GetName(), &listenerv3.Listener{})
			l.Address = d.publicAddress()
			res = packed(d.t, res.GetName(), l)
		}
		out = append(out, res)
	}
	for _, s := range r.Secrets {
		out = append(out, d.secret(s))
	}
	return out
}

// publicAddress is where the inbound listener is.
func (d *dynamic) publicAddress() *corev3.Address {
	host, port, err := net.SplitHostPort(d.public)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil {
		return pipe(d.public)
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func (d *dynamic) secret(s snapshot.Secret) *discoveryv3.Resource {
	d.t.Helper()
	m := &tlsv3.Secret{Name: s.Name}
	if service, ok := strings.CutPrefix(s.Name, "leaf/"); ok {
		m.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: d.ca.leaf(service)}
	} else {
		m.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: d.ca.root.PEM()}},
			MatchTypedSubjectAltNames: sans(d.t, s),
		}}
	}
	return packed(d.t, s.Name, m)
}

// packed is m as a resource.
func packed(t testing.TB, name string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: hash(a.GetValue()), Resource: a}
}

// put tells Envoy one resource, which it has to accept.
func (d *dynamic) put(r *discoveryv3.Resource) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), meshtest.Deadline)
	defer cancel()
	if err := d.xds.Put(ctx, r); err != nil {
		d.t.Fatal(err)
	}
}

// fill fills a slot.
func (d *dynamic) fill(slot string, m proto.Message) {
	d.t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		d.t.Fatal(err)
	}
	d.put(packed(d.t, slot, &corev3.TypedExtensionConfig{Name: slot, TypedConfig: a}))
}

// Check implements ext_authz: api is allowed.
func (d *dynamic) Check(_ context.Context, q *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	d.asked.Add(1)
	s := &rpcstatus.Status{Code: int32(codes.PermissionDenied)}
	if strings.HasSuffix(q.GetAttributes().GetSource().GetPrincipal(), "/svc/api") {
		s.Code = int32(codes.OK)
	}
	return &authv3.CheckResponse{Status: s}, nil
}

// StreamAccessLogs implements the service for logs: it counts.
func (d *dynamic) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	var name string
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the end of a stream
		}
		if m.GetIdentifier() != nil {
			name = m.GetIdentifier().GetLogName()
		}
		d.mu.Lock()
		d.logged[name] += len(m.GetTcpLogs().GetLogEntry()) + len(m.GetHttpLogs().GetLogEntry())
		d.mu.Unlock()
	}
}

func (d *dynamic) logs() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.logged)
}

// dial is a connection of a service to the inbound listener.
func (d *dynamic) dial(service string) (*tls.Conn, error) {
	d.t.Helper()
	der, key := d.ca.signService(service)
	network := "unix"
	if d.publicAddress().GetSocketAddress() != nil {
		network = "tcp"
	}
	plain, err := net.DialTimeout(network, d.public, meshtest.Deadline)
	if err != nil {
		d.t.Fatal(err)
	}
	c := tls.Client(plain, &tls.Config{
		InsecureSkipVerify: true, // the server's certificate is no part of this
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	d.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		d.t.Fatal(err)
	}
	return c, c.Handshake()
}

// says sends text, if there is some, and returns the first byte that came back within patience.
func (d *dynamic) says(service, text string, patience time.Duration) string {
	d.t.Helper()
	return d.hears(service, text, 1, patience)
}

// hears is says for the first n bytes.
func (d *dynamic) hears(service, text string, n int, patience time.Duration) string {
	d.t.Helper()
	c, err := d.dial(service)
	if err != nil {
		return ""
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	_, _ = io.WriteString(c, text) // if it is refused, nothing is heard
	b := make([]byte, n)
	n, _ = io.ReadFull(c, b)
	return string(b[:n])
}

// stats are the counters whose names match the expression.
func (d *dynamic) stats(expression string) map[string]int {
	d.t.Helper()
	c, err := net.DialTimeout("unix", d.admin, time.Second)
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_, text, err := roundTrip(c, "/stats")
	if err != nil {
		d.t.Fatal(err)
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

// untouched fails the test if a listener was changed or drained, or if Envoy refused or did not
// know something.
func (d *dynamic) untouched() {
	d.t.Helper()
	for name, n := range d.stats(`listener_modified|in_place_updated|_draining|update_rejected|unknown_fields|deprecated_feature_use`) {
		if n != 0 {
			d.t.Errorf("%s = %d", name, n)
		}
	}
	if n := d.stats(`listener_manager\.listener_added`)["listener_manager.listener_added"]; n != 1 {
		d.t.Errorf("%d listeners were added, want 1", n)
	}
}

// banner is a server that speaks first, and counts who dials it.
func banner(t testing.TB, socket string) *atomic.Int64 {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			serving.Go(func() {
				defer c.Close()
				fmt.Fprint(c, "!")
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return &dials
}
