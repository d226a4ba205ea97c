package sidecar

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/admin"
)

func TestACLToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(vars map[string]string) func(string) string { return func(k string) string { return vars[k] } }
	for _, tc := range []struct {
		name, flag, want string
		env              map[string]string
	}{
		{"flag", file, "secret", map[string]string{"CONSUL_HTTP_TOKEN": "other"}},
		{"file variable", "", "secret", map[string]string{"CONSUL_HTTP_TOKEN_FILE": file, "CONSUL_HTTP_TOKEN": "other"}},
		{"variable", "", "other", map[string]string{"CONSUL_HTTP_TOKEN": "other"}},
		{"none", "", anonymous, nil},
	} {
		if got, err := findACLToken(tc.flag, env(tc.env)).current(); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
	if _, err := (aclToken{file: file + ".not"}).current(); err == nil {
		t.Error("a missing file gave no error")
	}
	o := Config{TokenFile: file}
	if _, err := o.complete(&admin.TokenResponse{Token: "minted"}); err == nil {
		t.Error("--token-file was taken by a control plane that makes the tokens itself")
	}
	r := admin.TokenResponse{OwnToken: true}
	if _, err := o.complete(&r); err != nil || r.Token != "secret" {
		t.Errorf("complete = %q, %v", r.Token, err)
	}
}

func TestACLTokenFollows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("first")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			aclToken{file: file}.follow(ctx, "first", func(s string) error { got = append(got, s); return nil }, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(5 * time.Second)
		put("") // about to be written
		time.Sleep(5 * time.Second)
		put("second")
		time.Sleep(5 * time.Second)
		cancel()
		<-done
		if len(got) != 1 || got[0] != "second" {
			t.Errorf("written: %q, want the second token once", got)
		}
	})
}
