package token_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/token"
)

// openRevoking returns an issuer that records what was revoked; again reopens it.
func openRevoking(t *testing.T) (i *token.Issuer, revoked string, again func() (*token.Issuer, error)) {
	t.Helper()
	dir := t.TempDir()
	c := token.Config{File: filepath.Join(dir, "token.key"), TrustDomain: trustDomain, RevokedFile: filepath.Join(dir, "revoked-tokens.json")}
	i, err := token.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return i, c.RevokedFile, func() (*token.Issuer, error) { return token.Open(c) }
}

func mustMint(t *testing.T, i *token.Issuer, p identity.ProxyID) token.Minted {
	t.Helper()
	m, err := i.Mint(subject(p), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRevoke(t *testing.T) {
	i, _, again := openRevoking(t)
	a, b, other := mustMint(t, i, "web"), mustMint(t, i, "web"), mustMint(t, i, "db")
	good := func(i *token.Issuer, m token.Minted) bool {
		t.Helper()
		_, err := i.Verify(m.Text)
		if err != nil && !strings.Contains(err.Error(), m.ID+`" was revoked`) {
			t.Errorf("the error is %v", err)
		}
		return err == nil
	}
	if !good(i, a) {
		t.Fatal("a new token is not good")
	}
	if err := i.Revoke(a.ID); err != nil {
		t.Fatal(err)
	}
	both := func(check func(*token.Issuer)) {
		t.Helper()
		check(i)
		reopened, err := again()
		if err != nil {
			t.Fatal(err)
		}
		check(reopened)
	}
	both(func(i *token.Issuer) {
		if good(i, a) || !good(i, b) || !good(i, other) {
			t.Errorf("after the revocation of one: %t %t %t", good(i, a), good(i, b), good(i, other))
		}
	})
	if err := i.RevokeAll("web"); err != nil {
		t.Fatal(err)
	}
	fresh := mustMint(t, i, "web") // in the same second
	both(func(i *token.Issuer) {
		if good(i, a) || good(i, b) || !good(i, other) || !good(i, fresh) {
			t.Errorf("after the revocation of all: %t %t %t, a new one %t", good(i, a), good(i, b), good(i, other), good(i, fresh))
		}
	})
	for _, id := range []string{"", strings.Repeat("X", 200), other.ID[:25], strings.ToLower(other.ID), other.ID + " ", other.Text[:60]} {
		if err := i.Revoke(id); err == nil {
			t.Errorf("Revoke(%.30q): no error", id)
		}
	}
	if err := i.RevokeAll(""); err == nil {
		t.Error("RevokeAll of nobody: no error")
	}
}

// TestRevokedForLong: a revocation is forgotten when no token can be left that it concerns.
func TestRevokedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, file, again := openRevoking(t)
		m, err := i.Mint(subject("web"), token.MaxLife)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Mint(subject("web"), token.MaxLife+time.Second); err == nil {
			t.Error("a token of more than MaxLife: no error")
		}
		n := mustMint(t, i, "db")
		if err := i.Revoke(n.ID); err != nil {
			t.Fatal(err)
		}
		if err := i.RevokeAll("web"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(token.MaxLife - time.Minute)
		if err := i.Revoke("ANOTHER" + n.ID[7:]); err != nil {
			t.Fatal(err)
		}
		if i, err = again(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Verify(m.Text); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("just before its end: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := i.Revoke("ATHIRD" + n.ID[6:]); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), `"`+n.ID) || strings.Contains(string(b), "web") || !strings.Contains(string(b), "ANOTHER") {
			t.Errorf("the file is %s, %v", b, err)
		}
	})
}

// TestRevokedFile: what cannot be read is an error at the start, and what cannot be written is one of
// the revocation, which holds all the same.
func TestRevokedFile(t *testing.T) {
	i, file, again := openRevoking(t)
	m := mustMint(t, i, "web")
	if err := i.Revoke(m.ID); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for n := range good {
		damaged := bytes.Clone(good)
		damaged[n] ^= 1
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := again(); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "every proxy needs a new one") {
			t.Errorf("with byte %d (%q) flipped: %v", n, good[n], err)
		}
	}
	for name, text := range map[string][]byte{"empty": nil, "cut": good[:len(good)/2], "without its checksum": bytes.SplitAfter(good, []byte("\n"))[0]} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := again(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	n := mustMint(t, i, "web")
	if err := i.Revoke(n.ID); err == nil || !strings.Contains(err.Error(), "not recorded") {
		t.Errorf("Revoke without a disk: %v", err)
	}
	if _, err := i.Verify(n.Text); err == nil {
		t.Error("a token whose revocation could not be recorded is taken")
	}
}

// TestRevokedTwice: what was revoked stays so when all of the proxy's are revoked again, also in the
// same second, or when the clock was set back since; so are those that were made in between.
func TestRevokedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		i, revoked, again := openRevoking(t)
		first := mustMint(t, i, "web")
		revoke := func() {
			t.Helper()
			if err := i.RevokeAll("web"); err != nil {
				t.Fatal(err)
			}
		}
		revoke()
		between := mustMint(t, i, "web")
		revoke()
		after := mustMint(t, i, "web")
		for what, m := range map[string]token.Minted{"made before": first, "made between": between} {
			if _, err := i.Verify(m.Text); err == nil {
				t.Errorf("the token %s is good", what)
			}
		}
		if _, err := i.Verify(after.Text); err != nil {
			t.Errorf("the token made afterwards: %v", err)
		}

		// As if the clock had been ahead.
		future := time.Now().Add(time.Hour)
		src := atomicfile.Seal(fmt.Appendf(nil, `{"version":1,"tokens":{},"proxies":{"web":{"issued_until":%d,"until":%d}}}`+"\n", future.Unix(), future.Add(token.MaxLife).Unix()))
		if err := os.WriteFile(revoked, src, 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if i, err = again(); err != nil {
			t.Fatal(err)
		}
		revoke()
		if _, err := i.Verify(after.Text); err == nil {
			t.Error("a second revocation made good what the first one took out of use")
		}
		if _, err := i.Verify(mustMint(t, i, "web").Text); err != nil {
			t.Errorf("a new token: %v", err)
		}
	})
}
