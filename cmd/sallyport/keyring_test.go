package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/ca"
)

// TestEveryPrivateKeyIsEncrypted: with --ca-key-file there is no private key in clear in the data directory, whichever file it is in, also of
// those that were there before; without it the control plane says what it lacks, and makes no other key.
func TestEveryPrivateKeyIsEncrypted(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "ca.age")
	if err := os.WriteFile(keyFile, []byte(identity.String()+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	cfg := serveConfig{Catalog: t.TempDir(), Data: t.TempDir(), RuntimeDir: shortTemp(t), Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", LeafTTL: time.Hour}
	run := func() error {
		p, err := open(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		td, _ := p.authority.trustDomain()
		e, err := ca.OpenEndpoint(ca.EndpointConfig{Dir: filepath.Join(cfg.Data, "endpoint"), TrustDomain: td, Keys: p.keys})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return p.close()
	}
	files := func(has string) (names []string) {
		err := filepath.WalkDir(cfg.Data, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte(has)) {
				name, _ := filepath.Rel(cfg.Data, path)
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	keys := []string{"ca/intermediate.pem", "ca/root.pem", "endpoint/intermediate.pem", "endpoint/root.pem", "jwt-svid.key", "token.key"}
	if diff := cmp.Diff(keys, files("PRIVATE KEY")); diff != "" {
		t.Errorf("private keys in clear, as documented:\n%s", diff)
	}
	cfg.CAKeyFile = keyFile
	for range 2 {
		if err := run(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(keys, files("BEGIN AGE ENCRYPTED FILE")); diff != "" || files("PRIVATE KEY") != nil {
			t.Errorf("in clear: %q, encrypted:\n%s", files("PRIVATE KEY"), diff)
		}
	}
	another, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	cfg.CAKeyFile = filepath.Join(t.TempDir(), "another.age")
	if err := os.WriteFile(cfg.CAKeyFile, []byte(another.String()+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	content := map[string]string{}
	for _, name := range keys {
		text, err := os.ReadFile(filepath.Join(cfg.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		content[name] = string(text)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "no identity in "+cfg.CAKeyFile) {
		t.Errorf("with another identity: %v", err)
	}
	for name, was := range content { // above all there is no new CA
		if text, err := os.ReadFile(filepath.Join(cfg.Data, name)); err != nil || string(text) != was {
			t.Errorf("with another identity %s was changed (%v)", name, err)
		}
	}
	cfg.CAKeyFile = filepath.Join(t.TempDir(), "lost.age")
	if err := run(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lost.age") {
		t.Errorf("with a file of identities that is lost: %v", err)
	}
	cfg.CAKeyFile = ""
	for _, name := range slices.Backward(keys) {
		before, err := os.ReadFile(filepath.Join(cfg.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := run(); err == nil || !strings.Contains(err.Error(), "--ca-key-file") {
			t.Fatalf("without --ca-key-file: %v", err)
		}
		if after, err := os.ReadFile(filepath.Join(cfg.Data, name)); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s was changed (%v)", name, err)
		}
	}
	for _, name := range []string{"ca.age", "..ca.age"} {
		cfg.CAKeyFile = filepath.Join(cfg.Data, name)
		if err := os.WriteFile(cfg.CAKeyFile, []byte(identity.String()+"\n"), 0o400); err != nil {
			t.Fatal(err)
		}
		if err := run(); err == nil || !strings.Contains(err.Error(), "keep it elsewhere") {
			t.Errorf("an identity in the data directory: %v", err)
		}
	}
}
