package definition

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

// keySet has one key of Ed25519 (RFC 8037, A.2).
const keySet = `{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

// readProvider reads a jwt-provider entry in JSON, in which KEYS stands for keySet in base64.
func readProvider(t *testing.T, lenient bool, text string) (p *catalog.TokenProvider, ok bool, said []string) {
	t.Helper()
	n := &Node{}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(text, "KEYS", base64.StdEncoding.EncodeToString([]byte(keySet)))), n); err != nil {
		t.Fatal(err)
	}
	r := Reader{Lenient: lenient, Report: func(m Mistake) { said = append(said, m.Text) }}
	d := r.Decoder(n, "jwt-provider")
	d.Weak = true
	d.Drop("Kind")
	p, ok = d.TokenProvider("/etc/mesh")
	p.Origin = ""
	return p, ok, said
}

func TestTokenProvider(t *testing.T) {
	places := []catalog.TokenPlace{{Name: "authorization", Prefix: "Bearer "}, {In: catalog.InQuery, Name: "access_token"}}
	for name, test := range map[string]struct {
		text string
		want catalog.TokenProvider
	}{
		"least": {
			`{"Kind": "jwt-provider", "Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": "KEYS"}}}`,
			catalog.TokenProvider{Name: "p", Issuer: "i", Keys: keySet, Places: places, ClockSkew: 30 * time.Second},
		},
		"all": {
			`{"Name": "p", "Issuer": "i", "Audiences": ["a", "b"], "JSONWebKeySet": {"Remote": {"URI": "https://idp.example/keys?x=1", "RequestTimeoutMs": 500, "CacheDuration": "30m",
				"FetchAsynchronously": true, "RetryPolicy": {"NumRetries": 2, "RetryPolicyBackOff": {"BaseInterval": 1000000000, "MaxInterval": "5s"}},
				"JWKSCluster": {"DiscoveryType": "STRICT_DNS", "ConnectTimeout": "5s", "TLSCertificates": {"TrustedCA": {"Filename": "ca.pem"}}}}},
				"Locations": [{"Header": {"Name": "X-Jwt", "ValuePrefix": "P ", "Forward": true}}, {"QueryParam": {"Name": "q"}}, {"Cookie": {"Name": "c"}}],
				"Forwarding": {"HeaderName": "X-Payload", "PadForwardPayloadHeader": true}, "ClockSkewSeconds": 10, "CacheConfig": {"Size": 7}}`,
			catalog.TokenProvider{
				Name: "p", Issuer: "i", Audiences: []string{"a", "b"}, ClockSkew: 10 * time.Second, CacheSize: 7, Forward: true, PayloadHeader: "x-payload", PadPayload: true,
				From:   catalog.KeySource{URI: "https://idp.example/keys?x=1", CAFile: "/etc/mesh/ca.pem", Period: 30 * time.Minute, Timeout: 500 * time.Millisecond, Retries: 2},
				Places: []catalog.TokenPlace{{Name: "x-jwt", Prefix: "P "}, {In: catalog.InQuery, Name: "q"}, {In: catalog.InCookie, Name: "c"}},
			},
		},
		"a root in it": {
			`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Remote": {"URI": "https://x", "JWKSCluster": {"TLSCertificates": {"TrustedCA": {"InlineBytes": "cGVt"}}}}}}`,
			catalog.TokenProvider{Name: "p", Issuer: "i", Places: places, ClockSkew: 30 * time.Second, From: catalog.KeySource{URI: "https://x", CA: "pem"}},
		},
		"a file": {
			`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"Filename": "keys.json"}}}`,
			catalog.TokenProvider{Name: "p", Issuer: "i", Places: places, ClockSkew: 30 * time.Second, From: catalog.KeySource{File: "/etc/mesh/keys.json"}},
		},
	} {
		p, ok, said := readProvider(t, false, test.text)
		if !ok || len(said) > 0 {
			t.Errorf("%s: %q", name, said)
		}
		if diff := cmp.Diff(&test.want, p); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// TestTokenProviderMistakes: what Consul refuses is refused in its words, and what it takes and no Envoy can do is, too. With each of them
// no token of the provider counts.
func TestTokenProviderMistakes(t *testing.T) {
	local := `"JSONWebKeySet": {"Local": {"JWKS": "KEYS"}}`
	remote := func(rest string) string {
		return `{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Remote": {"URI": "https://x"` + rest + `}}}`
	}
	with := func(rest string) string { return `{"Name": "p", "Issuer": "i", ` + local + rest + `}` }
	keys := func(set string) string {
		return `{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": "` + base64.StdEncoding.EncodeToString([]byte(set)) + `"}}}`
	}
	for _, test := range []struct{ text, want string }{
		// Consul's
		{`{"Name": "p", "Issuer": "i"}`, "JSONWebKeySet is required"},
		{`{"Issuer": "i", ` + local + `}`, "jwt-provider has no Name"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {}}`, "must specify exactly one of Local or Remote JSON Web key set"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": "KEYS"}, "Remote": {"URI": "https://x"}}}`, "must specify exactly one of Local or Remote JSON Web key set"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": "{}"}}}`, "JWKS must be valid base64 encoded string"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {}}}`, "must specify exactly one of String or filename for local keyset"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": "KEYS", "Filename": "x"}}}`, "must specify exactly one of String or filename for local keyset"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Remote": {"CacheDuration": "5m"}}}`, "Remote JWKS URI is required"},
		{`{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Remote": {"URI": "::bad"}}}`, `Remote JWKS URI is invalid: parse "::bad": missing protocol scheme`},
		{remote(`, "RetryPolicy": {"RetryPolicyBackOff": {"BaseInterval": "1s", "MaxInterval": "500ms"}}`), "retry policy backoff's MaxInterval should be greater or equal to BaseInterval"},
		{remote(`, "JWKSCluster": {"DiscoveryType": "foo"}`), `unsupported jwks cluster discovery type: "foo"`},
		{remote(`, "JWKSCluster": {"TLSCertificates": {"Other": 1}}`), "must specify exactly one of: CaCertificateProviderInstance or TrustedCA for JKWS' TLSCertificates"},
		{remote(`, "JWKSCluster": {"TLSCertificates": {"TrustedCA": {"Filename": "x", "InlineString": "y"}}}`), "must specify exactly one of: Filename, EnvironmentVariable, InlineString or InlineBytes for JWKS' TrustedCA"},
		{with(`, "Locations": [{}]`), "must set exactly one of: JWT location header, query param or cookie"},
		{with(`, "Locations": [{"Header": {"Name": "a"}, "Cookie": {"Name": "b"}}]`), "must set exactly one of: JWT location header, query param or cookie"},
		{with(`, "Locations": [{"Header": {"ValuePrefix": "a"}}]`), "JWT location header name must be specified"},
		{with(`, "Locations": [{"QueryParam": {"x": 1}}]`), "JWT location query param name must be specified"},
		{with(`, "Locations": [{"Cookie": {"x": 1}}]`), "JWT location cookie name must be specified"},
		{with(`, "Forwarding": {"PadForwardPayloadHeader": true}`), "Header name required for forwarding config"},
		// what Consul takes
		{`{"Name": "p", ` + local + `}`, "jwt-provider has no Issuer"},
		{`{"Name": "a\nb", "Issuer": "i", ` + local + `}`, "control characters"},
		{keys("x"), "JWKS cannot be used: it is no JSON Web Key Set"},
		{keys(`{"keys":[]}`), "no key that verifies a signature"},
		{keys(`{"keys":[{"kty":"oct","k":"AA"}]}`), "is symmetric"},
		{keys(strings.Replace(keySet, `"kty"`, `"d":"AA","kty"`, 1)), "private part"},
		{keys(strings.Replace(keySet, `[`, `[{"kty":"EC","crv":"P-256","alg":"none"},`, 1)), `alg "none"`},
		{strings.Replace(remote(""), "https", "http", 1), "is not https"},
		{strings.Replace(remote(""), "https://x", "https://u:p@x", 1), "user name"},
		{remote(`, "CacheDuration": "1s"`), "it must be 10s or more"},
		{remote(`, "JWKSCluster": {"TLSCertificates": {"TrustedCA": {"EnvironmentVariable": "X"}}}`), "Envoys' environments"},
		{remote(`, "JWKSCluster": {"TLSCertificates": {"CaCertificateProviderInstance": {"InstanceName": "X"}}}`), "Envoys' bootstraps"},
		{with(`, "Locations": [{"Header": {"Name": ":path"}}]`), "no header that a token can be in"},
		{with(`, "Locations": [{"Header": {"Name": "a", "Forward": true}}, {"Header": {"Name": "b"}}]`), "Forward has to be the same"},
		{with(`, "Forwarding": {"HeaderName": "content-length"}`), "no header that the application can be given"},
		{with(`, "ClockSkewSeconds": -5`), "it must be 0 to 86400"},
		{with(`, "CacheConfig": {"Size": -3}`), "it must be 0 to 10000"},
	} {
		for _, lenient := range []bool{false, true} {
			p, ok, said := readProvider(t, lenient, test.text)
			if ok || p.Known() || !strings.Contains(strings.Join(said, "\n"), test.want) {
				t.Errorf("lenient %v: ok %v, known %v, %q, want %q of %s", lenient, ok, p.Known(), said, test.want, test.text)
			}
			if lenient && p.Unusable == "" {
				t.Errorf("%s may be used", test.text)
			}
		}
	}
	// Files of proxies' machines are none of the control plane's beside Consul.
	if p, ok, said := readProvider(t, true, `{"Name": "p", "Issuer": "i", "JSONWebKeySet": {"Local": {"Filename": "/etc/passwd"}}}`); ok || p.From != (catalog.KeySource{}) || len(said) != 1 {
		t.Errorf("%v %+v %q", ok, p.From, said)
	}
}
