package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/rbactest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/sallyport/sallyport/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
)

// How many random meshes there are, and how many questions each is asked.
const (
	oneAnswerMeshes    = 200
	oneAnswerQuestions = 50
)

// deciderNames are all who decide about a connection.
var deciderNames = []string{"authorize", "check", "ext_authz", "intention check", "RBAC rules"}

// TestOneAnswer asks all who decide about a connection the same of random meshes: their answers are one. Each is asked what it can be
// asked: check knows sources by their names alone, and who has no sidecar has no Envoy that asks or is told rules.
func TestOneAnswer(t *testing.T) {
	ds := startDeciders(t)
	asked, each, differ, allowed, all := 0, make([]int, len(deciderNames)), 0, 0, 0
	for n := range oneAnswerMeshes {
		r := rand.New(rand.NewPCG(11, uint64(n)))
		m := randomMesh(r, ds.domain)
		ds.publish(t, m, randomRevoked(r, ds.domain)...)
		for range oneAnswerQuestions {
			q := randomQuestion(r, ds.domain)
			asked++
			var said []string
			yes, no := 0, 0
			for d, ask := range []func(*testing.T, decisionQuestion) (answered, bool){ds.authorize, ds.check, ds.extAuthz, ds.command, ds.rules} {
				a, ok := ask(t, q)
				if !ok {
					continue
				}
				each[d]++
				if a.allowed {
					yes++
				} else {
					no++
				}
				said = append(said, fmt.Sprintf("%s %v (%s)", deciderNames[d], a.allowed, a.why))
			}
			if yes+no == len(deciderNames) {
				all++
			}
			if yes > 0 {
				allowed++
			}
			if yes > 0 && no > 0 {
				if differ++; differ < 10 {
					t.Errorf("mesh %d, default %s: %s => %s: %s", n, m.Mesh.Default, q.source, q.destination, strings.Join(said, ", "))
				}
			}
		}
	}
	fmt.Printf("FIGURE %s %d questions, %d deciders, %d differ; %d allowed, %d asked of all, by decider %v\n", t.Name(), asked, len(deciderNames), differ, allowed, all, each)
	if least := asked / 5; allowed < least || asked-allowed < least {
		t.Errorf("%d of %d are allowed: each of the two answers is to be a fifth at least", allowed, asked)
	}
	for d, n := range append(each, all) {
		if n < asked/4 {
			t.Errorf("%d of %d questions were asked of %s", n, asked, append(deciderNames, "all of them")[d])
		}
	}
}

// decisionQuestion is whether a source may connect to a destination.
type decisionQuestion struct {
	// source is a name, or a SPIFFE ID; uri is that which the certificate has.
	source, uri, destination string
}

func (q decisionQuestion) named() bool { return q.source != q.uri }

// answered is what somebody answered, and why.
type answered struct {
	allowed bool
	why     string
}

var (
	// In sources letter case counts, in destinations not. Some are alike, and "lone" and "nobody" are never registered.
	registeredNames = []string{"web", "Web", "api", "db", "a.b", "axb", "native", "plain"}
	askedNames      = append([]string{"WEB", "API", "Db", "NATIVE", "lone", "Lone", "nobody", "we"}, registeredNames...)
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomMesh is one with some of the services, by a sidecar, native, or registered alone, and intentions about these and others.
func randomMesh(r *rand.Rand, domain spiffeid.TrustDomain) catalogtest.Mesh {
	m := catalogtest.Mesh{Mesh: catalog.Mesh{TrustDomain: domain, Datacenter: "dc1", Datacenters: []string{"dc1"}, Default: pick(r, intention.Deny, intention.Allow)}}
	if r.IntN(2) == 0 {
		m.Mesh.Datacenters = append(m.Mesh.Datacenters, "east")
	}
	for _, s := range registeredNames {
		name := identity.NewName(s)
		switch r.IntN(6) {
		case 0:
			continue
		case 1:
			m.Registrations = append(m.Registrations, catalog.Registration{ID: "id-" + s, Service: name, Native: r.IntN(2) == 0})
		default:
			protocol := pick(r, catalog.TCP, catalog.HTTP, catalog.GRPC)
			m.Services = append(m.Services, catalog.Service{Name: name, Protocol: protocol})
			m.Registrations = append(m.Registrations, catalog.Registration{ID: "id-" + s, Service: name})
			m.Proxies = append(m.Proxies, catalog.Proxy{ID: identity.ProxyID("proxy-" + s), Service: name, Instance: "id-" + s, Inbound: catalog.Inbound{
				Address: "127.0.0.1", Port: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080, Protocol: protocol, ConnectTimeout: time.Second,
			}})
		}
	}
	for range r.IntN(25) {
		i := intention.Intention{
			Source:      intention.Source{Name: identity.NewName(pick(r, append([]string{"*", "*"}, askedNames...)...))},
			Destination: identity.NewName(pick(r, append([]string{"*", "*", "*"}, askedNames...)...)),
			Action:      pick(r, intention.Deny, intention.Allow, intention.Allow), Origin: "test",
		}
		switch r.IntN(15) {
		case 0:
			i.Source.Peer = "cloud"
		case 1:
			i.Unsupported = "permissions"
		case 2:
			i.Held = "a file is taken"
		}
		m.Intentions = append(m.Intentions, i)
	}
	return m
}

// randomRevoked are identities of some of the names, of one datacenter each, and certificates of which nobody is asked.
func randomRevoked(r *rand.Rand, domain spiffeid.TrustDomain) (all []intention.Revocation) {
	for range r.IntN(4) {
		v := intention.Revocation{ID: identity.Service{TrustDomain: domain, Datacenter: pick(r, "dc1", "dc1", "east"), Name: identity.NewName(pick(r, askedNames...))}.ID().String(), Origin: "test"}
		if r.IntN(4) == 0 {
			v.SHA256 = strings.Repeat("ab", 32)
		}
		all = append(all, v)
	}
	return all
}

// randomQuestion is one about names of the mesh more often than not, and at times about what is none.
func randomQuestion(r *rand.Rand, domain spiffeid.TrustDomain) decisionQuestion {
	id := func(td, rest, service string) string { return "spiffe://" + td + rest + "/svc/" + service }
	name := pick(r, askedNames...)
	q := decisionQuestion{source: name, uri: id(domain.Name(), "/ns/default/dc/dc1", name), destination: pick(r, askedNames...)}
	switch r.IntN(12) {
	case 0:
		q.uri = id(domain.Name(), "/ns/default/dc/"+pick(r, "east", "dc9", "DC1"), name)
		q.source = q.uri
	case 1:
		q.uri = id("22222222-0000-4000-8000-000000000000.consul", "/ns/default/dc/dc1", name)
		q.source = q.uri
	case 2:
		q.uri = id(domain.Name(), pick(r, "/ns/other/dc/dc1", "/ap/other/ns/default/dc/dc1", "/ap/default/ns/default/dc/dc1", "/agent/client"), name)
		q.source = q.uri
	case 3: // what no service can be called
		q.destination = pick(r, "*", "other/"+q.destination, "ap/other/more/"+q.destination, "w b")
	}
	return q
}

// deciders are all who decide, of one catalog.
type deciders struct {
	plane  *controlPlane
	domain spiffeid.TrustDomain
	client *admin.Client
	authz  *authz.Server
	caller identity.Caller // who calls ext_authz
	ca     *testca.Pair
	// By URI, by service, and of this catalog by service.
	certificates, tokens map[string]string
	matchers             map[string]*matcherv3.Matcher
	reader               string
	view                 *catalog.View
}

func startDeciders(t *testing.T) *deciders {
	t.Helper()
	runtime := shortTemp(t)
	p, err := open(serveConfig{
		Catalog: t.TempDir(), Data: t.TempDir(), RuntimeDir: runtime, Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", LeafTTL: time.Hour,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ds := &deciders{plane: p, ca: testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil), certificates: map[string]string{}, tokens: map[string]string{}}
	ds.domain, _ = p.authority.trustDomain()
	if ds.authz, err = authz.New(authz.Config{Views: &p.store.Views, Authorize: func(context.Context) (identity.Caller, error) { return ds.caller, nil }}); err != nil {
		t.Fatal(err)
	}
	ds.reader = ds.mint(t, token.Application{Reader: true})
	l, err := net.Listen("unix", admin.Socket(runtime))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	for _, run := range []func(context.Context) error{p.secrets.Run, p.http.Run, func(ctx context.Context) error { return admin.Serve(ctx, l, p.api(), p.log) }} {
		go func() { ended <- run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	if ds.client, err = admin.Find(runtime); err != nil {
		t.Fatal(err)
	}
	return ds
}

func (ds *deciders) mint(t *testing.T, a token.Application) string {
	t.Helper()
	m, err := ds.plane.callers.issuer.MintApplication(a, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return m.Text
}

// publish makes m the catalog of all deciders.
func (ds *deciders) publish(t *testing.T, m catalogtest.Mesh, revoked ...intention.Revocation) {
	t.Helper()
	c := m.Contents()
	c.Revoked = intention.Revoke(revoked)
	ds.plane.store.Publish(c)
	ds.view, _ = ds.plane.store.Views.Load()
	ds.matchers = map[string]*matcherv3.Matcher{}
	q := decisionQuestion{uri: "spiffe://" + ds.domain.Name() + "/ns/default/dc/dc1/svc/web", destination: "api"}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		w := ds.post(t, "/v1/sallyport/authorize", q, `,"ClientCertSerial":"01"`)
		var a struct{ Change uint64 }
		if w.Code == http.StatusOK && json.Unmarshal(w.Body.Bytes(), &a) == nil && a.Change == ds.view.Change().Number {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the API does not follow: %d %s", w.Code, w.Body)
		}
	}
}

func (ds *deciders) serve(method, path, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("X-Consul-Token", token)
	w := httptest.NewRecorder()
	ds.plane.http.ServeHTTP(w, r)
	return w
}

func (ds *deciders) post(t *testing.T, path string, q decisionQuestion, more string) *httptest.ResponseRecorder {
	t.Helper()
	text := ds.tokens[q.destination]
	if text == "" {
		text = ds.mint(t, token.Application{Service: identity.NewName(q.destination)})
		ds.tokens[q.destination] = text
	}
	return ds.serve("POST", path, text, fmt.Sprintf(`{"Target":%q,"ClientCertURI":%q%s}`, q.destination, q.uri, more))
}

// authorize asks as an application of the destination does. Nobody has a token for what no service can be called.
func (ds *deciders) authorize(t *testing.T, q decisionQuestion) (answered, bool) {
	t.Helper()
	if identity.NewName(q.destination).Check() != nil {
		return answered{}, false
	}
	w := ds.post(t, "/v1/agent/connect/authorize", q, "")
	var a struct {
		Authorized bool
		Reason     string
	}
	switch w.Code {
	case http.StatusBadRequest: // the source is no service
		return answered{why: w.Body.String()}, true
	case http.StatusOK:
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		return answered{a.Authorized, a.Reason}, true
	}
	t.Fatalf("authorize %+v: %d %s", q, w.Code, w.Body)
	return answered{}, false
}

// check asks as a reader does, and names a service as Consul's API takes it, too, with its namespace.
func (ds *deciders) check(t *testing.T, q decisionQuestion) (answered, bool) {
	t.Helper()
	if !q.named() {
		return answered{}, false
	}
	w := ds.serve("GET", "/v1/connect/intentions/check?"+url.Values{"source": {"default/" + q.source}, "destination": {q.destination}}.Encode(), ds.reader, "")
	var a struct{ Allowed bool }
	switch {
	case w.Code == http.StatusInternalServerError && (strings.Contains(w.Body.String(), "a Consul Enterprise feature") || strings.Contains(w.Body.String(), "at most two '/'")):
		return answered{why: w.Body.String()}, true
	case w.Code == http.StatusOK && json.Unmarshal(w.Body.Bytes(), &a) == nil:
		return answered{allowed: a.Allowed}, true
	}
	t.Fatalf("check %+v: %d %s", q, w.Code, w.Body)
	return answered{}, false
}

// sidecar is the first of a service; nil: it has none.
func (ds *deciders) sidecar(service string) *catalog.ProxyView {
	for w := range ds.view.Of(identity.NewName(service)) {
		return w
	}
	return nil
}

// extAuthz asks as the Envoy of the destination does. One of before has no ID, and there is none of what has no policy.
func (ds *deciders) extAuthz(t *testing.T, q decisionQuestion) (answered, bool) {
	t.Helper()
	name := identity.NewName(q.destination)
	ds.caller = identity.Caller{Service: name}
	if w := ds.sidecar(q.destination); w != nil {
		ds.caller.Proxy = w.Proxy.ID
	} else if ds.view.Policy(name) == nil {
		return answered{}, false
	}
	resp, err := ds.authz.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: q.uri, Certificate: ds.certificate(t, q.uri)},
	}})
	if err != nil {
		t.Fatalf("ext_authz %+v: %v", q, err)
	}
	return answered{codes.Code(resp.GetStatus().GetCode()) == codes.OK, resp.GetStatus().GetMessage()}, true
}

func (ds *deciders) certificate(t *testing.T, uri string) string {
	t.Helper()
	if ds.certificates[uri] == "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		ds.certificates[uri] = url.PathEscape(testca.Sign(t, &x509.Certificate{URIs: []*url.URL{u}}, ds.ca).PEM())
	}
	return ds.certificates[uri]
}

// command asks the admin socket as `sallyport intention check` does.
func (ds *deciders) command(t *testing.T, q decisionQuestion) (answered, bool) {
	t.Helper()
	r, err := ds.client.Check(t.Context(), q.source, q.destination)
	if err != nil {
		if !strings.Contains(err.Error(), "source: ") && !strings.Contains(err.Error(), "destination: ") {
			t.Fatalf("intention check %+v: %v", q, err)
		}
		return answered{why: err.Error()}, true
	}
	status := answer(r)
	if exit, _ := errors.AsType[exitError](status); r.Allowed != (status == nil) || exit != 0 && exit != 1 && (exit != 4 || r.Held == "") {
		t.Errorf("intention check %+v: allowed %v and exit status %v", q, r.Allowed, status)
	}
	return answered{r.Allowed, r.Explain()}, true
}

// rules says what the Envoy of the destination would do by itself; of what has no sidecar, what one would do.
func (ds *deciders) rules(t *testing.T, q decisionQuestion) (answered, bool) {
	t.Helper()
	m, ok := ds.matchers[q.destination]
	if !ok {
		name := identity.NewName(q.destination)
		w := ds.sidecar(q.destination)
		if p := ds.view.Policy(name); w == nil && p != nil {
			w = &catalog.ProxyView{Mesh: ds.view.Mesh(), Policy: p, Proxy: &catalog.Proxy{ID: "none", Service: p.Destination(), Inbound: catalog.Inbound{
				Address: "127.0.0.1", Port: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080, ConnectTimeout: time.Second,
			}}}
		}
		if w != nil {
			var err error
			if m, err = rbactest.Rules(snapshot.Input{ProxyView: w, Envoy: snapshot.Features{RegexSize: 10_000, DrainTime: time.Minute}}); err != nil {
				t.Fatalf("rules of %s: %v", q.destination, err)
			}
		}
		ds.matchers[q.destination] = m
	}
	if m == nil {
		return answered{}, false
	}
	allowed, err := rbactest.Allowed(m, []string{q.uri})
	if err != nil {
		t.Fatalf("rules of %s: %v", q.destination, err)
	}
	return answered{allowed: allowed}, true
}
