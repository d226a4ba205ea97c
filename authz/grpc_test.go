package authz_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// TestCallers asks over gRPC, with tokens: whoever is not the proxy that the question is about
// learns nothing.
func TestCallers(t *testing.T) {
	issuer, err := token.Open(token.Config{File: filepath.Join(t.TempDir(), "token.key"), TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	store := &catalog.Store{}
	c := contents(scope(intention.Deny), identity.NewName("api"), someIntentions())
	c.Proxies = append(c.Proxies, catalog.Proxy{ID: "db-sidecar-proxy", Service: identity.NewName("db")})
	store.Publish(c.Contents())
	client := dial(t, newServer(t, authz.Config{Views: &store.Views, Authorize: token.Authorizer{Authority: issuer}.Call}))
	of := func(s token.Subject) string {
		m, err := issuer.Mint(s, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + m.Text
	}
	mint := func(p identity.ProxyID) string {
		s := token.Subject{Proxy: p, Service: identity.NewName("api")}
		if p == "db-sidecar-proxy" {
			s.Service = identity.NewName("db")
		}
		return of(s)
	}
	req := request("tcp", uri("web"), newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}}), "api")
	tests := map[string]struct {
		headers []string
		code    codes.Code // of the call
		answer  intention.Action
	}{
		"the proxy itself":                  {headers: []string{"authorization", mint(proxyID), identity.ProxyHeader, proxyID, identity.DestinationHeader, "api"}, answer: intention.Allow},
		"the proxy, which names itself not": {headers: []string{"authorization", mint(proxyID), identity.DestinationHeader, "api"}, answer: intention.Allow},
		"the proxy about another service":   {headers: []string{"authorization", mint(proxyID), identity.ProxyHeader, proxyID, identity.DestinationHeader, "db"}},
		"nobody":                            {headers: []string{identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
		"somebody with a word for a token":  {headers: []string{"authorization", "Bearer x", identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
		"another proxy":                     {headers: []string{"authorization", mint("db-sidecar-proxy"), identity.DestinationHeader, "api"}},
		"another proxy by this one's name":  {headers: []string{"authorization", mint("db-sidecar-proxy"), identity.ProxyHeader, proxyID, identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
		"another proxy, about itself":       {headers: []string{"authorization", mint("db-sidecar-proxy"), identity.DestinationHeader, "db"}},
		"a proxy that is not there":         {headers: []string{"authorization", mint("gone"), identity.DestinationHeader, "api"}},
		"made for another service's proxy":  {headers: []string{"authorization", of(token.Subject{Proxy: proxyID, Service: identity.NewName("db")}), identity.ProxyHeader, proxyID, identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
		"made for another user's proxy":     {headers: []string{"authorization", of(token.Subject{Proxy: proxyID, Service: identity.NewName("api"), UID: 1000}), identity.ProxyHeader, proxyID, identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
		"two proxies at once":               {headers: []string{"authorization", mint(proxyID), "authorization", mint("db-sidecar-proxy"), identity.DestinationHeader, "api"}, code: codes.Unauthenticated},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), test.headers...), 30*time.Second)
			defer cancel()
			resp, err := client.Check(ctx, req)
			if status.Code(err) != test.code {
				t.Fatalf("Check: %v, want %s", err, test.code)
			}
			if err == nil && answer(t, resp, "tcp") != test.answer {
				t.Errorf("Check = %s, want %s", resp.GetStatus(), test.answer)
			}
		})
	}
}

// dial serves s in this process, and ends with the test.
func dial(t testing.TB, s *authz.Server) authv3.AuthorizationClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	s.Register(server)
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///authz", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return authv3.NewAuthorizationClient(conn)
}

// BenchmarkCall is a decision with the transport, as one Envoy sees it that has one question at a
// time.
func BenchmarkCall(b *testing.B) {
	client := dial(b, newServer(b, authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), someIntentions()), Authorize: known}))
	ctx := metadata.AppendToOutgoingContext(b.Context(), identity.ProxyHeader, proxyID, identity.DestinationHeader, "api")
	req := request("http", uri("web"), newIssuer(b).certificate(b, decisiontable.Peer{URIs: []string{uri("web")}}), "api")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Check(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}
