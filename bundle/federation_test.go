package bundle_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const serverID = "spiffe://td-b.example/spire/server"

// spiffeServer serves h on loopback with a leaf of id by ca.
func spiffeServer(t *testing.T, h http.Handler, id string, ca *testca.Pair) *httptest.Server {
	t.Helper()
	pair := leaf(t, id, ca)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pair.Cert.Raw}, PrivateKey: pair.Key}}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func spiffeFiles(url string, first *testca.Pair) map[string]string {
	return map[string]string{
		"first.pem": first.PEM(),
		"b.yaml":    "trust_domain: td-b.example\nbundle: first.pem\nendpoint:\n  url: " + url + "\n  profile: https_spiffe\n  spiffe_id: " + serverID + "\n",
	}
}

// TestGoSPIFFEServer: go-spiffe's handler under https_spiffe, verified with the first bundle, then with what it said itself.
func TestGoSPIFFEServer(t *testing.T) {
	first, second := root(t, "td-b.example"), root(t, "td-b.example")
	source := spiffebundle.FromX509Authorities(tdB, []*x509.Certificate{first.Cert, second.Cert})
	source.SetSequenceNumber(1)
	handler, err := federation.NewHandler(tdB, source)
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, mesh{}, spiffeFiles(spiffeServer(t, handler, serverID, first).URL, first))
	if set, _ := m.Sets().Load(); pemOf(set) != first.PEM() {
		t.Fatal("the first bundle is not believed")
	}
	stop := run(t, m)
	both := func(s *bundle.Set) bool { return s.Of(tdB) != nil && len(s.Of(tdB).Roots.List()) == 2 }
	await(t, m, "both roots", both)
	stop()
	// The same leaf, but by the root that was learnt; the first bundle's file does not take that away.
	m = open(t, m, map[string]string{"b.yaml": spiffeFiles(spiffeServer(t, handler, serverID, second).URL, first)["b.yaml"]})
	set, _ := m.Sets().Load()
	if !both(set) {
		t.Fatal("what was learnt is not kept")
	}
	run(t, m)
	awaitTaken(t, m)
}

func awaitTaken(t *testing.T, m mesh) {
	t.Helper()
	for range 1000 {
		if countedOf(t, m)["taken"] > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	domains, _ := m.Status()
	t.Fatalf("not taken: %+v", domains)
}

// TestWrongServer: who does not prove to be the endpoint's SPIFFE ID says nothing.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	a := root(t, "td-b.example")
	h := says(document(t, 9, root(t, "td-b.example")))
	for name, tt := range map[string]struct {
		id   string
		ca   *testca.Pair
		want string
	}{
		"another ID":           {"spiffe://td-b.example/x", a, "it is spiffe://td-b.example/x, and should be " + serverID},
		"another CA":           {serverID, root(t, "td-b.example"), "sallyport bundle import td-b.example FILE"},
		"another trust domain": {"spiffe://td-c.example/spire/server", a, "does not prove to be " + serverID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := open(t, mesh{}, spiffeFiles(spiffeServer(t, h, tt.id, tt.ca).URL, a))
			run(t, m)
			awaitProblem(t, m, tt.want)
			if n := countedOf(t, m); n["denied"] == 0 || n["taken"] != 0 {
				t.Errorf("%v", n)
			}
			if set, _ := m.Sets().Load(); pemOf(set) != a.PEM() {
				t.Error("another bundle")
			}
		})
	}
}

// TestImport: the way back where the roots were changed while nobody asked. What is imported may be of a lower sequence number, and is
// asked for again by its endpoint.
func TestImport(t *testing.T) {
	old, now := root(t, "td-b.example"), root(t, "td-b.example")
	m := open(t, mesh{}, spiffeFiles(spiffeServer(t, says(document(t, 3, now)), serverID, now).URL, old))
	run(t, m)
	awaitProblem(t, m, "sallyport bundle import td-b.example FILE")
	if _, err := m.Import(spiffeid.RequireTrustDomainFromString("td-c.example"), []byte(root(t, "td-c.example").PEM()), true); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("%v", err)
	}
	if _, err := m.Import(tdB, []byte(leaf(t, "spiffe://td-b.example/x", now).PEM()), true); err == nil || !strings.Contains(err.Error(), "not a CA's") {
		t.Errorf("%v", err)
	}
	for _, apply := range []bool{false, true} {
		change, err := m.Import(tdB, document(t, 2, now), apply)
		if err != nil || len(change.Added) != 1 || len(change.Removed) != 1 || len(change.Kept) != 0 || !change.Added[0].Equal(now.Cert) {
			t.Errorf("%+v, %v", change, err)
		}
		if set, _ := m.Sets().Load(); (pemOf(set) == now.PEM()) != apply {
			t.Errorf("apply %t: %t", apply, pemOf(set) == now.PEM())
		}
	}
	awaitTaken(t, m)
	if d := status(t, m); d.Problem != "" || d.Stale {
		t.Errorf("%+v", d)
	}
}

// TestGoSPIFFEClient: go-spiffe fetches the mesh's bundle over both profiles; the sequence number grows with the roots, and over restarts.
func TestGoSPIFFEClient(t *testing.T) {
	first, second := root(t, "td-a.example"), root(t, "td-a.example")
	td, _ := own()
	var roots latest.Value[*sds.Roots]
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: first.Key.Public(), KeyID: "k", Use: "jwt-svid"}}})
	if err != nil {
		t.Fatal(err)
	}
	config := bundle.OfferConfig{
		TrustDomain: own, Roots: roots.Load, RootsChanged: roots.Changed, File: filepath.Join(t.TempDir(), "sequence.json"), RefreshHint: time.Minute,
		JWTKeys: func() []byte { return keys },
	}
	set := func(all ...*testca.Pair) {
		var list []sds.Root
		for _, r := range all {
			list = append(list, sds.Root{ID: r.Cert.SerialNumber.String(), Certificate: r.Cert})
		}
		roots.Set(sds.NewRoots(td, "", list))
	}
	start := func() (*bundle.Offer, func()) {
		o, err := bundle.NewOffer(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = o.Run(ctx) })
		stop := sync.OnceFunc(func() { cancel(); running.Wait() })
		t.Cleanup(stop)
		return o, stop
	}
	o, stop := start()
	recorder := httptest.NewRecorder()
	o.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if recorder.Code != http.StatusServiceUnavailable {
		t.Errorf("without roots %d", recorder.Code)
	}
	set(first)
	pair := leaf(t, "spiffe://td-a.example/sallyport/bundle", first)
	spiffe := spiffeServer(t, o, "spiffe://td-a.example/sallyport/bundle", first)
	web := serve(t, o.ServeHTTP)
	pool := x509.NewCertPool()
	pool.AddCert(web.ca.Cert)
	fetch := func(roots int) (sequence uint64) {
		t.Helper()
		for range 1000 {
			var last *spiffebundle.Bundle
			for url, option := range map[string]federation.FetchOption{
				web.URL: federation.WithWebPKIRoots(pool), spiffe.URL: federation.WithSPIFFEAuth(x509bundle.FromX509Authorities(td, []*x509.Certificate{first.Cert}), spiffeid.RequireFromString(pair.Cert.URIs[0].String())),
			} {
				b, err := federation.FetchBundle(t.Context(), td, url, option)
				if err != nil {
					last = nil
					break
				}
				if last != nil && !last.Equal(b) {
					x, _ := last.SequenceNumber()
					if y, _ := b.SequenceNumber(); x == y {
						t.Error("the profiles differ")
					}
					last = nil // the bundle changed in between
					break
				}
				last = b
			}
			if last != nil && len(last.X509Authorities()) == roots {
				n, ok := last.SequenceNumber()
				hint, _ := last.RefreshHint()
				if !ok || hint != time.Minute || len(last.JWTAuthorities()) != 1 {
					t.Errorf("sequence %t, hint %s, %d keys of JWT-SVIDs", ok, hint, len(last.JWTAuthorities()))
				}
				return n
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("not served")
		return 0
	}
	n := fetch(1)
	set(first, second)
	if next := fetch(2); next != n+1 {
		t.Errorf("sequence %d after %d", next, n)
	}
	etag := get(t, o, http.MethodGet, "/", "")
	for name, tt := range map[string]struct {
		method, path, etag string
		want               int
	}{
		"as it was": {http.MethodGet, "/", etag.Header().Get("ETag"), 304}, "another": {http.MethodGet, "/", `"x"`, 200}, "POST": {http.MethodPost, "/", "", 405}, "elsewhere": {http.MethodGet, "/x", "", 404},
	} {
		if got := get(t, o, tt.method, tt.path, tt.etag); got.Code != tt.want {
			t.Errorf("%s: %d, want %d", name, got.Code, tt.want)
		}
	}
	stop()
	o, _ = start()
	for o.Document() == nil {
		time.Sleep(time.Millisecond)
	}
	if again, _ := o.Document().Sequence(); again != n+1 {
		t.Errorf("after a restart %d, want %d", again, n+1)
	}
}

func get(t *testing.T, h http.Handler, method, path, etag string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
