package consul

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// keySet has one key of Ed25519 (RFC 8037, A.2).
var keySet = base64.StdEncoding.EncodeToString([]byte(`{"keys":[{"kty":"OKP","use":"sig","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))

// provider is an answer's entry.
func provider(name, issuer string) string {
	return fmt.Sprintf(`{"Kind":"jwt-provider","Name":%q,"JSONWebKeySet":{"Local":{"JWKS":%q}},"Issuer":%q,"ClockSkewSeconds":30,"Hash":1,"CreateIndex":1,"ModifyIndex":1}`, name, keySet, issuer)
}

// withJWT has the intentions about web ask for tokens, and an api of the answer for api as it is.
func (f *fake) withJWT() {
	f.set("/v1/connect/intentions/match?web", []byte(`{"web": [{"SourceNS": "default", "SourceName": "api", "DestinationNS": "default", "DestinationName": "web", "SourceType": "consul",
		"Action": "allow", "Precedence": 9, "JWT": {"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["role"], "Value": "admin"}]}]}}]}`))
}

func providers(c catalog.Contents) string {
	var out []string
	for _, p := range c.TokenProviders {
		out = append(out, fmt.Sprintf("%s %v", p.Name, p.Known()))
	}
	return strings.Join(out, ", ")
}

// TestTokenProviders: who issues tokens is asked for as long as an intention asks for some; what is not understood of one entry takes nothing
// from the others, and what was known stays while nobody answers.
func TestTokenProviders(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/config/jwt-provider", []byte("["+provider("okta", "https://okta")+","+strings.Replace(provider("odd", "i"), keySet, "e30=", 1)+"]"))
		p, _ := running(t, a)
		after(time.Second)
		if got := providers(p.must(t)); got != "" || len(f.of("/v1/config/jwt-provider")) > 0 {
			t.Fatalf("nobody needs %q", got)
		}
		f.withJWT()
		after(time.Second)
		if got := providers(p.must(t)); got != "odd false, okta true" {
			t.Errorf("%q", got)
		}
		if got := problems(a); !strings.Contains(got, "jwt-provider/odd: ") || strings.Contains(got, "okta") {
			t.Errorf("problems\n%s", got)
		}
		f.set("/v1/config/jwt-provider", []byte("["+provider("okta", "https://other")+"]"))
		after(time.Second)
		if list := p.must(t).TokenProviders; len(list) != 1 || list[0].Issuer != "https://other" || list[0].Origin != "jwt-provider/okta" {
			t.Errorf("%+v", list)
		}
		f.refuse("/v1/config/jwt-provider", 500)
		after(time.Minute)
		if got := providers(p.must(t)); got != "okta true" {
			t.Errorf("while nobody answers: %q", got)
		}
		f.file("/v1/connect/intentions/match?web", "match-web.json")
		after(time.Second)
		if got := providers(p.must(t)); got != "" {
			t.Errorf("nobody needs %q any more", got)
		}
	})
}

// TestTokenProvidersUnread: where they may not be read requests without a good token are denied, and that is said; nothing else waits for long.
func TestTokenProvidersUnread(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.withJWT()
		f.refuse("/v1/config/jwt-provider", 403)
		p, _ := running(t, a)
		after(3 * time.Second)
		if got := p.must(t); len(got.Proxies) == 0 || providers(got) != "" {
			t.Errorf("%s, %q", ids(got), providers(got))
		}
		if got := problems(a); !strings.Contains(got, "the token needs mesh:read") {
			t.Errorf("problems\n%s", got)
		}
	})
}

// TestTokenProvidersKept: a start while Consul is away has them of the file.
func TestTokenProvidersKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lkg.json")
	keep := func(c *Config) { c.LKGFile = file }
	bubble(t, keep, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.withJWT()
		f.set("/v1/config/jwt-provider", []byte("["+provider("okta", "https://okta")+"]"))
		running(t, a)
		after(time.Minute)
	})
	bubble(t, keep, func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		after(time.Minute)
		if got := providers(p.must(t)); got != "okta true" {
			t.Errorf("%q", got)
		}
	})
}
