//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
)

// tokenAnswers counts what a tokenLoad got.
type tokenAnswers struct{ requests, refused, broken, connections atomic.Int64 }

// tokenLoad asks on a few connections, each again and again, until stop is called. What is asked has to be answered 200 at all times.
func tokenLoad(m *meshtest.Mesh, source, service, path string, headers func() []string) (a *tokenAnswers, stop func()) {
	a = &tokenAnswers{}
	client, end := m.Client(source, service), make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			var conn *tokenConn
			for {
				select {
				case <-end:
					if conn != nil {
						conn.conn.Close()
					}
					return
				case <-time.After(15 * time.Millisecond):
				}
				var err error
				if conn == nil {
					if conn, err = dialWithToken(client, m.Public(service)); err != nil {
						a.broken.Add(1)
						conn = nil
						continue
					}
					a.connections.Add(1)
				}
				status, err := conn.get(path, headers()...)
				switch a.requests.Add(1); {
				case err != nil:
					a.broken.Add(1)
					conn.conn.Close()
					conn = nil
				case status != http.StatusOK:
					a.refused.Add(1)
				}
			}
		})
	}
	return a, func() { close(end); wait.Wait() }
}

// settle waits until a service's Envoy has all that is said.
func settle(t *testing.T, m *meshtest.Mesh, service string) {
	t.Helper()
	time.Sleep(150 * time.Millisecond)
	meshtest.Await(t, service+" is in sync", func() error {
		for _, p := range m.Status().Proxies {
			if p.Instance == service && !p.InSync {
				return fmt.Errorf("%v", p)
			}
		}
		return nil
	})
}

// TestTokensChange: whatever changes about who issues tokens and who asks for them, a request with a token that is good before and after is
// answered, on the connections that there are.
func TestTokensChange(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) { tokensChange(t, envoy) })
	}
}

func tokensChange(t *testing.T, envoy string) {
	t.Helper()
	okta, corp := newSigner(t, "https://okta.example", "k1", jose.ES256), newSigner(t, "https://corp.example", "c1", jose.RS256)
	next := newSigner(t, okta.issuer, "k2", jose.ES256)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	providers := []func(){
		func() { provide(m, "okta", okta.issuer, "Audiences = [\"mesh\", \"other\"]\n"+local(okta.set)) },
		func() { provide(m, "okta", okta.issuer, "Audiences = [\"mesh\"]\n"+local(both(t, okta, next))) },
		func() { provide(m, "okta", okta.issuer, "ClockSkewSeconds = 90\n"+local(okta.set)) },
		func() {
			provide(m, "okta", okta.issuer, "CacheConfig { Size = 50 }\nForwarding { HeaderName = \"x-payload\" }\n"+local(both(t, next, okta)))
		},
	}
	web := func(rest string) string { return "Sources {\n Name = \"web\"\n" + rest + "}\n" }
	allow := web(" Action = \"allow\"\n")
	intentions := []func(){
		func() { intend(m, "api", allow) },
		func() { intend(m, "api", needs("okta")+allow) },
		func() { intend(m, "api", needs("corp")+allow) },
		func() { intend(m, "api", needs("corp", "okta role=admin")+allow) },
		func() {
			intend(m, "api", web(permission("allow", `PathPrefix = "/"`, needs("okta role=admin"))))
		},
		func() {
			intend(m, "api", needs("okta")+web(permission("deny", `PathPrefix = "/x"`, "")+permission("allow", `PathPrefix = "/"`, needs("corp"))))
		},
	}
	provide(m, "corp", corp.issuer, "Locations { Header { Name = \"x-corp\" } }\n"+local(corp.set))
	providers[0]()
	intentions[0]()
	m.Serve()
	cars := m.Sidecars("api")
	same := unmodified(t, cars...)
	good := []string{"Authorization: Bearer " + okta.token(claims{"role": "admin"}), "x-corp: " + corp.token(nil)}
	load, stop := tokenLoad(m, "web", "api", "/a", func() []string { return good })
	changes := 0
	for n := range 36 {
		if n%3 == 0 {
			providers[(n/3)%len(providers)]()
		} else {
			// Who is let in by other permissions waits until that is recorded, and nothing of it counts meanwhile: so each goes by way of all.
			asks := intentions[0]
			if n%3 == 1 {
				asks = intentions[1+(n/3)%(len(intentions)-1)]
			}
			asks()
		}
		changes++
		settle(t, m, "api")
	}
	stop()
	same("changes of tokens")
	figure(t, "changes=%d requests=%d refused=%d broken=%d connections=%d", changes, load.requests.Load(), load.refused.Load(), load.broken.Load(), load.connections.Load())
	if load.requests.Load() == 0 || load.refused.Load()+load.broken.Load() != 0 || load.connections.Load() != 4 {
		t.Errorf("%d requests, %d refused, %d broken, on %d connections", load.requests.Load(), load.refused.Load(), load.broken.Load(), load.connections.Load())
	}
}

// both is the set of the keys of several signers.
func both(t *testing.T, all ...*signer) string {
	t.Helper()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, s := range all {
		one := set
		one.Keys = nil
		if err := json.Unmarshal([]byte(s.set), &one); err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, one.Keys...)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keyServer is where a provider publishes its keys.
type keyServer struct {
	keys  atomic.Value
	asked atomic.Int64
	ca    string
	addr  string
	*http.Server
}

func (k *keyServer) start(t *testing.T, config *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", k.addr)
	if err != nil {
		t.Fatal(err)
	}
	k.addr = l.Addr().String()
	k.Server = &http.Server{TLSConfig: config, ReadHeaderTimeout: time.Second, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		k.asked.Add(1)
		_, _ = io.WriteString(w, k.keys.Load().(string)) //nolint:forcetypeassert // it is a string
	})}
	go func() { _ = k.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = k.Close() })
}

// TestTokensRemote: keys that are asked for are followed; while their server is away nothing is refused that was not before, whatever else
// changes, and neither is after a restart of the control plane. Before there are any, who needs a token is denied and nobody else.
func TestTokensRemote(t *testing.T) {
	t.Parallel()
	ca := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "idp ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	leaf := testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "idp"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}}}
	okta := newSigner(t, "https://okta.example", "k1", jose.ES256)
	next := newSigner(t, okta.issuer, "k2", jose.ES256)
	reserved := httptest.NewUnstartedServer(nil) // an address where nobody listens yet
	idp := &keyServer{ca: string(ca.PEM()), addr: reserved.Listener.Addr().String()}
	reserved.Listener.Close()
	idp.keys.Store(okta.set)
	root := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(root, []byte(idp.ca), 0o600); err != nil {
		t.Fatal(err)
	}
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--jwks-from-this-machine"}})
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	remote := func(more string) {
		provide(m, "okta", okta.issuer, more+fmt.Sprintf("JSONWebKeySet {\n Remote {\n  URI = \"https://%s/keys\"\n  CacheDuration = \"10s\"\n  JWKSCluster { TLSCertificates { TrustedCA { Filename = %q } } }\n }\n}\n", idp.addr, root))
	}
	remote("")
	intend(m, "api", "Sources {\n Name = \"web\"\n"+permission("allow", `PathPrefix = "/a"`, needs("okta"))+permission("allow", `PathPrefix = "/open"`, "")+"}\n")
	m.Serve()
	cars := m.Sidecars("api")
	same := unmodified(t, cars...)
	ask := func(path string, s *signer) int {
		a, err := dialWithToken(m.Client("web", "api"), m.Public("api"))
		if err != nil {
			t.Fatal(err)
		}
		defer a.conn.Close()
		status, err := a.get(path, "Authorization: Bearer "+s.token(nil))
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	await := func(what string, s *signer, want int) time.Duration {
		t.Helper()
		return meshtest.Await(t, what, func() error {
			if got := ask("/a", s); got != want {
				return fmt.Errorf("%d, want %d", got, want)
			}
			return nil
		})
	}
	if a, b := ask("/a", okta), ask("/open", okta); a != http.StatusForbidden || b != http.StatusOK {
		t.Errorf("without keys: %d and %d, want 403 and 200", a, b)
	}
	if keys := m.Status().TokenKeys; len(keys) != 1 || keys[0].Keys != 0 || keys[0].Problem == "" {
		t.Errorf("the status says %+v", keys)
	}
	idp.start(t, config)
	first := await("the first keys", okta, http.StatusOK)
	idp.keys.Store(both(t, okta, next))
	second := await("a new key", next, http.StatusOK)
	token := []string{"Authorization: Bearer " + okta.token(nil)}
	load, stop := tokenLoad(m, "web", "api", "/a", func() []string { return token })
	_ = idp.Close()
	for _, more := range []string{"ClockSkewSeconds = 90\n", "Audiences = [\"mesh\"]\n", "CacheConfig { Size = 10 }\n", ""} {
		remote(more)
		settle(t, m, "api")
	}
	m.StopServe()
	m.Serve()
	settle(t, m, "api")
	time.Sleep(time.Second)
	for _, s := range []*signer{okta, next} {
		if got := ask("/a", s); got != http.StatusOK {
			t.Errorf("after a restart while the keys' server is away: %d", got)
		}
	}
	stop()
	idp.keys.Store(next.set)
	idp.start(t, config)
	third := await("a key that is gone", okta, http.StatusForbidden)
	same("keys that are asked for")
	figure(t, "first_ms=%.0f new_key_ms=%.0f gone_ms=%.0f requests=%d refused=%d broken=%d connections=%d asked=%d", millis(first), millis(second), millis(third),
		load.requests.Load(), load.refused.Load(), load.broken.Load(), load.connections.Load(), idp.asked.Load())
	if load.requests.Load() == 0 || load.refused.Load()+load.broken.Load() != 0 || load.connections.Load() != 4 {
		t.Errorf("%d requests, %d refused, %d broken, on %d connections", load.requests.Load(), load.refused.Load(), load.broken.Load(), load.connections.Load())
	}
}
