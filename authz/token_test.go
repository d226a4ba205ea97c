package authz_test

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestTokens: what Envoy says of verified tokens counts under the provider that has issued them, and only as long as keys of that are known.
func TestTokens(t *testing.T) {
	api := identity.NewName("api")
	i := intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Destination: api, Action: intention.Allow}
	if err := i.Ask(nil, intention.NewTokens([]intention.TokenRequirement{{Provider: "p", Claims: []intention.Claim{{Path: []string{"role"}, Value: "admin"}}}, {Provider: "q"}})); err != nil {
		t.Fatal(err)
	}
	mesh := contents(scope(intention.Deny), api, []intention.Intention{i})
	mesh.Proxies[0].Inbound.Protocol = catalog.HTTP
	mesh.TokenProviders = []catalog.TokenProvider{{Name: "p", Issuer: "https://p", Keys: "keys"}, {Name: "q", Issuer: "https://q"}}
	s := newServer(t, authz.Config{Views: published(scope(intention.Deny), mesh), Authorize: known})
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	for metadata, want := range map[string]intention.Action{
		`{}`: intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"iss": "https://p", "role": "admin"}}}}`:                       intention.Allow,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"iss": "https://p", "role": ["x", "admin"]}}}}`:                intention.Allow,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"iss": "https://p", "role": "user"}}}}`:                        intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"iss": "https://other", "role": "admin"}}}}`:                   intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"role": "admin"}}}}`:                                           intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": {"iss": ["https://p"], "role": "admin"}}}}`:                     intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_p": "https://p"}}}`:                                                 intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"p": {"iss": "https://p", "role": "admin"}}}}`:                                   intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.lua": {"jwt_payload_p": {"iss": "https://p", "role": "admin"}}}}`:                             intention.Deny,
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_q": {"iss": "https://q"}}}}`:                                        intention.Deny, // no keys
		`{"filterMetadata": {"envoy.filters.http.jwt_authn": {"jwt_payload_q": {"iss": "https://q"}, "jwt_payload_p": {"iss": "https://p"}}}}`: intention.Deny,
	} {
		req := request("http", uri("web"), certificate, "api")
		m := &corev3.Metadata{}
		if err := protojson.Unmarshal([]byte(metadata), m); err != nil {
			t.Fatal(err)
		}
		req.Attributes.MetadataContext = m
		resp, err := s.Check(call(t.Context(), "api"), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := answer(t, resp, "http"); got != want {
			t.Errorf("%s: %s (%s), want %s", metadata, got, resp.GetStatus().GetMessage(), want)
		}
	}
}
