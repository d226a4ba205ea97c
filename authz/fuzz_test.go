package authz_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// FuzzCheck sends any bytes that are a request. None may make the server panic, and none may be
// answered with OK unless Decide allows the one identity that the request's certificate is about.
func FuzzCheck(f *testing.F) {
	ca := newIssuer(f)
	for _, peer := range []decisiontable.Peer{
		{URIs: []string{uri("web")}},
		{URIs: []string{uri("bad")}},
		{URIs: []string{uri("web"), uri("bad")}},
		{URIs: []string{uri("bad"), uri("web")}},
		{URIs: []string{"spiffe://" + trustDomain.Name() + "/agent/client/dc/dc1/id/n"}},
		{DNS: []string{uri("web")}},
		{Subject: uri("web")},
	} {
		for _, kind := range []string{"tcp", "http"} {
			text, err := proto.Marshal(request(kind, peer.Principal(), ca.certificate(f, peer), "api"))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text, "api")
		}
	}
	policy := catalogtest.Policy(identity.NewName("api"), someIntentions(), scope(intention.Deny))
	mesh := views(scope(intention.Deny), identity.NewName("api"), someIntentions())
	f.Fuzz(func(t *testing.T, text []byte, destination string) {
		req := &authv3.CheckRequest{}
		if proto.Unmarshal(text, req) != nil {
			return
		}
		// A server of its own for each input: what it remembers must not make one input's course
		// depend on another's.
		s := newServer(t, authz.Config{Views: mesh, Authorize: known})
		ctx := metadata.NewIncomingContext(context.Background(), metadata.MD{identity.DestinationHeader: {destination}})
		resp, err := s.Check(ctx, req)
		switch code := codes.Code(resp.GetStatus().GetCode()); {
		case err != nil:
			t.Fatalf("Check: %v", err)
		case resp.GetStatus() == nil:
			t.Fatal("a response without status, which Envoy takes for OK")
		case code == codes.OK:
			a := req.GetAttributes()
			if destination != "api" {
				t.Fatalf("Check allowed a call about %q", destination)
			}
			if id := certified(t, a.GetSource().GetCertificate()); id.String() != a.GetSource().GetPrincipal() || !policy.Decide(id).Allowed() {
				t.Fatalf("Check allowed %q with the certificate of %q", a.GetSource().GetPrincipal(), id)
			}
		case code != codes.PermissionDenied:
			t.Fatalf("Check answered %s", code)
		case resp.GetStatus().GetMessage() == "denied: internal error":
			t.Fatal("Check panicked")
		}
	})
}

// certified is the only identity in a certificate.
func certified(t *testing.T, certificate string) identity.Service {
	t.Helper()
	text, err := url.PathUnescape(certificate)
	if err != nil {
		t.Fatalf("Check allowed on a certificate that is not escaped: %v", err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("Check allowed on a certificate that is no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(cert.URIs) != 1 {
		t.Fatalf("Check allowed on a certificate with URIs %v: %v", cert.URIs, err)
	}
	id, err := identity.ParseURI(cert.URIs[0].String())
	if err != nil {
		t.Fatalf("Check allowed on a certificate of nobody: %v", err)
	}
	return id
}
