//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// signer makes tokens of a provider.
type signer struct {
	t      testing.TB
	issuer string
	key    jose.SigningKey
	set    string // its public keys
}

// newSigner makes one with a new key of that algorithm, ES256 or RS256.
func newSigner(t testing.TB, issuer, kid string, algorithm jose.SignatureAlgorithm) *signer {
	t.Helper()
	var private, public any
	if algorithm == jose.RS256 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: kid, Algorithm: string(algorithm), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, issuer, jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: private, KeyID: kid}}, string(set)}
}

type claims map[string]any

// token is one with these claims beside issuer, audience and end; nil takes one away.
func (s *signer) token(more claims) string {
	s.t.Helper()
	all := claims{"iss": s.issuer, "aud": "mesh", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range more {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	return signed(s.t, s.key, all)
}

func signed(t testing.TB, key jose.SigningKey, all claims) string {
	t.Helper()
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	j, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := j.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// local is JSONWebKeySet of keys in the entry.
func local(set string) string {
	return fmt.Sprintf("JSONWebKeySet { Local { JWKS = %q } }\n", base64.StdEncoding.EncodeToString([]byte(set)))
}

// provide writes a jwt-provider entry.
func provide(m *meshtest.Mesh, name, issuer, lines string) {
	m.Write("jwt-"+name+".hcl", fmt.Sprintf("Kind = \"jwt-provider\"\nName = %q\nIssuer = %q\n%s", name, issuer, lines))
}

// needs is a JWT block: names of providers, with a claim of each if there is one ("okta role=admin").
func needs(all ...string) string {
	s := "JWT {\n"
	for _, a := range all {
		name, claim, ok := strings.Cut(a, " ")
		s += fmt.Sprintf("Providers {\n Name = %q\n", name)
		if ok {
			path, value, _ := strings.Cut(claim, "=")
			s += fmt.Sprintf(" VerifyClaims {\n  Path = [%q]\n  Value = %q\n }\n", path, value)
		}
		s += "}\n"
	}
	return s + "}\n"
}

// intend writes intentions whose sources are in HCL.
func intend(m *meshtest.Mesh, destination, lines string) {
	m.Write("intentions-"+destination+".hcl", fmt.Sprintf("Kind = \"service-intentions\"\nName = %q\n%s", destination, lines))
}

func permission(action, http, more string) string {
	return fmt.Sprintf("Permissions {\n Action = %q\n HTTP {\n  %s\n }\n %s}\n", action, http, more)
}

// tokenConn is a connection of a client that asks one after the other.
type tokenConn struct {
	conn io.ReadWriteCloser
	r    *bufio.Reader
}

func dialWithToken(c meshtest.Client, addr string) (*tokenConn, error) {
	conn, err := c.Dial(addr)
	if err != nil {
		return nil, err
	}
	return &tokenConn{conn, bufio.NewReader(conn)}, nil
}

// get asks for a path with headers, each "name: value", and returns the status.
func (a *tokenConn) get(path string, headers ...string) (int, error) {
	text := "GET " + path + " HTTP/1.1\r\nHost: api\r\n"
	for _, h := range headers {
		text += h + "\r\n"
	}
	if _, err := io.WriteString(a.conn, text+"\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(a.r, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// TestTokens: which requests pass with which tokens, where the rules decide, where ext_authz does and where both do.
func TestTokens(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) { tokens(t, envoy) })
	}
}

func tokens(t *testing.T, envoy string) {
	t.Helper()
	okta, corp := newSigner(t, "https://okta.example", "k1", jose.ES256), newSigner(t, "https://corp.example", "k1", jose.RS256)
	foreign := newSigner(t, okta.issuer, "k1", jose.ES256)
	otherKid, noKid := *okta, *okta
	otherKid.key.Key = withKid(okta.key, "k9")
	noKid.key.Key = withKid(okta.key, "")
	byOkta, byCorp := *okta, *corp
	byOkta.issuer, byCorp.issuer = corp.issuer, okta.issuer

	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
	modes := []string{"rbac", "ext_authz", "both"}
	var names []string
	for _, mode := range modes {
		for _, name := range []string{"api-", "strict-"} {
			name += strings.ReplaceAll(mode, "_", "")
			names = append(names, name)
			m.Add(meshtest.Service{Name: name, Protocol: "http", Local: serveHTTP(t, "hello"), Config: []string{fmt.Sprintf("intention_enforcement = %q", mode)}})
			if strings.HasPrefix(name, "api") {
				intend(m, name, "Sources {\n Name = \"web\"\n"+
					permission("allow", `PathPrefix = "/admin"`, needs("okta role=admin"))+
					permission("allow", `PathPrefix = "/corp"`, needs("corp", "okta team=a"))+
					permission("allow", `PathPrefix = "/any"`, needs("okta"))+
					permission("allow", `PathPrefix = "/level"`, needs("okta level=7"))+
					permission("deny", `PathExact = "/open/secret"`, "")+
					permission("allow", `PathPrefix = "/open"`, "")+
					"}\nSources {\n Name = \"other\"\n Action = \"allow\"\n}\n")
			} else {
				intend(m, name, needs("okta")+"Sources {\n Name = \"web\"\n Action = \"allow\"\n}\nSources {\n Name = \"shop\"\n"+
					permission("allow", `PathPrefix = "/a"`, needs("okta role=admin"))+permission("allow", `PathPrefix = "/b"`, "")+"}\nSources {\n Name = \"bad\"\n Action = \"deny\"\n}\n")
			}
		}
	}
	provide(m, "okta", okta.issuer, "Audiences = [\"mesh\", \"other\"]\nClockSkewSeconds = 60\n"+local(okta.set))
	provide(m, "corp", corp.issuer, "Locations { Header { Name = \"X-Corp-Token\" } }\nLocations { Cookie { Name = \"corp\" } }\n"+local(corp.set))
	m.Serve()
	m.Sidecars(names...)

	bearer := func(token string) string { return "Authorization: Bearer " + token }
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	admin := okta.token(claims{"role": "admin"})
	hmac := signed(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(okta.set)}, claims{"iss": okta.issuer, "aud": "mesh", "role": "admin", "exp": time.Now().Add(time.Hour).Unix()})
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`)) + "." + strings.Split(admin, ".")[1] + "."
	rows := []struct {
		what, service, source, path string
		header                      []string
		want                        bool
	}{
		{"no token", "api", "web", "/admin", nil, false},
		{"the right role", "api", "web", "/admin", []string{bearer(admin)}, true},
		{"another role", "api", "web", "/admin", []string{bearer(okta.token(claims{"role": "user"}))}, false},
		{"no role", "api", "web", "/admin", []string{bearer(okta.token(nil))}, false},
		{"a list of roles", "api", "web", "/admin", []string{bearer(okta.token(claims{"role": []string{"x", "admin"}}))}, true},
		{"a list of others", "api", "web", "/admin", []string{bearer(okta.token(claims{"role": []string{"x", "administrator"}}))}, false},
		{"a foreign key with the kid", "api", "web", "/admin", []string{bearer(foreign.token(claims{"role": "admin"}))}, false},
		{"no kid", "api", "web", "/admin", []string{bearer(noKid.token(claims{"role": "admin"}))}, true},
		{"another kid", "api", "web", "/admin", []string{bearer(otherKid.token(claims{"role": "admin"}))}, false},
		{"another audience", "api", "web", "/any", []string{bearer(okta.token(claims{"aud": "elsewhere"}))}, false},
		{"a list of audiences", "api", "web", "/any", []string{bearer(okta.token(claims{"aud": []string{"elsewhere", "other"}}))}, true},
		{"no audience", "api", "web", "/any", []string{bearer(okta.token(claims{"aud": nil}))}, false},
		{"ended", "api", "web", "/any", []string{bearer(okta.token(claims{"exp": ago(10 * time.Minute)}))}, false},
		{"ended within the skew", "api", "web", "/any", []string{bearer(okta.token(claims{"exp": ago(20 * time.Second)}))}, true},
		{"not begun", "api", "web", "/any", []string{bearer(okta.token(claims{"nbf": ago(-10 * time.Minute)}))}, false},
		{"not begun, within the skew", "api", "web", "/any", []string{bearer(okta.token(claims{"nbf": ago(-20 * time.Second)}))}, true},
		{"without an end", "api", "web", "/any", []string{bearer(okta.token(claims{"exp": nil}))}, true},
		{"alg none", "api", "web", "/admin", []string{bearer(none)}, false},
		{"HS256 by the public key", "api", "web", "/admin", []string{bearer(hmac)}, false},
		{"corp's issuer by okta's key", "api", "web", "/corp", []string{"X-Corp-Token: " + byOkta.token(nil)}, false},
		{"okta's issuer by corp's key", "api", "web", "/any", []string{bearer(byCorp.token(nil))}, false},
		{"of the other provider", "api", "web", "/admin", []string{"X-Corp-Token: " + corp.token(claims{"role": "admin"})}, false},
		{"one of two providers", "api", "web", "/corp", []string{"X-Corp-Token: " + corp.token(nil)}, true},
		{"the other one of two", "api", "web", "/corp", []string{bearer(okta.token(claims{"team": "a"}))}, true},
		{"the other one with another claim", "api", "web", "/corp", []string{bearer(okta.token(claims{"team": "b"}))}, false},
		{"in the wrong place", "api", "web", "/corp", []string{bearer(corp.token(nil))}, false},
		{"in a cookie", "api", "web", "/corp", []string{"Cookie: a=b; corp=" + corp.token(nil)}, true},
		{"in the query", "api", "web", "/any?x=1&access_token=" + url.QueryEscape(okta.token(nil)), nil, true},
		{"in corp's place", "api", "web", "/any", []string{"X-Corp-Token: " + okta.token(nil)}, false},
		{"two, of which one is bad", "api", "web", "/any", []string{bearer(foreign.token(nil)), bearer(okta.token(nil))}, false},
		{"no token at all", "api", "web", "/any", []string{"Authorization: Bearer x.y.z"}, false},
		{"a number", "api", "web", "/level", []string{bearer(okta.token(claims{"level": 7}))}, true},
		{"another number", "api", "web", "/level", []string{bearer(okta.token(claims{"level": 8}))}, false},
		{"where none is needed", "api", "web", "/open/x", nil, true},
		{"a bad one where none is needed", "api", "web", "/open/x", []string{bearer(foreign.token(nil))}, true},
		{"a good one where it is denied", "api", "web", "/open/secret", []string{bearer(admin)}, false},
		{"a path that is not canonical", "api", "web", "//admin", []string{bearer(admin)}, false},
		{"a source that is not allowed", "api", "batch", "/admin", []string{bearer(admin)}, false},
		{"a source that needs none", "api", "other", "/admin", nil, true},
		{"a source that needs none, with a bad one", "api", "other", "/admin", []string{bearer(foreign.token(nil))}, true},
		{"the intention's, none", "strict", "web", "/", nil, false},
		{"the intention's", "strict", "web", "/", []string{bearer(okta.token(nil))}, true},
		{"the intention's, of a foreign key", "strict", "web", "/", []string{bearer(foreign.token(nil))}, false},
		{"both levels", "strict", "shop", "/a", []string{bearer(admin)}, true},
		{"both levels, another role", "strict", "shop", "/a", []string{bearer(okta.token(nil))}, false},
		{"both levels, none", "strict", "shop", "/b", nil, false},
		{"both levels, where the permission needs none", "strict", "shop", "/b", []string{bearer(okta.token(nil))}, true},
		{"of a source that is denied", "strict", "bad", "/", []string{bearer(admin)}, false},
	}
	asked, wrong := 0, 0
	clients := map[string]meshtest.Client{}
	for _, mode := range modes {
		for _, row := range rows {
			service := row.service + "-" + strings.ReplaceAll(mode, "_", "")
			key := row.source + " " + service
			if clients[key].Roots == nil {
				clients[key] = m.Client(row.source, service)
			}
			status := 0
			for range 10 { // ext_authz has 250 ms, which a machine that stands still does not keep
				a, err := dialWithToken(clients[key], m.Public(service))
				if err == nil {
					status, err = a.get(row.path, row.header...)
					a.conn.Close()
				}
				if err == nil && status != http.StatusServiceUnavailable {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			want := http.StatusForbidden
			if row.want {
				want = http.StatusOK
			}
			if asked++; status != want {
				wrong++
				t.Errorf("%s, %s: %s → %s: %d, want %d", mode, row.what, row.source, service+row.path, status, want)
			}
		}
	}
	figure(t, "requests=%d wrong=%d", asked, wrong)
}

func withKid(k jose.SigningKey, kid string) jose.JSONWebKey {
	j := k.Key.(jose.JSONWebKey) //nolint:forcetypeassert // newSigner made it
	j.KeyID = kid
	return j
}
