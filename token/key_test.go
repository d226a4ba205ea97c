package token_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/token"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestKeyFile(t *testing.T) {
	_, file := open(t)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the key's mode is %v", info.Mode())
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("beside the key there is something: %v", entries)
	}
}

// TestKeyMadeOnce opens one new file from many sides: all must end up with the same key.
func TestKeyMadeOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token.key")
	issuers := make([]*token.Issuer, 16)
	var wg sync.WaitGroup
	for n := range issuers {
		wg.Go(func() {
			var err error
			if issuers[n], err = token.Open(token.Config{File: file, TrustDomain: trustDomain}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for n, i := range issuers {
		if _, err := issuers[0].Verify(mint(t, i, "web", time.Hour)); err != nil {
			t.Errorf("issuer %d has a key of its own: %v", n, err)
		}
	}
}

// TestKeyRefused spoils the key's file and demands an error that says how to mend it, and that the
// file is left as it is.
func TestKeyRefused(t *testing.T) {
	write := func(t *testing.T, file string, text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(t *testing.T, file string) []byte {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	mode := func(m os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			t.Helper()
			if err := os.Chmod(file, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	const mend = "every proxy needs a new token"
	tests := map[string]struct {
		spoil func(t *testing.T, file string)
		want  string
	}{
		"readable by the group": {mode(0o640), "chmod 600"},
		"readable by all":       {mode(0o644), "chmod 600"},
		"writable by all":       {mode(0o602), "chmod 600"},
		"empty":                 {func(t *testing.T, f string) { write(t, f, nil) }, mend},
		"cut":                   {func(t *testing.T, f string) { t.Helper(); write(t, f, read(t, f)[:150]) }, mend},
		"no public key": {func(t *testing.T, f string) {
			write(t, f, bytes.SplitAfter(read(t, f), []byte("-----END PRIVATE KEY-----\n"))[0])
		}, mend},
		"something behind":       {func(t *testing.T, f string) { write(t, f, append(read(t, f), "x"...)) }, mend},
		"much too long":          {func(t *testing.T, f string) { write(t, f, bytes.Repeat([]byte("x"), 1<<20)) }, mend},
		"two keys that disagree": {func(t *testing.T, f string) { mix(t, f) }, mend},
		"a directory": {func(t *testing.T, f string) {
			if err := errors.Join(os.Remove(f), os.Mkdir(f, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		"a pipe": {func(t *testing.T, f string) {
			if err := errors.Join(os.Remove(f), syscall.Mkfifo(f, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		"a symbolic link": {func(t *testing.T, f string) {
			if err := errors.Join(os.Rename(f, f+".real"), os.Symlink(f+".real", f)); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
		"a link to nothing": {func(t *testing.T, f string) {
			if err := errors.Join(os.Remove(f), os.Symlink(f+".real", f)); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, file := open(t)
			secret := string(read(t, file)[40:70])
			test.spoil(t, file)
			before, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = token.Open(token.Config{File: file, TrustDomain: trustDomain})
			if err == nil {
				t.Fatal("Open: no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("Open: %v; want %q and the file's name", err, test.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("Open: the error quotes the key: %v", err)
			}
			after, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			if after.Mode() != before.Mode() || after.ModTime() != before.ModTime() {
				t.Error("Open changed the file")
			}
		})
	}
}

// mix puts another key's public half into file.
func mix(t *testing.T, file string) {
	t.Helper()
	_, other := open(t)
	end := []byte("-----END PRIVATE KEY-----\n")
	var halves [2][]byte
	for n, f := range []string{file, other} {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(text, end) + len(end)
		halves[n] = [][]byte{text[:at], text[at:]}[n]
	}
	if err := os.WriteFile(file, bytes.Join(halves[:], nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKeyDamaged flips each byte of the file. What is still accepted must be the same key.
func TestKeyDamaged(t *testing.T) {
	i, file := open(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	proof := mint(t, i, "web", time.Hour)
	for n := range text {
		damaged := bytes.Clone(text)
		damaged[n] ^= 1
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := token.Open(token.Config{File: file, TrustDomain: trustDomain})
		if err != nil {
			continue
		}
		if _, err := i.Verify(proof); err != nil {
			t.Errorf("with byte %d (%q) flipped another key is read", n, text[n])
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := token.Open(token.Config{File: filepath.Join(t.TempDir(), "token.key")}); err == nil {
		t.Error("Open without a trust domain: no error")
	}
	if _, err := token.Open(token.Config{File: filepath.Join(t.TempDir(), "missing", "token.key"), TrustDomain: trustDomain}); err == nil {
		t.Error("Open in a directory that is missing: no error")
	}
	_, file := open(t)
	i, err := token.Open(token.Config{File: file, TrustDomain: spiffeid.RequireTrustDomainFromString("other.consul")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(t, file).Verify(mint(t, i, "web", time.Hour)); err == nil {
		t.Error("a token of another trust domain, signed with the same key, was accepted")
	}
}
