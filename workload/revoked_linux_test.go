package workload_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
)

// TestRevokedIdentity: a process loses the identity that is revoked, on a stream that is open too, its tokens are nobody's, and both
// come back with it.
func TestRevokedIdentity(t *testing.T) {
	h := start(t, time.Hour, withJWT(t))
	registered := []catalog.Registration{instance("web", "web", fmt.Sprintf("unix:uid:%d", webUID))}
	revoke := func(ids ...string) {
		m := catalogtest.Mesh{Mesh: catalog.Mesh{TrustDomain: domain, Datacenter: "dc1", Datacenters: []string{"dc1"}}, Registrations: registered}
		contents := m.Contents()
		var all []intention.Revocation
		for _, id := range ids {
			all = append(all, intention.Revocation{ID: id})
		}
		contents.Revoked = intention.Revoke(all)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.view = h.view.Next(contents)
		h.views.Set(h.view)
	}
	h.publish(registered...)
	client := h.client(t, webUID)
	api := workloadpb.NewSpiffeWorkloadAPIClient(client)
	svids := fetch(t, client)
	if _, err := svids.Recv(); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.FetchJWTSVID(asked(t), &workloadpb.JWTSVIDRequest{Audience: []string{"mail"}})
	if err != nil {
		t.Fatal(err)
	}
	valid := func() error {
		_, err := api.ValidateJWTSVID(asked(t), &workloadpb.ValidateJWTSVIDRequest{Audience: "mail", Svid: tokens.GetSvids()[0].GetSvid()})
		return err
	}
	if err := valid(); err != nil {
		t.Fatal(err)
	}
	revoke(uri("web"), "spiffe://td-b.example/x")
	_, err = svids.Recv()
	wantStatus(t, err, codes.PermissionDenied)
	_, err = api.FetchJWTSVID(asked(t), &workloadpb.JWTSVIDRequest{Audience: []string{"mail"}})
	wantStatus(t, err, codes.PermissionDenied)
	wantStatus(t, valid(), codes.InvalidArgument, "is revoked")
	revoke(uri("api"))
	if err := valid(); err != nil {
		t.Error(err)
	}
	if _, err := fetch(t, client).Recv(); err != nil {
		t.Error(err)
	}
}
