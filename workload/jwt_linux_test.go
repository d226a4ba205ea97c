package workload_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sallyport/sallyport/workload"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
)

// withJWT gives the server a key of JWT-SVIDs.
func withJWT(t testing.TB) func(*workload.Config) {
	t.Helper()
	key, err := workload.OpenJWTKeys(filepath.Join(t.TempDir(), "jwt-svid.key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *workload.Config) { c.JWT = key }
}

// TestJWT: go-spiffe's source gets a JWT-SVID, another validates it, and what is not right is refused.
func TestJWT(t *testing.T) {
	h := start(t, time.Hour, withJWT(t))
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web", "web", web), instance("api", "api", web), instance("other", "other", fmt.Sprintf("unix:uid:%d", otherUID)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	options := func(uid int) workloadapi.SourceOption {
		return workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.socket), workloadapi.WithDialOptions(h.dialOptions(uid)...))
	}
	source, err := workloadapi.NewJWTSource(ctx, options(webUID))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svids, err := source.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: "mail", ExtraAudiences: []string{"post"}})
	if err != nil || len(svids) != 2 || svids[0].ID.String() != uri("api") || svids[1].ID.String() != uri("web") {
		t.Fatalf("%v, %v", svids, err)
	}
	one, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "mail", Subject: spiffeid.RequireFromString(uri("web"))})
	if err != nil || one.ID.String() != uri("web") {
		t.Fatalf("%v, %v", one, err)
	}
	if life := time.Until(one.Expiry); life < 4*time.Minute || life > 5*time.Minute {
		t.Errorf("it lives %v", life)
	}
	if _, err := jwtsvid.ParseAndValidate(one.Marshal(), source, []string{"mail"}); err != nil {
		t.Errorf("by the source's bundle: %v", err)
	}
	_, err = source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "mail", Subject: spiffeid.RequireFromString(uri("other"))})
	wantStatus(t, err, codes.PermissionDenied, "no identity issued")

	api := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, 12347)) // who is no service
	r, err := api.ValidateJWTSVID(asked(t), &workloadpb.ValidateJWTSVIDRequest{Audience: "post", Svid: svids[0].Marshal()})
	if err != nil || r.GetSpiffeId() != uri("api") || r.GetClaims().GetFields()["sub"].GetStringValue() != uri("api") {
		t.Errorf("%v, %v", r, err)
	}
	foreign := forge(t, uri("web"))
	none := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + strings.Split(one.Marshal(), ".")[1] + "."
	for name, r := range map[string]*workloadpb.ValidateJWTSVIDRequest{
		"another audience": {Audience: "web", Svid: one.Marshal()},
		"no audience":      {Svid: one.Marshal()},
		"no SVID":          {Audience: "mail"},
		"cut off":          {Audience: "mail", Svid: one.Marshal()[:len(one.Marshal())-5]},
		"alg none":         {Audience: "mail", Svid: none},
		"another key":      {Audience: "mail", Svid: foreign},
		"long":             {Audience: "mail", Svid: strings.Repeat("a", 20<<10)},
	} {
		if r, err := api.ValidateJWTSVID(asked(t), r); err == nil {
			t.Errorf("%s: %v", name, r)
		} else {
			wantStatus(t, err, codes.InvalidArgument)
		}
	}
	_, err = api.FetchJWTSVID(asked(t), &workloadpb.JWTSVIDRequest{Audience: []string{"mail"}})
	wantStatus(t, err, codes.PermissionDenied, "no identity issued")
	mine := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, webUID))
	for _, r := range []*workloadpb.JWTSVIDRequest{{}, {Audience: []string{""}}, {Audience: []string{"a"}, SpiffeId: "web"}, {Audience: make([]string, 100)}, {Audience: []string{strings.Repeat("a", 2000)}}} {
		_, err = mine.FetchJWTSVID(asked(t), r)
		wantStatus(t, err, codes.InvalidArgument)
	}
}

// forge signs a JWT with a key of its own.
func forge(t *testing.T, subject string) (text string) {
	t.Helper()
	key, err := workload.OpenJWTKeys(filepath.Join(t.TempDir(), "key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key.Private(), KeyID: key.ID()}}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	text, err = jwt.Signed(signer).Claims(jwt.Claims{Subject: subject, Audience: []string{"mail"}, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute))}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestJWTExpires: one that has ended is none, nor is one of another trust domain, of whichever key.
func TestJWTExpires(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jwt-svid.key")
	key, err := workload.OpenJWTKeys(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, time.Hour, func(c *workload.Config) { c.JWT = key })
	h.publish()
	api := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, webUID))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key.Private(), KeyID: key.ID()}}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct {
		subject string
		life    time.Duration
		want    codes.Code
	}{
		"good":             {uri("web"), time.Minute, codes.OK},
		"ended":            {uri("web"), -10 * time.Minute, codes.InvalidArgument},
		"of another mesh":  {"spiffe://other.consul/ns/default/dc/dc1/svc/web", time.Minute, codes.InvalidArgument},
		"not of a service": {domain.IDString() + "/agent/client/dc/dc1/id/a", time.Minute, codes.InvalidArgument},
	} {
		text, err := jwt.Signed(signer).Claims(jwt.Claims{Subject: o.subject, Audience: []string{"mail"}, Expiry: jwt.NewNumericDate(time.Now().Add(o.life))}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			_, err := api.ValidateJWTSVID(asked(t), &workloadpb.ValidateJWTSVIDRequest{Audience: "mail", Svid: text})
			wantStatus(t, err, o.want)
		})
	}
}

// TestWithoutJWT: go-spiffe's sources start, and what needs a key is not implemented.
func TestWithoutJWT(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	options := workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.socket), workloadapi.WithDialOptions(h.dialOptions(webUID)...))
	bundles, err := workloadapi.NewBundleSource(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer bundles.Close()
	if b, err := bundles.GetJWTBundleForTrustDomain(domain); err != nil || len(b.JWTAuthorities()) != 0 {
		t.Errorf("%v, %v", b, err)
	}
	if b, err := bundles.GetX509BundleForTrustDomain(domain); err != nil || len(b.X509Authorities()) != 1 {
		t.Errorf("%v, %v", b, err)
	}
	source, err := workloadapi.NewJWTSource(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	_, err = source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "mail"})
	wantStatus(t, err, codes.Unimplemented)
	_, err = workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, webUID)).ValidateJWTSVID(asked(t), &workloadpb.ValidateJWTSVIDRequest{Audience: "a", Svid: "a"})
	wantStatus(t, err, codes.Unimplemented)
	wit, err := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, webUID)).FetchWITBundles(asked(t), &workloadpb.WITBundlesRequest{})
	if err == nil {
		_, err = wit.Recv()
	}
	wantStatus(t, err, codes.Unimplemented)
}

// TestJWTBundle holds the form of the bundle: SPIFFE's use, one key ID.
func TestJWTBundle(t *testing.T) {
	h := start(t, time.Hour, withJWT(t))
	h.publish()
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, webUID)).FetchJWTBundles(asked(t), &workloadpb.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Keys []map[string]string }
	if err := json.Unmarshal(m.GetBundles()[domain.IDString()], &keys); err != nil || len(keys.Keys) != 1 {
		t.Fatalf("%s: %v", m, err)
	}
	k := keys.Keys[0]
	if k["use"] != "jwt-svid" || k["kty"] != "EC" || k["crv"] != "P-256" || k["kid"] == "" || k["d"] != "" {
		t.Errorf("%v", k)
	}
}

// TestJWTKeyFile: it stays the same, and is not taken if somebody else may have it or it is damaged.
func TestJWTKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jwt-svid.key")
	key, err := workload.OpenJWTKeys(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := workload.OpenJWTKeys(file, nil); err != nil || again.ID() != key.ID() {
		t.Fatalf("%v, %v", again, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if printed := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(printed, "ecdsa") || len(printed) > 200 {
		t.Errorf("it is printed: %s", printed)
	}
	other := filepath.Join(t.TempDir(), "other")
	if _, err := workload.OpenJWTKeys(other, nil); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Index(string(text), "-----BEGIN PUBLIC")
	for name, damaged := range map[string]string{
		"empty": "", "half": string(text[:half]), "two keys": string(text[:half]) + string(foreign[strings.Index(string(foreign), "-----BEGIN PUBLIC"):]),
		"more": string(text) + "x", "long": strings.Repeat("x", 20<<10),
	} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := workload.OpenJWTKeys(file, nil); err == nil || !strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if k, err := workload.OpenJWTKeys(file, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("mode 0640: %v, %v", k, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if k, err := workload.OpenJWTKeys(link, nil); err == nil {
		t.Errorf("a link: %v", k)
	}
}
