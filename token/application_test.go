package token_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/token"
)

// TestApplication: tokens of applications say whose they are, end, are revoked singly and together, and are none of a proxy's.
func TestApplication(t *testing.T) {
	dir := t.TempDir()
	config := token.Config{File: filepath.Join(dir, "token.key"), TrustDomain: trustDomain, RevokedFile: filepath.Join(dir, "revoked.json")}
	synctest.Test(t, func(t *testing.T) {
		i, err := token.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		api := token.Application{Service: identity.NewName("api")}
		made := func(a token.Application) token.Minted {
			t.Helper()
			m, err := i.MintApplication(a, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		first, second, reader := made(api), made(api), made(token.Application{Reader: true})
		for m, want := range map[token.Minted]token.Application{first: api, second: api, reader: {Reader: true}} {
			for range 2 { // the second time from memory
				if a, id, err := i.Application(m.Text); a != want || id != m.ID || err != nil {
					t.Errorf("Application = %+v, %q, %v, want %+v", a, id, err, want)
				}
			}
			if _, err := i.Verify(m.Text); err == nil || !strings.Contains(err.Error(), "not meant for xDS") {
				t.Errorf("an application's token opens a stream: %v", err)
			}
		}
		if _, _, err := i.Application(mint(t, i, "api-sidecar-proxy", time.Hour)); err == nil {
			t.Error("a proxy's token is taken for an application's")
		}
		for _, bad := range []string{"", "x", "a.b.c", first.Text + "x", strings.Repeat("x", 100_000)} {
			if _, _, err := i.Application(bad); err == nil {
				t.Errorf("%.20q is a token", bad)
			}
		}
		if err := i.Revoke(first.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := i.Application(first.Text); err == nil {
			t.Error("a revoked token is taken")
		}
		if _, _, err := i.Application(second.Text); err != nil {
			t.Error(err)
		}
		if err := i.RevokeApplications(api); err != nil {
			t.Fatal(err)
		}
		third := made(api)
		time.Sleep(time.Second) // for it may be good from the second after the revocation
		i, err = token.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]bool{first.Text: false, second.Text: false, third.Text: true, reader.Text: true} {
			if _, _, err := i.Application(text); (err == nil) != want {
				t.Errorf("after a restart: %v, want good: %t", err, want)
			}
		}
		time.Sleep(time.Hour)
		if _, _, err := i.Application(third.Text); !errors.Is(err, token.ErrExpired) || !strings.Contains(err.Error(), "sallyport token create") {
			t.Errorf("expired: %v", err)
		}
		for _, bad := range []token.Application{{}, {Service: identity.NewName("a/b")}, {Service: identity.NewName("api"), Reader: true}} {
			if _, err := i.MintApplication(bad, time.Hour); err == nil {
				t.Errorf("a token for %+v", bad)
			}
		}
		if _, err := i.MintApplication(api, token.MaxLife+1); err == nil {
			t.Error("a token without an end")
		}
	})
}
