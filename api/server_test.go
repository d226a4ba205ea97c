package api

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var trustDomain = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")

// names is an Authority by which a token is the name of a service, and "reader" one.
type names struct{}

func (names) Identify(_ context.Context, token string, peer Peer) (Caller, error) {
	switch token {
	case "":
		return Caller{ID: peer.Name}, nil
	case "reader":
		return Caller{ID: token, Reader: true, Known: true}, nil
	case "bogus":
		return Caller{}, Refused(http.StatusForbidden, "ACL not found")
	}
	service := token
	if _, after, ok := strings.Cut(token, "-"); ok { // another caller of the same service
		service = after
	}
	return Caller{ID: token, Services: []identity.Name{identity.NewName(service)}, Known: true}, nil
}

func (names) Act(_ context.Context, c *Caller, service identity.Name, _ bool) error {
	if c.Acts(service) {
		return nil
	}
	return Denied(c, service, remedy)
}

// rig is a server on a socket, and what it answers from.
type rig struct {
	*Server
	client *http.Client
	views  *latest.Value[*catalog.View]
	view   *catalog.View
	mesh   catalogtest.Mesh
	socket string
	number atomic.Uint64
	// signedFor are the callers for whom a request was signed.
	signedFor []identity.Caller
}

func start(t testing.TB, more ...func(*Config)) *rig {
	t.Helper()
	r := &rig{views: &latest.Value[*catalog.View]{}, view: &catalog.View{}}
	r.number.Store(1000)
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca"), TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: authority, TrustDomain: trustDomain, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := sds.New(sds.Config{Source: issuer})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Views: r.views, Credentials: credentials, Authority: names{}, Number: func() uint64 { return r.number.Add(1) },
		Sign: func(ctx context.Context, c identity.Caller, id identity.Service, request []byte) ([]*x509.Certificate, error) {
			chain, err := issuer.SignRequest(ctx, request, id)
			if err != nil {
				return nil, Refused(http.StatusBadRequest, err.Error())
			}
			r.signedFor = append(r.signedFor, c)
			return chain, nil
		},
	}
	for _, change := range more {
		change(&config)
	}
	r.Server, err = New(config)
	if err != nil {
		t.Fatal(err)
	}
	r.socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 5)
	for _, run := range []func(context.Context) error{authority.Run, issuer.Run, credentials.Run, r.Run, func(ctx context.Context) error { return r.Serve(ctx, l, nil) }} {
		go func() { ended <- run(ctx) }()
	}
	r.client = &http.Client{Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.socket)
		},
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	})
	r.mesh = catalogtest.Mesh{
		Mesh: catalog.Mesh{TrustDomain: trustDomain, Datacenter: "dc1", Datacenters: []string{"dc1", "dc2"}},
		Registrations: []catalog.Registration{
			{ID: "web", Service: identity.NewName("web")}, {ID: "api", Service: identity.NewName("api"), Native: true}, {ID: "db", Service: identity.NewName("db"), Native: true},
		},
		Services: []catalog.Service{{Name: identity.NewName("web")}, {Name: identity.NewName("api")}, {Name: identity.NewName("db")}},
	}
	r.intend("api", "web", intention.Allow)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := r.current(); err == nil {
			return r
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// intend has an intention say something, and publishes the next view.
func (r *rig) intend(destination, source string, action intention.Action) {
	i := intention.Intention{Source: intention.Source{Name: identity.NewName(source)}, Destination: identity.NewName(destination), Action: action, Origin: "test"}
	for n, old := range r.mesh.Intentions {
		if old.Source == i.Source && old.Destination == i.Destination {
			r.mesh.Intentions[n] = i
			r.publish()
			return
		}
	}
	r.mesh.Intentions = append(r.mesh.Intentions, i)
	r.publish()
}

func (r *rig) publish() {
	r.view = r.view.Next(r.mesh.Contents())
	r.views.Set(r.view)
}

// settle waits until what was published last is answered from.
func (r *rig) settle(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); r.state.Load().view != r.view; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server does not follow")
		}
	}
}

// reply is what a request was answered with.
type reply struct {
	code   int
	body   string
	header http.Header
}

func (r reply) index(t testing.TB) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(r.header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		t.Fatalf("index: %v (%d %s)", err, r.code, r.body)
	}
	return n
}

func (r *rig) ask(t testing.TB, method, path, token, body string) reply {
	t.Helper()
	a, err := r.try(t.Context(), method, path, token, body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (r *rig) try(ctx context.Context, method, path, token, body string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, string(b), res.Header}, err
}

// TestRules: what holds for all endpoints (Consul 1.19.2).
func TestRules(t *testing.T) {
	r := start(t)
	for _, tc := range []struct {
		method, path, token string
		code                int
		body                string // part of it
	}{
		{"GET", "/v1/connect/ca/roots", "", 200, `{"ActiveRootID":"`},
		{"GET", "/v1/connect/ca/roots?pretty", "", 200, "{\n    \"ActiveRootID\""},
		{"GET", "/v1/connect/ca/roots?pem=true", "", 200, "-----BEGIN CERTIFICATE-----"},
		{"GET", "/v1/connect/ca/roots?pem=maybe", "", 400, "The 'pem' query parameter must be a boolean value"},
		{"GET", "/v1/agent/connect/ca/roots?pem=maybe", "", 200, `{"ActiveRootID":"`},
		{"GET", "/v1/connect/ca/roots?ns=default", "", 200, ""},
		{"GET", "/v1/agent/connect/ca/leaf/api?ns=default", "api", 400, `Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature`},
		{"GET", "/v1/connect/ca/roots?index=abc", "", 400, "Invalid index"},
		{"GET", "/v1/connect/ca/roots?index=-1", "", 400, "Invalid index"},
		{"GET", "/v1/connect/ca/roots?wait=5", "", 400, "Invalid wait time"},
		{"GET", "/v1/connect/ca/roots?max_stale=abc", "", 400, `Invalid max_stale value "abc"`},
		{"GET", "/v1/connect/ca/roots?stale&consistent", "", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."},
		{"GET", "/v1/connect/ca/roots?dc=dc9", "", 500, "No path to datacenter"},
		{"GET", "/v1/agent/connect/ca/leaf/api?dc=dc9", "api", 200, ""},
		{"HEAD", "/v1/connect/ca/roots", "", 405, ""},
		{"POST", "/v1/connect/ca/roots", "", 405, "method POST not allowed"},
		{"GET", "/v1/agent/connect/authorize", "", 405, ""},
		{"OPTIONS", "/v1/connect/ca/roots", "", 200, ""},
		{"GET", "/v1/nosuch", "", 404, "Invalid URL path: not a recognized HTTP API endpoint\n"},
		{"GET", "/v1/connect/ca/roots/", "", 404, "not a recognized"},
		{"GET", "/ui", "", 404, "ensure the path starts with '/v1/'\n"},
		{"GET", "/v1//connect/ca/roots", "", 307, ""},
		{"GET", "/v1/x/../connect/ca/roots", "", 307, ""},
		{"GET", "/v1/agent/connect/ca/leaf", "", 307, ""},
		{"GET", "/v1/agent/connect/ca/leaf/a%00b", "api", 400, ""},
		{"GET", "/v1/connect/ca/roots?a=%zz", "", 500, ""},
		{"GET", "/v1/agent/connect/ca/leaf/", "api", 500, "URI must be either"},
		{"GET", "/v1/agent/connect/ca/leaf/a/b", "api", 500, "SPIFFE ID is not in the expected format"},
		{"GET", "/v1/agent/connect/ca/leaf/api", "", 403, "Permission denied"},
		{"GET", "/v1/agent/connect/ca/leaf/api", "bogus", 403, "ACL not found"},
		{"GET", "/v1/connect/ca/roots", "bogus", 200, ""},
		{"GET", "/v1/agent/connect/ca/leaf/api", "web", 403, `Permission denied: web lacks permission 'service:write' on "api"`},
		{"GET", "/v1/agent/connect/ca/leaf/API", "API", 404, "letter case"},
		{"GET", "/v1/agent/connect/ca/leaf/nosuch", "nosuch", 404, "not registered"},
		{"GET", "/v1/agent/connect/ca/leaf/api", "reader", 403, "Permission denied"},
	} {
		a := r.ask(t, tc.method, tc.path, tc.token, "")
		if a.code != tc.code || !strings.Contains(a.body, tc.body) {
			t.Errorf("%s %s as %q = %d %q, want %d %q", tc.method, tc.path, tc.token, a.code, a.body, tc.code, tc.body)
		}
		if a.code == http.StatusOK && tc.method == "GET" && (a.header.Get("X-Consul-LastContact") != "0" || a.index(t) == 0 || a.header.Get("Vary") == "") {
			t.Errorf("%s: headers %v", tc.path, a.header)
		}
	}
}

// TestAuthorize: questions, answers and errors.
func TestAuthorize(t *testing.T) {
	r := start(t)
	r.intend("*", "legacy", intention.Deny)
	r.settle(t)
	uri := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/"
	body := func(target, uri string) string {
		b, _ := json.Marshal(map[string]string{"Target": target, "ClientCertURI": uri, "ClientCertSerial": "01:02"})
		return string(b)
	}
	for _, tc := range []struct {
		token, body string
		code        int
		want        string
	}{
		{"api", body("api", uri+"web"), 200, `{"Authorized":true,"Reason":"Matched L4 intention: default/web =\u003e default/api (Precedence: 9, Action: ALLOW)"}`},
		{"api", body("api", uri+"legacy"), 200, `{"Authorized":false,"Reason":"Matched L4 intention: default/legacy =\u003e default/* (Precedence: 6, Action: DENY)"}`},
		{"api", body("api", uri+"db"), 200, `{"Authorized":false,"Reason":"Default intention policy"}`},
		{"api", body("api", strings.Replace(uri+"web", "dc1", "dc2", 1)), 200, `{"Authorized":true`},
		{"api", body("api", strings.Replace(uri+"web", "dc1", "dc9", 1)), 200, `{"Authorized":false`},
		{"api", body("api", strings.Replace(uri+"web", "1111", "2222", 1)), 200, `{"Authorized":false`},
		{"api", body("api", uri+"WEB"), 200, `{"Authorized":false`},
		{"api", body("api", "spiffe://"+trustDomain.Name()+"/agent/client/dc/dc1/id/x"), 400, "ClientCertURI not a valid Service identifier"},
		{"api", body("api", "https://x/"), 400, "ClientCertURI not a valid Connect identifier"},
		{"api", body("api", ""), 400, "ClientCertURI not a valid Connect identifier"},
		{"api", body("", uri+"web"), 400, "Target service must be specified"},
		{"api", "{}", 400, "Target service must be specified"},
		{"api", "null", 400, "Target service must be specified"},
		{"api", "", 400, "Request decode failed: EOF"},
		{"api", "{", 400, "Request decode failed: unexpected EOF"},
		{"api", "[]", 400, "Request decode failed: json: cannot unmarshal array into Go value of type structs.ConnectAuthorizeRequest"},
		{"api", `{"Target":1}`, 400, "Request decode failed: json: cannot unmarshal number into Go struct field ConnectAuthorizeRequest.Target of type string"},
		{"api", `{"Nonsense":1}`, 400, `Request decode failed: json: unknown field "Nonsense"`},
		{"api", `{"target":"x","TARGET":"api","clientcerturi":"` + uri + `web"} and more`, 200, `{"Authorized":true`},
		{"web", body("api", uri+"web"), 403, "Permission denied"},
		{"reader", body("api", uri+"web"), 403, "Permission denied"},
		{"", body("api", uri+"web"), 403, "Permission denied"},
		{"bogus", body("api", uri+"web"), 403, "ACL not found"},
		{"", body("api", "nonsense"), 400, "ClientCertURI"},
	} {
		a := r.ask(t, "POST", "/v1/agent/connect/authorize", tc.token, tc.body)
		if a.code != tc.code || !strings.HasPrefix(a.body, tc.want) {
			t.Errorf("as %q %s = %d %q, want %d %q", tc.token, tc.body, a.code, a.body, tc.code, tc.want)
		}
	}
	r.intend("api", "web", intention.Deny)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if a := r.ask(t, "POST", "/v1/agent/connect/authorize", "api", body("api", uri+"web")); strings.Contains(a.body, "false") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("still %s", a.body)
		}
	}
	large := append(bytes.Repeat([]byte(" "), 300<<10), body("api", uri+"web")...)
	if a := r.ask(t, "POST", "/v1/agent/connect/authorize", "api", string(large)); a.code != 200 {
		t.Errorf("a body of 300 KiB: %d %s", a.code, a.body)
	}
}

// TestPages: what pages in browsers ask is not answered, whatever they ask.
func TestPages(t *testing.T) {
	for field, want := range map[[2]string]bool{
		{"Origin", "http://localhost"}: true, {"Origin", "null"}: true, {"Origin", ""}: true, {"Sec-Fetch-Site", "cross-site"}: true, {"Sec-Fetch-Site", "same-origin"}: true,
		{"Sec-Fetch-Site", "none"}: false, {"Sec-Fetch-Mode", "cors"}: false, {"Referer", "http://x/"}: false,
	} {
		r := &http.Request{Header: http.Header{field[0]: {field[1]}}}
		if fromPage(r) != want {
			t.Errorf("%v: %t", field, !want)
		}
	}
}

// TestHost: over TCP the API answers to names of the loopback alone.
func TestHost(t *testing.T) {
	r := start(t)
	r.config.Hosts = []string{"api.example"}
	local := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:8500": true, "127.0.0.1:8500": true, "[::1]:8500": true, "127.9.9.9": true, "localhost.": true, "api.example:1": true,
		"evil.example": false, "127.0.0.1.evil.example": false, "": false, "10.0.0.1": false, "0.0.0.0:8500": false, "localhost.evil.example": false,
	} {
		if got := r.hostAllowed((&http.Request{Host: host}).WithContext(local)); got != want {
			t.Errorf("host %q: %t, want %t", host, got, want)
		}
	}
}
