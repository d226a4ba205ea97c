package xds

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/internal/xdstest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"
)

const trustDomain = "mesh.test"

// byMetadata lets in whoever the metadata "proxy" names, and those of "token" with a token.
type byMetadata struct{}

func (byMetadata) Stream(ctx context.Context, _ identity.ProxyID) (identity.Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	id := strings.Join(md.Get("proxy"), "")
	if id == "" {
		return identity.Caller{}, errors.New("no token")
	}
	return identity.Caller{Proxy: identity.ProxyID(id), Token: strings.Join(md.Get("token"), "")}, nil
}

// certificates are an sds.Source whose answers a test can put off.
type certificates struct {
	roots      latest.Value[*sds.Roots]
	bundle     *sds.Roots
	mu         sync.Mutex
	leafs      map[string]*latest.Value[*sds.SVID] // by token and service
	withheld   bool
	t          testing.TB
	root       *testca.Pair
	watchedFor []string // tokens
}

func newCertificates(t testing.TB) *certificates {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, URIs: []*url.URL{td.ID().URL()}, NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return &certificates{
		t: t, root: root, leafs: map[string]*latest.Value[*sds.SVID]{},
		bundle: sds.NewRoots(td, "", []sds.Root{{ID: "1", Certificate: root.Cert}}),
	}
}

func (c *certificates) leaf(token string, id identity.Service) *latest.Value[*sds.SVID] {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := token + " " + id.String()
	v := c.leafs[key]
	if v == nil {
		v = &latest.Value[*sds.SVID]{}
		c.leafs[key] = v
		if !c.withheld {
			v.Set(c.issue(id))
		}
	}
	return v
}

// issue signs a leaf; the caller holds the lock.
func (c *certificates) issue(id identity.Service) *sds.SVID {
	leaf := testca.Sign(c.t, &x509.Certificate{
		URIs: []*url.URL{id.ID().URL()}, NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, c.root)
	return &sds.SVID{Certificates: []*x509.Certificate{leaf.Cert}, PrivateKey: leaf.Key}
}

// rotate gives all leafs, also those that were withheld.
func (c *certificates) rotate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withheld = false
	for key, v := range c.leafs {
		_, uri, _ := strings.Cut(key, " ")
		id, err := identity.ParseURI(uri)
		if err != nil {
			panic(err)
		}
		v.Set(c.issue(id))
	}
}

func (c *certificates) WatchSVID(ctx context.Context, caller identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	c.mu.Lock()
	c.watchedFor = append(c.watchedFor, caller.Token)
	c.mu.Unlock()
	c.leaf(caller.Token, id).Watch(ctx, f)
	return nil
}

func (c *certificates) WatchRoots(ctx context.Context, f func(*sds.Roots)) error {
	c.roots.Watch(ctx, f)
	return nil
}

// mesh is a control plane on a bufconn. Every part runs; nothing is published until publish.
type mesh struct {
	t        testing.TB
	store    *catalog.Store
	certs    *certificates
	contents catalogtest.Mesh
	server   *Server
	registry *prometheus.Registry
	logs     *logs
	conn     *grpc.ClientConn
	cancel   func()        // ends Run
	stop     func()        // ends everything
	prepare  func(*Server) // before it runs; nil: nothing
	pause    time.Duration // before each publication, so that it is not part of a storm
}

// start runs a control plane until the test ends. The roots are there, the catalog is not.
func start(t testing.TB, cfg Config) *mesh {
	t.Helper()
	m := &mesh{t: t, store: &catalog.Store{}, certs: newCertificates(t)}
	m.contents.Mesh = catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: "dc1", Datacenters: []string{"dc1"}}
	m.certs.roots.Set(m.certs.bundle)
	m.pause = 2 * stormQuiet
	m.run(cfg)
	t.Cleanup(func() { m.stop() })
	return m
}

// run starts a control plane with the catalog and the certificates there are.
func (m *mesh) run(cfg Config) {
	m.t.Helper()
	m.registry = prometheus.NewRegistry()
	m.logs = &logs{}
	credentials, err := sds.New(sds.Config{Source: m.certs})
	if err != nil {
		m.t.Fatal(err)
	}
	cfg.Views, cfg.Credentials = &m.store.Views, credentials
	if cfg.Authorize == nil {
		cfg.Authorize = byMetadata{}.Stream
	}
	cfg.Registerer, cfg.Logger = m.registry, slog.New(slog.NewTextHandler(m.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if m.server, err = New(cfg); err != nil {
		m.t.Fatal(err)
	}
	if m.prepare != nil {
		m.prepare(m.server)
	}
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(ServerOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, m.server)
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := credentials.Run(ctx); err != nil {
			m.t.Errorf("sds: %v", err)
		}
	})
	parts.Go(func() {
		if err := m.server.Run(ctx); err != nil {
			m.t.Errorf("xds: %v", err)
		}
	})
	parts.Go(func() {
		// A test that ends at once may stop the server before it serves.
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			m.t.Errorf("grpc: %v", err)
		}
	})
	m.conn, err = grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		m.t.Fatal(err)
	}
	m.cancel = cancel
	m.stop = sync.OnceFunc(func() {
		cancel()
		_ = m.conn.Close()
		g.Stop()
		parts.Wait()
	})
}

// logs is where the log goes.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// service adds a service with a sidecar that dials the upstreams.
func (m *mesh) service(name string, protocol catalog.Protocol, upstreams ...string) *catalog.Proxy {
	n := len(m.contents.Proxies)
	m.contents.Services = append(m.contents.Services, catalog.Service{Name: identity.NewName(name), Protocol: protocol})
	m.contents.Endpoints = append(m.contents.Endpoints, catalog.Endpoints{
		Name: identity.NewName(name),
		List: []catalog.Endpoint{{Address: "127.0.0.1", Port: uint16(20000 + n), Weight: 1, Healthy: true}},
	})
	p := catalog.Proxy{
		ID: proxyID(name), Service: identity.NewName(name), Instance: name, Origin: name + ".hcl:1",
		Inbound: catalog.Inbound{
			Address: "127.0.0.1", Port: uint16(20000 + n), LocalAddress: "127.0.0.1", LocalPort: uint16(8000 + n),
			Protocol: protocol, Revocation: catalog.DefaultRevocation(protocol),
		},
	}
	for i, u := range upstreams {
		p.Upstreams = append(p.Upstreams, catalog.Upstream{Destination: identity.NewName(u), BindAddress: "127.0.0.1", BindPort: uint16(9000 + 10*n + i)})
	}
	m.contents.Proxies = append(m.contents.Proxies, p)
	return &m.contents.Proxies[n]
}

// intend sets the action of source for destination.
func (m *mesh) intend(source, destination string, action intention.Action) {
	i := intention.Intention{Source: intention.Source{Name: identity.NewName(source)}, Destination: identity.NewName(destination), Action: action}
	m.contents.Intentions = slices.DeleteFunc(slices.Clone(m.contents.Intentions), func(o intention.Intention) bool {
		return o.Source == i.Source && o.Destination == i.Destination
	})
	m.contents.Intentions = append(m.contents.Intentions, i)
}

// publish makes the contents known. What was published is not changed afterwards.
func (m *mesh) publish() {
	c := m.contents.Contents()
	time.Sleep(m.pause)
	m.store.Publish(c)
}

func proxyID(service string) identity.ProxyID { return identity.ProxyID(service + "-sidecar-proxy") }

// node is what an Envoy 1.40 under our bootstrap says of itself.
func node(service string) *corev3.Node {
	ours, err := structpb.NewStruct(map[string]any{identity.MetadataKey: map[string]any{identity.MetadataRegexSize: 4096, identity.MetadataDrainSeconds: 30, identity.MetadataExclusivePorts: true}})
	if err != nil {
		panic(err)
	}
	return &corev3.Node{
		Id: string(proxyID(service)), Cluster: service, UserAgentName: "envoy", Metadata: ours,
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}}},
	}
}

// as is the context of calls of a service's proxy.
func as(service string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "proxy", string(proxyID(service)))
}

// stream opens a stream of a service's proxy.
func (m *mesh) stream(service string) *talk {
	m.t.Helper()
	return m.open(as(service), node(service))
}

func (m *mesh) open(ctx context.Context, n *corev3.Node) *talk {
	m.t.Helper()
	s, err := xdstest.Open(ctx, m.conn, n)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.Close)
	return &talk{t: m.t, s: s}
}

// runEnvoy runs an Envoy of a service until the function that is returned is called, which waits
// for its end.
func (m *mesh) runEnvoy(e *xdstest.Envoy, service string) (stop func()) {
	ctx, cancel := context.WithCancel(as(service))
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); ctx.Err() == nil && status.Code(err) != codes.Unavailable {
			m.t.Errorf("envoy of %s: %v", service, err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	m.t.Cleanup(stop)
	return stop
}

// talk is a conversation inside a synctest bubble, where silence is certain: nothing that could
// still speak is running.
type talk struct {
	t testing.TB
	s *xdstest.Stream
}

func (c *talk) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *talk) subscribe(k kind, names ...string) {
	c.t.Helper()
	c.must(c.s.Subscribe(k.url(), names...))
}

// expect is the next response: "secret leaf/web", "cluster +a,b -c".
func (c *talk) expect(want string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	synctest.Wait()
	r, err := c.s.Next(time.Nanosecond)
	if err != nil {
		c.t.Fatalf("got %v, want %s", err, want)
	}
	if got := describe(r); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	return r
}

// accept is expect and the ACK of it.
func (c *talk) accept(want string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	r := c.expect(want)
	c.must(c.s.ACK(r))
	return r
}

func (c *talk) refuse(want, message string) {
	c.t.Helper()
	c.must(c.s.NACK(c.expect(want), message))
}

// silence is that nothing comes unless time goes on.
func (c *talk) silence() {
	c.t.Helper()
	synctest.Wait()
	switch r, err := c.s.Next(time.Nanosecond); {
	case err == nil:
		c.t.Fatalf("got %q, want silence", describe(r))
	case !errors.Is(err, xdstest.ErrSilent):
		c.t.Fatalf("got %v, want silence", err)
	}
}

// ends is that the stream ends with a status.
func (c *talk) ends(want codes.Code) {
	c.t.Helper()
	synctest.Wait()
	for {
		if _, err := c.s.Next(time.Nanosecond); err != nil {
			if got := status.Code(err); got != want {
				c.t.Fatalf("stream: %v, want %s", err, want)
			}
			return
		}
	}
}

func describe(r *discoveryv3.DeltaDiscoveryResponse) string {
	k, _ := kindOf(r.GetTypeUrl())
	var parts []string
	for _, r := range r.GetResources() {
		parts = append(parts, r.GetName())
	}
	out := k.String()
	if len(parts) > 0 {
		out += " " + strings.Join(parts, ",")
	}
	if len(r.GetRemovedResources()) > 0 {
		out += " -" + strings.Join(r.GetRemovedResources(), ",-")
	}
	return out
}
