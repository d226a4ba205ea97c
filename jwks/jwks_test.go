package jwks

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// public is the public key of private as a set has it.
func public(t testing.TB, key any, kid, alg, use string) string {
	t.Helper()
	b, err := jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: alg, Use: use}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParse(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, rsaKey, edKey := public(t, &ec.PublicKey, "a", "ES256", "sig"), public(t, &r.PublicKey, "b", "RS256", ""), public(t, ed, "c", "", "")
	offCurve := strings.Replace(ecKey, `"x":"`, `"x":"AA`, 1)
	for _, test := range []struct {
		name, keys    string
		ids           string
		secrets, left string // a part of the first
		err           string
	}{
		{name: "of each type", keys: ecKey + "," + rsaKey + "," + edKey, ids: "a b c"},
		{name: "for encryption", keys: ecKey + "," + public(t, &r.PublicKey, "e", "RSA-OAEP", "enc"), ids: "a"},
		{name: "private", keys: public(t, ec, "p", "ES256", "sig") + "," + ecKey, ids: "a", secrets: "private part"},
		{name: "symmetric", keys: `{"kty":"oct","kid":"s","k":"c2VjcmV0"},` + ecKey, ids: "a", secrets: "symmetric"},
		{name: "symmetric alone", keys: `{"kty":"oct","kid":"s","k":"c2VjcmV0"}`, secrets: "symmetric", err: "symmetric"},
		{name: "small", keys: public(t, &small.PublicKey, "s", "RS256", "") + "," + ecKey, ids: "a", left: "1024 bits"},
		{name: "off the curve", keys: offCurve + "," + rsaKey, ids: "b", left: "keys[0]"},
		{name: "another algorithm", keys: strings.Replace(ecKey, "ES256", "ES384", 1) + "," + rsaKey, ids: "b", left: `"ES384"`},
		{name: "alg none", keys: strings.Replace(rsaKey, "RS256", "none", 1) + "," + ecKey, ids: "a", left: `"none"`},
		{name: "a secret's algorithm", keys: strings.Replace(rsaKey, "RS256", "HS256", 1) + "," + ecKey, ids: "a", left: `"HS256"`},
		{name: "no key", keys: "", err: "no key that verifies"},
		{name: "numbers", keys: `{"kty":1},7,null,` + ecKey, ids: "a", left: "cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse([]byte(`{"keys":[` + test.keys + `]}`))
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if got := strings.Join(s.IDs, " "); got != test.ids {
				t.Errorf("keys %q, want %q", got, test.ids)
			}
			for _, l := range []struct {
				got  []string
				want string
			}{{s.Secrets, test.secrets}, {s.Left, test.left}} {
				if (len(l.got) == 0) != (l.want == "") || l.want != "" && !strings.Contains(l.got[0], l.want) {
					t.Errorf("said %q, want %q", l.got, l.want)
				}
			}
			if err == nil {
				holds(t, s)
			}
		})
	}
}

// holds fails unless a set that was made is one that others read, with public keys alone, and comes out of Parse as it is.
func holds(t *testing.T, s Set) {
	t.Helper()
	var read jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(s.Text), &read); err != nil {
		t.Fatalf("%v of %s", err, s.Text)
	}
	if len(read.Keys) != len(s.IDs) || len(read.Keys) == 0 {
		t.Fatalf("%d keys, said to be %q", len(read.Keys), s.IDs)
	}
	for i, k := range read.Keys {
		if !k.Valid() || !k.IsPublic() || k.KeyID != s.IDs[i] {
			t.Errorf("key %d (%s): valid %v, public %v", i, k.KeyID, k.Valid(), k.IsPublic())
		}
	}
	again, err := Parse([]byte(s.Text))
	if err != nil || again.Text != s.Text || len(again.Left)+len(again.Secrets) > 0 {
		t.Errorf("read again: %v, %q, %q\n%s\n%s", err, again.Left, again.Secrets, s.Text, again.Text)
	}
}

func TestBounds(t *testing.T) {
	if _, err := Parse([]byte(`{"keys":[]}` + strings.Repeat(" ", MaxBytes))); err == nil || !strings.Contains(err.Error(), "at most 1048576") {
		t.Errorf("too long: %v", err)
	}
	if _, err := Parse(fmt.Appendf(nil, `{"keys":[{}%s]}`, strings.Repeat(",{}", maxKeys))); err == nil || !strings.Contains(err.Error(), "101 keys") {
		t.Errorf("too many: %v", err)
	}
	for _, text := range []string{"", "{}", "[]", `{"keys":null}`, `{"keys":{}}`, "\x00", `{"keys":[`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"a"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("_", 342) + `","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},{"kty":"EC","d":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		holds(t, s)
		for _, secret := range []string{`"d":`, `"k":`, `"oct"`, `"none"`, `"HS`} {
			var k struct{ Keys []map[string]json.RawMessage }
			if err := json.Unmarshal([]byte(s.Text), &k); err != nil {
				t.Fatal(err)
			}
			for _, one := range k.Keys {
				delete(one, "kid")
				b, _ := json.Marshal(one)
				if strings.Contains(string(b), secret) {
					t.Errorf("%s in %s", secret, b)
				}
			}
		}
	})
}

func TestPadding(t *testing.T) {
	const x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	s, err := Parse([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + x + `="}]}`))
	if err != nil || !strings.Contains(s.Text, `"`+x+`"`) {
		t.Errorf("%v: %s", err, s.Text)
	}
	if _, err := base64.RawURLEncoding.DecodeString(x); err != nil {
		t.Error(err)
	}
}
