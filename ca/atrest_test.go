package ca

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/sallyport/sallyport/internal/keyring"
)

// newIdentity is a line as age-keygen writes it.
func newIdentity(t testing.TB) string {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i.String() + "\n"
}

func keysOf(t testing.TB, log *slog.Logger, identities ...string) *keyring.Keyring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.age")
	writeFile(t, []byte(strings.Join(identities, "")), path)
	k, err := keyring.Open(path, log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// inClear are the files of a directory in which a private key can be read.
func inClear(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if bytes.Contains(readFile(t, dir, e.Name()), []byte("PRIVATE KEY")) {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestKeysAtRest follows one CA from a directory in clear to an encrypted one, to another identity, to a backup of it, and to the loss of
// the identity. It is the same CA all the while, and never a new one.
func TestKeysAtRest(t *testing.T) {
	dir, first, second := caDir(t), newIdentity(t), newIdentity(t)
	c := mustOpen(t, Config{Dir: dir})
	root, intermediate := rootOf(c), c.authority.intermediate.cert
	mustClose(t, c)
	if n := len(inClear(t, dir)); n != 2 {
		t.Fatalf("%d files in clear, want 2", n)
	}
	same := func(step string, keys *keyring.Keyring) {
		t.Helper()
		c := mustOpen(t, Config{Dir: dir, Keys: keys})
		defer mustClose(t, c)
		if !rootOf(c).Equal(root) || !c.authority.intermediate.cert.Equal(intermediate) {
			t.Errorf("%s: it is another CA", step)
		}
	}
	refused := func(step, want string, keys *keyring.Keyring) {
		t.Helper()
		before := readFile(t, dir, rootFile)
		if c, err := Open(Config{Dir: dir, Keys: keys}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", step, err, want)
			if err == nil {
				mustClose(t, c)
			}
		}
		if !bytes.Equal(readFile(t, dir, rootFile), before) {
			t.Errorf("%s: the file was changed", step)
		}
	}

	var log bytes.Buffer
	same("migration", keysOf(t, slog.New(slog.NewTextHandler(&log, nil)), first))
	if names := inClear(t, dir); len(names) > 0 {
		t.Errorf("in clear: %q", names)
	}
	for name, words := range map[string]string{rootFile: "CA root", intermediateFile: "CA intermediate"} {
		if text := readFile(t, dir, name); !bytes.HasPrefix(text, []byte("sallyport "+words+", format 2, age\n")) {
			t.Errorf("%s begins with %.60q", name, text)
		}
		if !strings.Contains(log.String(), filepath.Join(dir, name)) {
			t.Errorf("log\n%swant %s", &log, name)
		}
	}
	log.Reset()
	same("again", keysOf(t, slog.New(slog.NewTextHandler(&log, nil)), first))
	if log.Len() > 0 {
		t.Errorf("encrypted again: %s", &log)
	}
	refused("without the flag", "--ca-key-file", nil)
	refused("another identity", "no identity in", keysOf(t, nil, second))
	same("the new identity before the old one", keysOf(t, nil, second, first))
	same("the new identity alone", keysOf(t, nil, second))
	refused("the old identity", "no identity in", keysOf(t, nil, first))

	// A backup is the files and the identity.
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, rootFile): 0o600, filepath.Join(dir, intermediateFile): 0o600} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	same("restored", keysOf(t, nil, second))

	// The intermediate alone can be made again, as its file says.
	damaged := slices.Concat(readFile(t, dir, intermediateFile)[:200], []byte("\n"))
	writeFile(t, damaged, dir, intermediateFile)
	if _, err := Open(Config{Dir: dir, Keys: keysOf(t, nil, second)}); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a damaged file: %v", err)
	}

	// The identity is lost: what is there stays, and a new CA is begun beside it, by the operator.
	refused("the identity is lost", "no identity in", keysOf(t, nil, newIdentity(t)))
	if err := os.Rename(dir, dir+".lost"); err != nil {
		t.Fatal(err)
	}
	next := mustOpen(t, Config{Dir: dir, Keys: keysOf(t, nil, newIdentity(t)), TrustDomain: trustDomain(t)})
	defer mustClose(t, next)
	if rootOf(next).Equal(root) || len(inClear(t, dir)) > 0 {
		t.Error("it is the old CA, or in clear")
	}
}

// TestCrashWhileEncrypting dies before each operation on the disk while files in clear are encrypted, and while they are to another identity: what
// is left opens with what opened it before, and with what it was to become.
func TestCrashWhileEncrypting(t *testing.T) {
	first, second := newIdentity(t), newIdentity(t)
	for name, identities := range map[string][2][]string{
		"to the first":   {nil, {first}},
		"to another one": {{first}, {second, first}},
	} {
		for n := 0; ; n++ {
			var before *keyring.Keyring
			if len(identities[0]) > 0 {
				before = keysOf(t, nil, identities[0]...)
			}
			dir := caDir(t)
			c := mustOpen(t, Config{Dir: dir, Keys: before})
			root := rootOf(c)
			mustClose(t, c)
			after := keysOf(t, nil, identities[1]...)
			step, crashed := crashAt(n, dir)
			c, err := open(Config{Dir: dir, Keys: after}, step)
			if err != nil && !errors.Is(err, errCrash) {
				t.Fatalf("%s, crash %d: %v", name, n, err)
			}
			if err == nil {
				if !rootOf(c).Equal(root) {
					t.Errorf("%s, crash %d: another CA", name, n)
				}
				mustClose(t, c)
			}
			again := mustOpen(t, Config{Dir: dir, Keys: after})
			if !rootOf(again).Equal(root) || len(inClear(t, dir)) > 0 {
				t.Errorf("%s, crash %d: another CA, or in clear: %q", name, n, inClear(t, dir))
			}
			mustClose(t, again)
			if !crashed() {
				if n < 8 {
					t.Errorf("%s: only %d operations seen", name, n)
				}
				break
			}
		}
	}
}

// TestRotationAtRest: all that a rotation writes is encrypted, whatever its file.
func TestRotationAtRest(t *testing.T) {
	dir := caDir(t)
	c := mustOpen(t, Config{Dir: dir, Keys: keysOf(t, nil, newIdentity(t))})
	defer mustClose(t, c)
	if err := c.Rotate(RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if names := inClear(t, dir); len(names) > 0 {
		t.Errorf("in clear: %q", names)
	}
	text := readFile(t, dir, recordFile)
	if !bytes.HasPrefix(text, []byte("sallyport CA state, format 2, age\n")) {
		t.Errorf("%s begins with %.60q", recordFile, text)
	}
}

// TestEndpointAtRest: the authority of the endpoint is kept as the CA is.
func TestEndpointAtRest(t *testing.T) {
	dir := caDir(t)
	e, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: trustDomain(t), Keys: keysOf(t, nil, newIdentity(t))})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, e)
	if names := inClear(t, dir); len(names) > 0 {
		t.Errorf("in clear: %q", names)
	}
	if _, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: trustDomain(t)}); err == nil || !strings.Contains(err.Error(), "--ca-key-file") {
		t.Errorf("without the identity: %v", err)
	}
}

// TestRequestAtRest: the key of a request that somebody has to approve is encrypted as all are, if it was written in clear before.
func TestRequestAtRest(t *testing.T) {
	dir := caDir(t)
	mustClose(t, mustOpen(t, Config{Dir: dir}))
	writeFile(t, []byte("-----BEGIN PRIVATE KEY-----\nof a request\n"), dir, requestFile)
	mustClose(t, mustOpen(t, Config{Dir: dir, Keys: keysOf(t, nil, newIdentity(t))}))
	if names := inClear(t, dir); len(names) > 0 {
		t.Errorf("in clear: %q", names)
	}
}
