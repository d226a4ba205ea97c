package snapshot_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/rbactest"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const keySet = `{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func issuer(name string) *catalog.TokenProvider {
	return &catalog.TokenProvider{Name: name, Issuer: "https://" + name, Keys: keySet, ClockSkew: 30 * time.Second, Places: []catalog.TokenPlace{{Name: "x-" + name}}}
}

// verifies is what fills the slot of the filter that verifies tokens.
func verifies(t *testing.T, in catalog.Inbound, providers ...*catalog.TokenProvider) *jwtv3.JwtAuthentication {
	t.Helper()
	i := input(compile("web", intention.Deny), in)
	i.Tokens = providers
	for _, r := range build(t, i).ByType["type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"] {
		if r.GetName() == "jwt/web" {
			config, filter := &corev3.TypedExtensionConfig{}, &jwtv3.JwtAuthentication{}
			if err := r.GetResource().UnmarshalTo(config); err != nil {
				t.Fatal(err)
			}
			if err := config.GetTypedConfig().UnmarshalTo(filter); err != nil {
				t.Fatal(err)
			}
			return filter
		}
	}
	return nil
}

// TestTokenSlot: the filter has the providers of which keys are known, says where a token is looked for, and lets everything pass.
func TestTokenSlot(t *testing.T) {
	http := catalog.Inbound{Protocol: catalog.HTTP}
	if f := verifies(t, catalog.Inbound{}, issuer("p")); f != nil {
		t.Errorf("of a service that speaks tcp: %v", f)
	}
	unusable, unknown := issuer("u"), issuer("v")
	unusable.Unusable, unknown.Keys = "it is wrong", ""
	if f := verifies(t, http, unusable, unknown); !proto.Equal(f, &jwtv3.JwtAuthentication{}) {
		t.Errorf("without keys: %v", f)
	}
	full := issuer("p")
	full.Audiences, full.Forward, full.PayloadHeader, full.PadPayload, full.CacheSize = []string{"a", "b"}, true, "x-payload", true, 7
	full.Places = append(full.Places, catalog.TokenPlace{Name: "authorization", Prefix: "Bearer "}, catalog.TokenPlace{In: catalog.InQuery, Name: "q"}, catalog.TokenPlace{In: catalog.InCookie, Name: "c"})
	want := &jwtv3.JwtAuthentication{}
	if err := protojson.Unmarshal([]byte(`{
		"providers": {
			"p": {"issuer": "https://p", "audiences": ["a", "b"], "forward": true, "forwardPayloadHeader": "x-payload", "padForwardPayloadHeader": true, "payloadInMetadata": "jwt_payload_p",
				"clockSkewSeconds": 30, "localJwks": {"inlineString": `+fmt.Sprintf("%q", keySet)+`}, "jwtCacheConfig": {"jwtCacheSize": 7},
				"fromHeaders": [{"name": "x-p"}, {"name": "authorization", "valuePrefix": "Bearer "}], "fromParams": ["q"], "fromCookies": ["c"]},
			"q": {"issuer": "https://q", "payloadInMetadata": "jwt_payload_q", "clockSkewSeconds": 30, "localJwks": {"inlineString": `+fmt.Sprintf("%q", keySet)+`}, "fromHeaders": [{"name": "x-q"}]}
		},
		"rules": [{"match": {"prefix": "/"}, "requires": {"requiresAll": {"requirements": [
			{"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissingOrFailed": {}}]}},
			{"requiresAny": {"requirements": [{"providerName": "q"}, {"allowMissingOrFailed": {}}]}}
		]}}}]}`), want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(protojson.Format(want), protojson.Format(verifies(t, http, full, unknown, issuer("q")))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if f := verifies(t, http, issuer("q")); f.GetRules()[0].GetRequires().GetRequiresAny() == nil {
		t.Errorf("of one provider: %v", f)
	}
}

// FuzzTokens makes random intentions that ask for tokens, and requests with random ones: the rules have to say what Decide says, but of a
// provider without keys no token counts, whatever comes.
func FuzzTokens(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 7))
		pick := func(of ...string) string { return of[r.IntN(len(of))] }
		values := []string{"a", "b", "7", "true", ""}
		requirements := func() (list []intention.TokenRequirement) {
			for range r.IntN(3) {
				n := intention.TokenRequirement{Provider: pick("p", "q", "without")}
				for range r.IntN(3) {
					c := intention.Claim{Value: pick(values...)}
					for range r.IntN(3) {
						c.Path = append(c.Path, pick("x", "y"))
					}
					n.Claims = append(n.Claims, c)
				}
				list = append(list, n)
			}
			return list
		}
		var value func(depth int) any
		value = func(depth int) any {
			switch n := r.IntN(8); {
			case n == 0:
				return 7.0
			case n == 1:
				return r.IntN(2) == 0
			case n == 2 && depth > 0:
				return []any{value(0), value(depth - 1)}
			case n < 6 && depth > 0:
				return map[string]any{"x": value(depth - 1), "y": value(depth - 1)}
			case n == 6:
				return nil
			}
			return pick(values...)
		}
		i := from("web", intention.Action(r.IntN(2)))
		var list []intention.Permission
		for range r.IntN(4) {
			list = append(list, intention.Permission{Action: intention.Action(r.IntN(2)), PathPrefix: pick("/", "/a", "/b", ""), JWT: requirements()})
		}
		if list != nil {
			i.Action = intention.Deny
		}
		if err := i.Ask(list, intention.NewTokens(requirements())); err != nil {
			t.Fatal(err)
		}
		policy := compile("api", intention.Action(r.IntN(2)), i)
		in := input(policy, catalog.Inbound{Protocol: catalog.HTTP})
		without := issuer("without")
		without.Keys = ""
		in.Tokens = []*catalog.TokenProvider{issuer("p"), issuer("q"), without}
		m := rules(t, in, build(t, in))
		web := identity.Service{TrustDomain: in.Mesh.TrustDomain, Datacenter: "dc1", Name: identity.NewName("web")}
		for range 30 {
			path := pick("/", "/a", "/b", "/a/x", "//", "/c")
			all, good := map[string]map[string]any{}, map[string]map[string]any{}
			for _, name := range []string{"p", "q", "without"} {
				if r.IntN(2) == 0 {
					continue
				}
				claims := map[string]any{"iss": pick("https://"+name, "https://"+name, "https://"+name, "https://p", "x"), "x": value(2), "y": value(2)}
				if r.IntN(20) == 0 {
					delete(claims, "iss")
				}
				if all[name] = claims; name != "without" && claims["iss"] == "https://"+name {
					good[name] = claims
				}
			}
			got, by, err := rbactest.Decided(m, []string{web.String()}, &rbactest.Request{Method: "GET", Path: path, Tokens: all})
			if err != nil {
				t.Fatal(err)
			}
			d := policy.DecideRequestID(identity.ID(web.String()), &intention.Request{Method: "GET", Path: path, Tokens: good})
			if got != d.Allowed() {
				t.Fatalf("seed %d: rules allow %s with %v = %v by %q, Decide says %s", seed, path, all, got, by, d)
			}
			if !got && strings.HasSuffix(by, "#token") && d.Reason != intention.ByToken {
				t.Errorf("seed %d: denied by %q, and Decide says %v", seed, by, d.Reason)
			}
		}
	})
}
