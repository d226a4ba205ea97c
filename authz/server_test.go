package authz_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const proxyID = "api-sidecar-proxy"

var trustDomain = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")

// TestTable holds the server to the table of decisions, over tcp and http.
func TestTable(t *testing.T) {
	cases, err := decisiontable.Load("../intention/testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ca := newIssuer(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			servers := map[string]*authz.Server{}
			for kind, protocol := range map[string]catalog.Protocol{"tcp": catalog.TCP, "http": catalog.HTTP} {
				mesh := contents(c.Scope, c.Destination, c.Intentions)
				mesh.Proxies[0].Inbound.Protocol = protocol
				servers[kind] = newServer(t, authz.Config{Views: published(c.Scope, mesh), Authorize: known})
			}
			ctx := call(t.Context(), c.Destination.String())
			for _, peer := range c.Peers {
				if !peer.Proved() {
					continue
				}
				certificate := ca.certificate(t, peer)
				for _, kind := range []string{"tcp", "http"} {
					req := request(kind, peer.Principal(), certificate, c.Destination.Service)
					if h := req.GetAttributes().GetRequest().GetHttp(); h != nil && peer.Request != nil {
						putRequest(h, peer.Request)
					}
					resp, err := servers[kind].Check(ctx, req)
					if err != nil {
						t.Fatalf("Check(%s → %s, %s): %v", peer, c.Destination, kind, err)
					}
					if got, want := answer(t, resp, kind), peer.Wants(kind == "http"); got != want {
						t.Errorf("Check(%s → %s, %s) = %s (%s), want %s", peer, c.Destination, kind, got, resp.GetStatus().GetMessage(), want)
					}
				}
			}
		})
	}
}

// TestFailsClosed makes one thing wrong at a time in a call that is allowed, and demands that each
// is refused and says so.
func TestFailsClosed(t *testing.T) {
	ca := newIssuer(t)
	good := ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	for !strings.Contains(good, "%2B") { // a plus sign, which a careless decoder takes for a space
		good = ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	}
	two := ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web"), uri("batch")}})
	ctx := call(t.Context(), "api")
	type in struct {
		config authz.Config
		ctx    context.Context
		req    *authv3.CheckRequest
	}
	signed := func(change func(*x509.Certificate), key crypto.Signer) func(*in) {
		text := ca.sign(t, decisiontable.Peer{URIs: []string{uri("web")}}, change, key)
		return func(i *in) { i.req.Attributes.Source.Certificate = text }
	}
	tests := map[string]struct {
		spoil  func(*in)
		code   codes.Code // of the RPC; OK: there is an answer
		reason string     // the label of the denial, or the cause of the error; empty: allowed
	}{
		"nothing":                  {spoil: func(*in) {}},
		"http":                     {spoil: func(i *in) { i.req = request("http", uri("web"), good, "api") }},
		"no destination principal": {spoil: func(i *in) { i.req.Attributes.Destination.Principal = "" }},
		"context extensions agree": {spoil: func(i *in) { i.req.Attributes.ContextExtensions = map[string]string{"destination": "api"} }},
		"what a client can say":    {spoil: func(i *in) { i.req.Attributes.Source.Service = "batch"; i.req.Attributes.Destination.Service = "db" }},
		"plus signs unescaped":     {spoil: func(i *in) { i.req.Attributes.Source.Certificate = strings.ReplaceAll(good, "%2B", "+") }},
		"no request":               {spoil: func(i *in) { i.req = nil }, reason: "identity"},
		"no attributes":            {spoil: func(i *in) { i.req.Attributes = nil }, reason: "identity"},
		"no source":                {spoil: func(i *in) { i.req.Attributes.Source = nil }, reason: "identity"},
		"no principal":             {spoil: func(i *in) { i.req.Attributes.Source.Principal = "" }, reason: "identity"},
		"principal is a DNS name":  {spoil: func(i *in) { i.req.Attributes.Source.Principal = "web" }, reason: "identity"},
		"principal is a subject":   {spoil: func(i *in) { i.req.Attributes.Source.Principal = "CN=" + uri("web") }, reason: "identity"},
		"principal is an agent": {spoil: func(i *in) {
			i.req.Attributes.Source.Principal = "spiffe://" + trustDomain.Name() + "/agent/client/dc/dc1/id/n"
		}, reason: "identity"},
		"principal is escaped":    {spoil: func(i *in) { i.req.Attributes.Source.Principal = strings.Replace(uri("web"), "web", "%77eb", 1) }, reason: "identity"},
		"principal in upper case": {spoil: func(i *in) { i.req.Attributes.Source.Principal = strings.Replace(uri("web"), "spiffe", "SPIFFE", 1) }, reason: "identity"},
		"no certificate":          {spoil: func(i *in) { i.req.Attributes.Source.Certificate = "" }, reason: "certificate"},
		"certificate of another": {spoil: func(i *in) {
			i.req.Attributes.Source.Certificate = ca.certificate(t, decisiontable.Peer{URIs: []string{uri("batch")}})
		}, reason: "certificate"},
		"certificate of two":          {spoil: func(i *in) { i.req.Attributes.Source.Certificate = two }, reason: "certificate"},
		"certificate of a CA":         {spoil: signed(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, nil), reason: "certificate"},
		"certificate that signs":      {spoil: signed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign }, nil), reason: "certificate"},
		"certificate that revokes":    {spoil: signed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, nil), reason: "certificate"},
		"certificate with SHA-1":      {spoil: signed(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }, nil), reason: "certificate"},
		"certificate of a weak key":   {spoil: signed(nil, rsaKey(t, 1024)), reason: "certificate"},
		"certificate of RSA":          {spoil: signed(nil, rsaKey(t, 2048))},
		"certificate with a DNS name": {spoil: signed(func(c *x509.Certificate) { c.DNSNames = []string{"web.example"} }, nil)},
		"certificate without URI": {spoil: func(i *in) {
			i.req.Attributes.Source.Certificate = ca.certificate(t, decisiontable.Peer{DNS: []string{uri("web")}})
		}, reason: "certificate"},
		"certificate is no PEM": {spoil: func(i *in) { i.req.Attributes.Source.Certificate = uri("web") }, reason: "certificate"},
		"certificate is no DER": {spoil: func(i *in) {
			i.req.Attributes.Source.Certificate = escape(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
		}, reason: "certificate"},
		"certificate is a key": {spoil: func(i *in) {
			i.req.Attributes.Source.Certificate = strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE%20KEY")
		}, reason: "certificate"},
		"certificate badly escaped": {spoil: func(i *in) { i.req.Attributes.Source.Certificate = good + "%" }, reason: "certificate"},
		"certificate too long":      {spoil: func(i *in) { i.req.Attributes.Source.Certificate = good + strings.Repeat("%0A", 6000) }, reason: "certificate"},
		"another destination":       {spoil: func(i *in) { i.ctx = call(t.Context(), "db") }, reason: "destination"},
		"no destination":            {spoil: func(i *in) { i.ctx = metadata.NewIncomingContext(t.Context(), metadata.MD{}) }, code: codes.Unauthenticated, reason: "unauthenticated"},
		"no metadata":               {spoil: func(i *in) { i.ctx = t.Context() }, code: codes.Unauthenticated, reason: "unauthenticated"},
		"two destinations": {spoil: func(i *in) {
			i.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(identity.DestinationHeader, "api", identity.DestinationHeader, "api"))
		}, code: codes.Unauthenticated, reason: "unauthenticated"},
		"destination in long form": {spoil: func(i *in) { i.ctx = call(t.Context(), "default/default/api") }, code: codes.Unauthenticated, reason: "unauthenticated"},
		"names no proxy": {spoil: func(i *in) {
			i.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(identity.DestinationHeader, "api"))
		}},
		"names no proxy, and nobody's service": {spoil: func(i *in) {
			i.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(identity.DestinationHeader, "nobody"))
			i.req = request("tcp", uri("web"), good, "nobody")
		}, reason: "no_policy"},
		"context extensions differ": {spoil: func(i *in) { i.req.Attributes.ContextExtensions = map[string]string{"destination": "db"} }, reason: "destination"},
		"context extensions empty":  {spoil: func(i *in) { i.req.Attributes.ContextExtensions = map[string]string{"destination": ""} }, reason: "destination"},
		"local certificate differs": {spoil: func(i *in) { i.req.Attributes.Destination.Principal = uri("db") }, reason: "destination"},
		"local certificate strange": {spoil: func(i *in) { i.req.Attributes.Destination.Principal = "api" }, reason: "destination"},
		"denied": {spoil: func(i *in) {
			i.req = request("http", uri("bad"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("bad")}}), "api")
		}, reason: "intention"},
		"by default": {spoil: func(i *in) {
			i.req = request("tcp", uri("batch"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("batch")}}), "api")
		}, reason: "default"},
		"unknown proxy": {spoil: func(i *in) {
			i.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(identity.ProxyHeader, "gone-sidecar-proxy", identity.DestinationHeader, "api"))
		}, reason: "unknown_proxy"},
		"not told yet": {spoil: func(i *in) { i.config.Told = func(*catalog.View, *intention.Policy) *intention.Policy { return nil } }, reason: "unrecorded"},
		"not told yet, of an older listener": {spoil: func(i *in) {
			i.config.Told = func(*catalog.View, *intention.Policy) *intention.Policy { return nil }
			i.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(identity.DestinationHeader, "api"))
		}, reason: "unrecorded"},
		"not told yet, and no connection is to end": {spoil: func(i *in) {
			i.config.Told = func(*catalog.View, *intention.Policy) *intention.Policy { return nil }
			m := contents(scope(intention.Deny), identity.NewName("api"), someIntentions())
			m.Proxies[0].Inbound.Revocation = catalog.NextRequest
			store := &catalog.Store{}
			store.Publish(m.Contents())
			i.config.Views = &store.Views
		}},
		"told": {spoil: func(i *in) {
			i.config.Told = func(_ *catalog.View, p *intention.Policy) *intention.Policy { return p.Within(p.Allowed()) }
		}},
		"told of what is denied": {spoil: func(i *in) {
			i.config.Told = func(*catalog.View, *intention.Policy) *intention.Policy { panic("it is not asked") }
			i.req = request("tcp", uri("batch"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("batch")}}), "api")
		}, reason: "default"},
		"authorization panics": {spoil: func(i *in) { i.config.Authorize = func(context.Context) (identity.Caller, error) { panic("oops") } }, reason: "panic"},
		"unauthenticated": {spoil: func(i *in) {
			i.config.Authorize = func(context.Context) (identity.Caller, error) { return identity.Caller{}, errors.New("who are you?") }
		}, code: codes.Unauthenticated, reason: "unauthenticated"},
		"permission denied by authorization": {spoil: func(i *in) {
			i.config.Authorize = func(context.Context) (identity.Caller, error) {
				return identity.Caller{Proxy: proxyID, Service: identity.NewName("api")}, status.Error(codes.PermissionDenied, "no")
			}
		}, code: codes.Unauthenticated, reason: "unauthenticated"},
		"no authorization": {spoil: func(i *in) { i.config.Authorize = nil }, code: codes.Unauthenticated, reason: "unauthenticated"},
		"no views":         {spoil: func(i *in) { i.config.Views = nil }, code: codes.Unavailable, reason: "not_ready"},
		"empty views":      {spoil: func(i *in) { i.config.Views = &latest.Value[*catalog.View]{} }, code: codes.Unavailable, reason: "not_ready"},
		"nil view": {spoil: func(i *in) {
			i.config.Views = &latest.Value[*catalog.View]{}
			i.config.Views.Set(nil)
		}, code: codes.Unavailable, reason: "not_ready"},
		"zero view": {spoil: func(i *in) {
			i.config.Views = &latest.Value[*catalog.View]{}
			i.config.Views.Set(&catalog.View{})
		}, code: codes.Unavailable, reason: "not_ready"},
		"cancelled": {spoil: func(i *in) {
			ctx, cancel := context.WithCancel(i.ctx)
			cancel()
			i.ctx = ctx
		}, code: codes.Canceled, reason: "ended"},
		"deadline passes while deciding": {spoil: func(i *in) {
			ctx, cancel := context.WithTimeout(i.ctx, time.Millisecond)
			t.Cleanup(cancel)
			i.ctx = ctx
			i.config.Authorize = func(ctx context.Context) (identity.Caller, error) { <-ctx.Done(); return known(ctx) }
		}, code: codes.DeadlineExceeded, reason: "ended"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			i := in{
				config: authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), someIntentions()), Authorize: known, Registerer: registry},
				ctx:    ctx,
				req:    request("tcp", uri("web"), good, "api"),
			}
			test.spoil(&i)
			resp, err := newServer(t, i.config).Check(i.ctx, i.req) //nolint:contextcheck // the context is what is tested
			if got := status.Code(err); got != test.code {
				t.Fatalf("Check returned %v, want code %s", err, test.code)
			}
			switch {
			case err != nil:
				if resp != nil {
					t.Errorf("Check returned both %v and an error", resp)
				}
				counted(t, registry, "sallyport_authz_errors_total", "cause", test.reason)
			case test.reason == "":
				if answer(t, resp, "") != intention.Allow {
					t.Errorf("Check denied: %s", resp.GetStatus().GetMessage())
				}
				counted(t, registry, "sallyport_authz_decisions_total", "decision", "allow")
			default:
				if answer(t, resp, "") != intention.Deny {
					t.Errorf("Check allowed: %s", resp.GetStatus().GetMessage())
				}
				counted(t, registry, "sallyport_authz_decisions_total", "reason", test.reason)
			}
			if n, err := testutil.GatherAndLint(registry); err != nil || len(n) > 0 {
				t.Errorf("metrics: %v %v", n, err)
			}
		})
	}
}

// TestNamesIntention demands that an answer says which intention made it, to the Envoy but not to
// the client.
func TestNamesIntention(t *testing.T) {
	ca := newIssuer(t)
	s := newServer(t, authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), someIntentions()), Authorize: known})
	for service, want := range map[string]string{
		"web":   "allowed by intention web => api (allow), api.hcl:3",
		"bad":   "denied by intention bad => api (deny), api.hcl:4",
		"batch": "denied: default policy",
	} {
		certificate := ca.certificate(t, decisiontable.Peer{URIs: []string{uri(service)}})
		resp, err := s.Check(call(t.Context(), "api"), request("http", uri(service), certificate, "api"))
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.GetStatus().GetMessage(); got != want {
			t.Errorf("Check(%s → api) says %q, want %q", service, got, want)
		}
		if body := resp.GetDeniedResponse().GetBody(); strings.Contains(body, "intention") || strings.Contains(body, "api") {
			t.Errorf("Check(%s → api) tells the client %q", service, body)
		}
		if headers := len(resp.GetOkResponse().GetHeaders()) + len(resp.GetDeniedResponse().GetHeaders()); headers > 0 || resp.GetDynamicMetadata() != nil {
			t.Errorf("Check(%s → api) changes the request: %v", service, resp)
		}
	}
}

// TestFollowsView demands that each call is decided by the newest View, with calls going on
// meanwhile.
func TestFollowsView(t *testing.T) {
	ca := newIssuer(t)
	certificate := ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	allow := contents(scope(intention.Deny), identity.NewName("api"), someIntentions())
	deny := contents(scope(intention.Deny), identity.NewName("api"), nil)
	store := &catalog.Store{}
	store.Publish(allow.Contents())
	s := newServer(t, authz.Config{Views: &store.Views, Authorize: known})
	check := func() intention.Action {
		resp, err := s.Check(call(t.Context(), "api"), request("tcp", uri("web"), certificate, "api"))
		if err != nil {
			t.Error(err)
			return intention.Deny
		}
		return answer(t, resp, "tcp")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					check()
				}
			}
		})
	}
	for range 200 {
		store.Publish(deny.Contents())
		if check() != intention.Deny {
			t.Error("Check allowed what the newest View denies")
		}
		store.Publish(allow.Contents())
		if check() != intention.Allow {
			t.Error("Check denied what the newest View allows")
		}
	}
	close(stop)
	wg.Wait()
}

// ---- a mesh, and calls as an Envoy makes them ----

func scope(def intention.Action) intention.Scope {
	return intention.Scope{TrustDomain: trustDomain, Datacenters: []string{"dc1"}, Default: def}
}

func someIntentions() []intention.Intention {
	api := identity.NewName("api")
	return []intention.Intention{
		{Source: intention.Source{Name: identity.NewName("web")}, Destination: api, Action: intention.Allow, Origin: "api.hcl:3"},
		{Source: intention.Source{Name: identity.NewName("bad")}, Destination: api, Action: intention.Deny, Origin: "api.hcl:4"},
	}
}

func contents(s intention.Scope, destination identity.Name, all []intention.Intention) catalogtest.Mesh {
	return catalogtest.Mesh{
		Mesh:       catalog.Mesh{TrustDomain: s.TrustDomain, Datacenter: "dc1", Datacenters: s.Datacenters, Default: s.Default},
		Proxies:    []catalog.Proxy{{ID: proxyID, Service: destination}},
		Intentions: all,
	}
}

func views(s intention.Scope, destination identity.Name, all []intention.Intention) *latest.Value[*catalog.View] {
	return published(s, contents(s, destination, all))
}

func published(s intention.Scope, mesh catalogtest.Mesh) *latest.Value[*catalog.View] {
	store := &catalog.Store{}
	store.Federate(s.Federated)
	store.Publish(mesh.Contents())
	return &store.Views
}

// trusting is an Authority that takes the caller for whom it says it is.
type trusting struct{}

func (trusting) Stream(context.Context, string, identity.ProxyID) (identity.Caller, error) {
	return identity.Caller{}, errors.New("there are no streams here")
}

func (trusting) Call(_ context.Context, _ string, proxy identity.ProxyID, service identity.Name) (identity.Caller, error) {
	return identity.Caller{Proxy: proxy, Service: service}, nil
}

func (trusting) Admit(context.Context, string, identity.ProxyID, identity.Name) (identity.Caller, bool, error) {
	return identity.Caller{}, false, nil
}

func known(ctx context.Context) (identity.Caller, error) {
	return token.Authorizer{Authority: trusting{}}.Call(ctx)
}

func call(ctx context.Context, destination string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(identity.ProxyHeader, proxyID, identity.DestinationHeader, destination))
}

func uri(service string) string {
	return "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/" + service
}

// request is what Envoy sends, as far as it matters: the network filter no HTTP attributes, and no
// context extensions.
func request(kind, principal, certificate, destination string) *authv3.CheckRequest {
	r := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Principal: principal, Certificate: certificate},
		Destination: &authv3.AttributeContext_Peer{Principal: uri(destination), Service: destination + ".default.dc1.internal." + trustDomain.Name()},
		TlsSession:  &authv3.AttributeContext_TLSSession{Sni: "whatever.the.client.says"},
	}}
	if kind == "http" {
		r.Attributes.Source.Service = "what-the-client-says"
		r.Attributes.Request = &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/%2e/x;y?q", Host: "elsewhere"}}
		putRequest(r.Attributes.Request.Http, &decisiontable.Request{Method: "GET", Path: "/%2e/x;y?q"})
		r.Attributes.ContextExtensions = map[string]string{identity.DestinationExtension: destination}
	}
	return r
}

// putRequest makes h the request, as Envoy has it in a check.
func putRequest(h *authv3.AttributeContext_HttpRequest, r *decisiontable.Request) {
	h.Method, h.Path = r.Method, r.Path
	h.HeaderMap = &corev3.HeaderMap{}
	for _, header := range append([][2]string{{":authority", "web"}, {":path", r.Path}, {":method", r.Method}}, r.Headers...) {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: header[0], RawValue: []byte(header[1])})
	}
}

// answer is what Envoy makes of a response; the form that each filter needs is demanded.
func answer(t *testing.T, resp *authv3.CheckResponse, kind string) intention.Action {
	t.Helper()
	switch code := codes.Code(resp.GetStatus().GetCode()); {
	case resp.GetStatus() == nil:
		t.Fatal("a response without status, which Envoy takes for OK")
	case code == codes.OK:
		return intention.Allow
	case code != codes.PermissionDenied:
		t.Errorf("a denial with code %s", code)
	}
	if got := resp.GetDeniedResponse().GetStatus().GetCode(); kind == "http" && got != 403 {
		t.Errorf("a denial of http with status %d", got)
	}
	return intention.Deny
}

func counted(t *testing.T, registry *prometheus.Registry, metric, label, value string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all, here := 0.0, 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all += m.GetCounter().GetValue()
			for _, l := range m.GetLabel() {
				if f.GetName() == metric && l.GetName() == label && l.GetValue() == value {
					here += m.GetCounter().GetValue()
				}
			}
		}
	}
	if all != 1 || here != 1 {
		t.Errorf("%s{%s=%q} = %v, of %v counted in all; want 1 of 1", metric, label, value, here, all)
	}
}

func newServer(t testing.TB, c authz.Config) *authz.Server {
	t.Helper()
	s, err := authz.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBytesOfPaths: Envoy has "!" in the path of a check for each byte that is in no UTF-8; what counts is the path as it was sent.
func TestBytesOfPaths(t *testing.T) {
	api := identity.NewName("api")
	permissions, err := intention.NewPermissions([]intention.Permission{{PathExact: "/admin"}})
	if err != nil {
		t.Fatal(err)
	}
	mesh := contents(scope(intention.Allow), api, []intention.Intention{{Source: intention.Source{Name: identity.NewName("web")}, Destination: api, Permissions: permissions}})
	mesh.Proxies[0].Inbound.Protocol = catalog.HTTP
	s := newServer(t, authz.Config{Views: published(scope(intention.Allow), mesh), Authorize: known})
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	for sent, want := range map[string]intention.Action{"/admin\xff": intention.Deny, "/admin!": intention.Allow, "/admin": intention.Deny, "": intention.Deny} {
		req := request("http", uri("web"), certificate, "api")
		h := req.GetAttributes().GetRequest().GetHttp()
		if putRequest(h, &decisiontable.Request{Method: "GET", Path: sent}); sent == "" { // a listener that does not send all headers
			h.HeaderMap = nil
		}
		h.Path = "/admin!"
		resp, err := s.Check(call(t.Context(), "api"), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := answer(t, resp, "http"); got != want {
			t.Errorf("%q: %s (%s), want %s", sent, got, resp.GetStatus().GetMessage(), want)
		}
	}
}
