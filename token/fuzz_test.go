package token_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// FuzzVerify looks for a text that is accepted though it was not minted: neither as it stands, nor
// with claims that the fuzzer writes and the right key signs, may it panic; and only what carries
// the key's signature may be accepted.
func FuzzVerify(f *testing.F) {
	i, file := open(f)
	key := readKey(f, file)
	public, _ := key.Public().(ed25519.PublicKey)
	minted := mint(f, i, "web", time.Hour)
	parts := strings.Split(minted, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(minted, string(claims))
	f.Add(strings.Join(parts[:2], "."), `{"sub":"web","sub":"db","exp":1e30}`)
	f.Add("eyJhbGciOiJub25lIn0."+parts[1]+".", `{"aud":["sallyport-xds"],"nbf":null}`)
	f.Fuzz(func(t *testing.T, text, claims string) {
		if p, err := i.Verify(text); err == nil {
			parts := strings.Split(text, ".")
			if len(parts) != 3 || p == "" {
				t.Fatalf("Verify(%q) = %q", text, p)
			}
			signature, err := base64.RawURLEncoding.DecodeString(parts[2])
			if err != nil || !ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), signature) {
				t.Fatalf("Verify(%q) = %q, but its signature does not hold", text, p)
			}
		}
		input := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		signed := input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(input)))
		if p, err := i.Verify(signed); err == nil && (p == "" || !strings.Contains(claims, "sallyport-xds") || !strings.Contains(claims, "exp")) {
			t.Fatalf("Verify of a token that says %q = %q", claims, p)
		}
	})
}
