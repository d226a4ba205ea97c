package files_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
)

// keySet has one key of Ed25519 (RFC 8037, A.2).
var keySet = base64.StdEncoding.EncodeToString([]byte(`{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))

// provider is an entry in HCL with keys of its own; more are further lines of it.
func provider(name, more string) string {
	return entry("jwt-provider", name, "Issuer = \"https://idp\"\n"+more+"JSONWebKeySet { Local { JWKS = \""+keySet+"\" } }\n")
}

// TestTokenProviderTold: what Consul 1.19.2's API tells of such an entry is what is told of it here.
func TestTokenProviderTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, text, want string }{
		"all": {
			"p.json", `{"Kind":"jwt-provider","Name":"full","Issuer":"i","Audiences":["a"],"JSONWebKeySet":{"Remote":{"URI":"https://x/y","RequestTimeoutMs":500,"CacheDuration":"30m",` +
				`"FetchAsynchronously":true,"RetryPolicy":{"NumRetries":2,"RetryPolicyBackOff":{"BaseInterval":"1s","MaxInterval":"5s"}},"JWKSCluster":{"DiscoveryType":"STRICT_DNS","ConnectTimeout":"5s",` +
				`"TLSCertificates":{"TrustedCA":{"Filename":"/x"}}}}},"Locations":[{"Header":{"Name":"X-Jwt","ValuePrefix":"P ","Forward":true}},{"QueryParam":{"Name":"q"}},{"Cookie":{"Name":"c"}}],` +
				`"Forwarding":{"HeaderName":"x-payload","PadForwardPayloadHeader":true},"ClockSkewSeconds":10,"CacheConfig":{"Size":7},"Meta":{"a":"b"}}`,
			`{"JSONWebKeySet":{"Remote":{"URI":"https://x/y","RequestTimeoutMs":500,"CacheDuration":1800000000000,"FetchAsynchronously":true,"RetryPolicy":{"NumRetries":2,` +
				`"RetryPolicyBackOff":{"BaseInterval":1000000000,"MaxInterval":5000000000}},"JWKSCluster":{"DiscoveryType":"STRICT_DNS","TLSCertificates":{"TrustedCA":{"Filename":"/x"}},"ConnectTimeout":5000000000}}},` +
				`"Issuer":"i","Audiences":["a"],"Locations":[{"Header":{"Name":"X-Jwt","ValuePrefix":"P ","Forward":true}},{"QueryParam":{"Name":"q"}},{"Cookie":{"Name":"c"}}],` +
				`"Forwarding":{"HeaderName":"x-payload","PadForwardPayloadHeader":true},"ClockSkewSeconds":10,"CacheConfig":{"Size":7}}`,
		},
		"least": {"p.hcl", provider("p", ""), `{"Issuer":"https://idp","JSONWebKeySet":{"Local":{"JWKS":"` + keySet + `"}},"ClockSkewSeconds":30}`},
		"yaml, in other letters": {
			"p.yaml", "kind: jwt-provider\nname: p\nissuer: i\njson_web_key_set:\n  remote:\n    uri: https://x\n    cache_duration: 10m\nlocations:\n  - cookie: {name: c}\n",
			`{"Issuer":"i","JSONWebKeySet":{"Remote":{"URI":"https://x","CacheDuration":600000000000}},"Locations":[{"Cookie":{"Name":"c"}}],"ClockSkewSeconds":30}`,
		},
	} {
		contents := load(t, files.Config{Dir: write(t, map[string]string{c.file: c.text})})
		if len(contents.Entries) != 1 || contents.Entries[0].Kind != "jwt-provider" || len(contents.TokenProviders) != 1 {
			t.Errorf("%s: %+v, %+v", name, contents.Entries, contents.TokenProviders)
			continue
		}
		if diff := cmp.Diff(normalised(t, c.want), normalised(t, contents.Entries[0].Fields)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// TestTokenProviderProblems: mistakes are told at their lines.
func TestTokenProviderProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"a key's":     {provider("p", "ClockSkewSecond = 3\n"), "a.hcl:4: unknown key \"ClockSkewSecond\" in jwt-provider: did you mean ClockSkewSeconds?"},
		"a value's":   {provider("p", "Locations { QueryParam { Name = \"a\" } Cookie { Name = \"b\" } }\n"), "a.hcl:4: must set exactly one of: JWT location header, query param or cookie"},
		"the keys'":   {strings.Replace(provider("p", ""), keySet, "eyJrZXlzIjpbXX0=", 1), "a.hcl:4: JWKS cannot be used: it has no key that verifies a signature"},
		"Namespace's": {provider("p", "Namespace = \"other\"\n"), `a.hcl:4: Namespace "other" in jwt-provider is not supported yet`},
	} {
		_, err := files.Load(files.Config{Dir: write(t, map[string]string{"a.hcl": c.text}), TrustDomain: trustDomain})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
	_, err := files.Load(files.Config{Dir: write(t, map[string]string{"a.hcl": provider("p", ""), "b.hcl": provider("p", "")}), TrustDomain: trustDomain})
	if want := "b.hcl:1: the jwt-provider p is given twice (first at a.hcl:1)"; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestTokensAskedFor: what an intention asks of tokens is read, and mistakes in it are told at their lines.
func TestTokensAskedFor(t *testing.T) {
	t.Parallel()
	asks := func(lines string) string { return entry("service-intentions", "api", lines) }
	const block = "JWT { Providers { Name = \"p\" VerifyClaims { Path = [\"a\", \"b\"] Value = \"v\" } } }\n"
	allows := "Sources { Name = \"web\" Action = \"allow\" }\n"
	permission := func(action, jwt string) string {
		return "Sources {\n Name = \"web\"\n Permissions {\n  Action = \"" + action + "\"\n  HTTP { PathPrefix = \"/\" }\n  " + jwt + " }\n}\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"the intention's":             {asks(block + allows), ""},
		"beside one that denies":      {asks(block + allows + "Sources { Name = \"*\" Action = \"deny\" }\n"), ""},
		"both":                        {asks(block + permission("allow", block)), ""},
		"of one who is denied":        {asks(block + "Sources { Name = \"web\" Action = \"deny\" }\n"), "a.hcl:3: JWT asks for tokens of those who are allowed, and no source is"},
		"of a permission that denies": {asks(permission("deny", block)), "a.hcl:8: Sources[0].Permissions[0].JWT in a permission that denies: whoever is denied for a token can leave it away, so denying permissions do not look at tokens; allow those who bring the right one, in a permission before this one"},
		"of all services":             {entry("service-intentions", "*", block+allows), "a.hcl:3: JWT cannot be asked for by intentions with wildcarded destinations: name the services"},
		"no provider":                 {asks("JWT { Providers = [] }\n" + allows), "a.hcl:3: JWT has no Providers"},
		"no name":                     {asks("JWT { Providers { VerifyClaims { Path = [\"a\"] Value = \"v\" } } }\n" + allows), "a.hcl:3: JWT provider name is required"},
		"a name twice":                {asks("JWT { Providers = [{ Name = \"p\" }, { Name = \"p\" }] }\n" + allows), `a.hcl:3: JWT.Providers[1]: the provider "p" is named twice: what is said of it has to hold together, so put all claims into one`},
		"no path":                     {asks("JWT { Providers { Name = \"p\" VerifyClaims { Value = \"v\" } } }\n" + allows), "a.hcl:3: JWT.Providers[0].VerifyClaims[0] has no Path, so no token meets it"},
		"no value":                    {asks("JWT { Providers { Name = \"p\" VerifyClaims { Path = [\"v\"] } } }\n" + allows), "a.hcl:3: JWT.Providers[0].VerifyClaims[0] has no Value, so no token meets it"},
		"nobody's":                    {asks(strings.Replace(block, `"p"`, `"nope"`, 1) + allows), "a.hcl:4: Referenced JWT Provider does not exist. Provider Name: nope"},
		"nobody's of a permission":    {asks(permission("allow", strings.Replace(block, `"p"`, `"nope"`, 1))), "a.hcl:3: Referenced JWT Provider does not exist. Provider Name: nope"},
	} {
		_, err := files.Load(files.Config{Dir: write(t, map[string]string{"a.hcl": c.text, "p.hcl": provider("p", "")}), TrustDomain: trustDomain})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q\nwant %q", name, got, c.want)
		}
	}
	contents := load(t, files.Config{Dir: write(t, map[string]string{"a.hcl": asks(block + permission("allow", block)), "p.hcl": provider("p", "")})})
	i := contents.Intentions[0].Intentions[0]
	want := []intention.TokenRequirement{{Provider: "p", Claims: []intention.Claim{{Path: []string{"a", "b"}, Value: "v"}}}}
	if diff := cmp.Diff(want, i.JWT.List()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, i.Permissions.List()[0].JWT); diff != "" {
		t.Error(diff)
	}
}
