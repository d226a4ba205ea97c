package token_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var trustDomain = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")

// open returns an issuer with a new key, and where that lies.
func open(t testing.TB) (*token.Issuer, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token.key")
	return reopen(t, file), file
}

func reopen(t testing.TB, file string) *token.Issuer {
	t.Helper()
	i, err := token.Open(token.Config{File: file, TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func mint(t testing.TB, i *token.Issuer, p identity.ProxyID, ttl time.Duration) string {
	t.Helper()
	m, err := i.Mint(subject(p), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return m.Text
}

// subject is a proxy of web that names no user.
func subject(p identity.ProxyID) token.Subject {
	return token.Subject{Proxy: p, Service: identity.NewName("web"), UID: -1}
}

func TestRoundTrip(t *testing.T) {
	i, file := open(t)
	seen := map[string]bool{}
	for _, p := range []identity.ProxyID{"web-sidecar-proxy", "x", `"quoted"`, "wéb ☃", "a b/c\n", identity.ProxyID(strings.Repeat("\x01", 512))} {
		text := mint(t, i, p, time.Hour)
		if seen[text] {
			t.Errorf("two tokens are equal")
		}
		seen[text] = true
		for range 2 { // the second time from memory
			if got, err := i.Verify(text); got != p || err != nil {
				t.Errorf("Verify of %q's token = %q, %v", p, got, err)
			}
		}
		if got, err := reopen(t, file).Verify(text); got != p || err != nil {
			t.Errorf("Verify of %q's token after a restart = %q, %v", p, got, err)
		}
	}
	if a, b := mint(t, i, "web", time.Hour), mint(t, i, "web", time.Hour); a == b {
		t.Error("two tokens of one proxy are equal")
	}
}

func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // so that now is no whole second
		i, _ := open(t)
		now := time.Now()
		m, err := i.Mint(subject("web"), 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		expires, parts := m.Expires, strings.Split(m.Text, ".")
		var header, claims map[string]any
		for n, into := range []*map[string]any{&header, &claims} {
			raw, err := base64.RawURLEncoding.DecodeString(parts[n])
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, into); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[string]any{"alg": "EdDSA", "typ": "JWT"}; !maps.Equal(header, want) {
			t.Errorf("header %v, want %v", header, want)
		}
		jti, _ := claims["jti"].(string)
		if len(jti) < 22 || jti != m.ID { // 128 bits
			t.Errorf("jti %q, ID %q", jti, m.ID)
		}
		delete(claims, "jti")
		want := map[string]any{
			"iss": "spiffe://11111111-2222-3333-4444-555555555555.consul/sallyport", "aud": "sallyport-xds", "sub": "web",
			"iat": float64(now.Unix()), "nbf": float64(now.Unix() - 60), "exp": float64(expires.Unix()),
			"svc": "default/default/web", "uid": float64(-1),
		}
		if !maps.Equal(claims, want) {
			t.Errorf("claims %v, want %v", claims, want)
		}
		if life := expires.Sub(now); life < 90*time.Second || life >= 91*time.Second || expires.Nanosecond() != 0 {
			t.Errorf("a token for 90s lives %v, until %v", life, expires)
		}
	})
}

func TestMintRefuses(t *testing.T) {
	i, _ := open(t)
	for name, p := range map[string]identity.ProxyID{"empty": "", "not UTF-8": "web\xff", "too long": identity.ProxyID(strings.Repeat("x", 513))} {
		if _, err := i.Mint(subject(p), time.Hour); err == nil {
			t.Errorf("Mint for a proxy ID that is %s: no error", name)
		}
	}
	for _, s := range []token.Subject{{Proxy: "web"}, {Proxy: "web", Service: identity.NewName("a/b")}, {Proxy: "web", Service: identity.NewName("web"), UID: -2}} {
		if _, err := i.Mint(s, time.Hour); err == nil {
			t.Errorf("Mint for %+v: no error", s)
		}
	}
	for _, ttl := range []time.Duration{0, -time.Hour, time.Second - 1} {
		if _, err := i.Mint(subject("web"), ttl); err == nil {
			t.Errorf("Mint for %v: no error", ttl)
		}
	}
}

// TestTime steps over the bounds of a token, both of one that is looked at for the first time and
// of one that is remembered.
func TestTime(t *testing.T) {
	for _, remembered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			i, _ := open(t)
			m, err := i.Mint(subject("web"), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			text, expires := m.Text, m.Expires
			if remembered {
				if _, err := i.Verify(text); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Until(expires) - time.Nanosecond)
			if remembered {
				if _, err := i.Verify(text); err != nil {
					t.Errorf("just before its end: %v", err)
				}
			}
			time.Sleep(time.Nanosecond)
			for range 2 {
				if p, err := i.Verify(text); !errors.Is(err, token.ErrExpired) || p != "" {
					t.Errorf("at its end: %q, %v, want ErrExpired", p, err)
				}
			}
		})
	}
}

// TestForged signs with the right key what was never minted, with other keys what was, and
// otherwise confuses the verifier as far as the format lets one.
func TestForged(t *testing.T) {
	i, file := open(t)
	key := readKey(t, file)
	public, _ := key.Public().(ed25519.PublicKey)
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	eddsa := map[string]any{"alg": "EdDSA", "typ": "JWT"}
	good := func(change ...func(map[string]any)) map[string]any {
		now := time.Now().Unix()
		c := map[string]any{
			"iss": "spiffe://" + trustDomain.Name() + "/sallyport", "aud": token.Audience, "sub": "web",
			"iat": now, "nbf": now - 60, "exp": now + 3600, "jti": "x",
		}
		for _, f := range change {
			f(c)
		}
		return c
	}
	set := func(k string, v any) func(map[string]any) { return func(c map[string]any) { c[k] = v } }
	drop := func(k string) func(map[string]any) { return func(c map[string]any) { delete(c, k) } }
	withKey := func(k ed25519.PrivateKey) func(string) []byte {
		return func(s string) []byte { return ed25519.Sign(k, []byte(s)) }
	}
	withHMAC := func(secret []byte) func(string) []byte {
		return func(s string) []byte { m := hmac.New(sha256.New, secret); m.Write([]byte(s)); return m.Sum(nil) }
	}
	sign := withKey(key)
	minted := mint(t, i, "web", time.Hour)
	parts := strings.Split(minted, ".")
	foreignJWK := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(foreign.Public().(ed25519.PublicKey))}

	// The workbench makes good tokens, too: else nothing below would mean anything.
	if p, err := i.Verify(compact(t, eddsa, good(), sign)); p != "web" || err != nil {
		t.Fatalf("Verify of a hand-made good token = %q, %v", p, err)
	}
	tests := map[string]string{
		"alg none, no signature":         compact(t, map[string]any{"alg": "none"}, good(), func(string) []byte { return nil }),
		"alg None":                       compact(t, map[string]any{"alg": "None"}, good(), func(string) []byte { return nil }),
		"alg none, good signature":       compact(t, map[string]any{"alg": "none"}, good(), sign),
		"no alg":                         compact(t, map[string]any{"typ": "JWT"}, good(), sign),
		"alg in lower case":              compact(t, map[string]any{"alg": "eddsa"}, good(), sign),
		"HS256 with the public key":      compact(t, map[string]any{"alg": "HS256"}, good(), withHMAC(public)),
		"HS256 with the public key, PEM": compact(t, map[string]any{"alg": "HS256"}, good(), withHMAC(publicPEM)),
		"HS256 with the public key, DER": compact(t, map[string]any{"alg": "HS256"}, good(), withHMAC(spki)),
		"HS256 with nothing":             compact(t, map[string]any{"alg": "HS256"}, good(), withHMAC(nil)),
		"ES256 with a key of its own":    es256(t, ec),
		"foreign key":                    compact(t, eddsa, good(), withKey(foreign)),
		"foreign key, sent along":        compact(t, map[string]any{"alg": "EdDSA", "jwk": foreignJWK}, good(), withKey(foreign)),
		"foreign key, named":             compact(t, map[string]any{"alg": "EdDSA", "kid": file, "jku": "https://127.0.0.1/keys"}, good(), withKey(foreign)),
		"kid of nothing":                 compact(t, map[string]any{"alg": "EdDSA", "kid": "/dev/null"}, good(), func(string) []byte { return make([]byte, 64) }),
		"critical extension":             compact(t, map[string]any{"alg": "EdDSA", "crit": []string{"x"}, "x": 1}, good(), sign),
		"unencoded payload":              compact(t, map[string]any{"alg": "EdDSA", "crit": []string{"b64"}, "b64": false}, good(), sign),
		"wrong audience":                 compact(t, eddsa, good(set("aud", "sallyport")), sign),
		"audience and another":           compact(t, eddsa, good(set("aud", []string{token.Audience, "x"})), sign),
		"no audience":                    compact(t, eddsa, good(drop("aud")), sign),
		"wrong issuer":                   compact(t, eddsa, good(set("iss", "spiffe://"+trustDomain.Name())), sign),
		"foreign issuer":                 compact(t, eddsa, good(set("iss", "spiffe://other.consul/sallyport")), sign),
		"no issuer":                      compact(t, eddsa, good(drop("iss")), sign),
		"no proxy":                       compact(t, eddsa, good(drop("sub")), sign),
		"empty proxy":                    compact(t, eddsa, good(set("sub", "")), sign),
		"proxy too long":                 compact(t, eddsa, good(set("sub", strings.Repeat("x", 513))), sign),
		"proxy is a number":              compact(t, eddsa, good(set("sub", 7)), sign),
		"no end":                         compact(t, eddsa, good(drop("exp")), sign),
		"end is null":                    compact(t, eddsa, good(set("exp", nil)), sign),
		"end is text":                    compact(t, eddsa, good(set("exp", "9999999999")), sign),
		"end is beyond all numbers":      compact(t, eddsa, good(set("exp", 1e300)), sign),
		"no beginning":                   compact(t, eddsa, good(drop("nbf")), sign),
		"not yet valid":                  compact(t, eddsa, good(set("nbf", time.Now().Unix()+60)), sign),
		"a service and no user":          compact(t, eddsa, good(set("svc", "default/default/web")), sign),
		"a user and no service":          compact(t, eddsa, good(set("uid", 7)), sign),
		"a service that is none":         compact(t, eddsa, good(set("svc", "default/default/a b"), set("uid", 7)), sign),
		"a service in one part":          compact(t, eddsa, good(set("svc", "web"), set("uid", 7)), sign),
		"claims are no object":           compact(t, eddsa, []string{"web"}, sign),
		"two subjects":                   raw(t, eddsa, `{"sub":"web","sub":"db","aud":"sallyport-xds"}`, sign),
		"signature of another":           parts[0] + "." + parts[1] + "." + strings.Split(mint(t, i, "web", time.Hour), ".")[2],
		"payload of another":             parts[0] + "." + strings.Split(mint(t, i, "db", time.Hour), ".")[1] + "." + parts[2],
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"two parts":                      parts[0] + "." + parts[1],
		"four parts":                     minted + "." + parts[2],
		"five parts":                     strings.Repeat(parts[0]+".", 4) + parts[0],
		"leading space":                  " " + minted,
		"trailing newline":               minted + "\n",
		"padding":                        minted + "=",
		"with the scheme":                "Bearer " + minted,
		"JSON form":                      fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2]),
		"empty":                          "",
		"dots":                           "..",
		"too long":                       strings.Repeat("A", 1<<20),
		"too long, though signed":        compact(t, eddsa, good(set("x", strings.Repeat("x", 8<<10))), sign),
	}
	for name, text := range tests {
		for range 2 {
			p, err := i.Verify(text)
			if err == nil || p != "" {
				t.Errorf("%s: Verify = %q, %v, want an error", name, p, err)
				continue
			}
			if errors.Is(err, token.ErrExpired) {
				t.Errorf("%s: %v, but it never was good", name, err)
			}
			quotes(t, name, text, err)
		}
	}
	for n := range len(minted) {
		if p, err := i.Verify(minted[:n]); err == nil {
			t.Errorf("a token cut after %d bytes is %q's", n, p)
		}
		for _, c := range []byte{'A', '_', '.', minted[n] ^ 1} {
			changed := minted[:n] + string(c) + minted[n+1:]
			if p, err := i.Verify(changed); changed != minted && err == nil {
				t.Errorf("a token with byte %d changed to %q is %q's", n, c, p)
			}
		}
	}
}

// TestBound: a token says for what it was made, and one of a release before says that it is bound to
// nothing.
func TestBound(t *testing.T) {
	i, file := open(t)
	for _, want := range []token.Subject{subject("web"), {Proxy: "web", Service: identity.Name{Partition: "p", Namespace: "n", Service: "api"}, UID: 0}, {Proxy: "x", Service: identity.NewName("x"), UID: 1000}} {
		m, err := i.Mint(want, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		f, err := i.Prove(m.Text)
		if err != nil || f != (identity.Proof{ID: m.ID, Expires: m.Expires.Unix(), Service: want.Service, UID: want.UID}) || !f.Bound() {
			t.Errorf("the proof of %+v is %+v, %v", want, f, err)
		}
		if text := fmt.Sprintf("%v %+v %#v %s", m, m, m, m); strings.Contains(text, m.Text[:20]) || !strings.Contains(text, m.ID) {
			t.Errorf("printed it is %s", text)
		}
	}
	now := time.Now().Unix()
	key := readKey(t, file)
	old := compact(t, map[string]any{"alg": "EdDSA", "typ": "JWT"}, map[string]any{
		"iss": "spiffe://" + trustDomain.Name() + "/sallyport", "aud": token.Audience, "sub": "web", "iat": now, "nbf": now - 60, "exp": now + 3600, "jti": "old",
	}, func(s string) []byte { return ed25519.Sign(key, []byte(s)) })
	if f, err := i.Prove(old); err != nil || f != (identity.Proof{ID: "old", Expires: now + 3600}) || f.Bound() {
		t.Errorf("the proof of a token of a release before is %+v, %v", f, err)
	}
}

// TestOneSpelling changes the last character of each part, which may have bits that nobody decodes.
func TestOneSpelling(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i, _ := open(t)
	for _, p := range []identity.ProxyID{"w", "we", "web"} { // with 0, 2 and 4 spare bits
		parts := strings.Split(mint(t, i, p, time.Hour), ".")
		for n := range parts {
			for _, c := range alphabet {
				changed := slices.Clone(parts)
				changed[n] = changed[n][:len(changed[n])-1] + string(c)
				_, err := i.Verify(strings.Join(changed, "."))
				if same := changed[n] == parts[n]; (err == nil) != same {
					t.Errorf("%s: part %d ends with %q, which was minted: %t; err %v", p, n, c, same, err)
				}
			}
		}
	}
}

// quotes demands that an error quotes nothing of a token.
func quotes(t *testing.T, name, text string, err error) {
	t.Helper()
	for n := 0; n+12 <= len(text); n++ {
		if strings.Contains(err.Error(), text[n:n+12]) {
			t.Errorf("%s: the error quotes the token: %v", name, err)
			return
		}
	}
}

func compact(t *testing.T, header, claims any, sign func(string) []byte) string {
	t.Helper()
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return raw(t, header, string(c), sign)
}

func raw(t *testing.T, header any, claims string, sign func(string) []byte) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

func es256(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(`{"sub":"web","aud":"sallyport-xds"}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readKey(t testing.TB, file string) ed25519.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}
