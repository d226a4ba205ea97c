package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/sallyport/sallyport/internal/keyring"
)

const secret = "-----BEGIN PRIVATE KEY-----\nof the test\n-----END PRIVATE KEY-----\n"

// identity is a new one, as age-keygen writes it.
func identity(t testing.TB) string {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return "# created: 2027-03-01T12:00:00Z\n# public key: " + i.Recipient().String() + "\n" + i.String() + "\n"
}

// file writes a file of identities.
func file(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.age")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, lines ...string) *keyring.Keyring {
	t.Helper()
	k, err := keyring.Open(file(t, lines...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k *keyring.Keyring) []byte {
	t.Helper()
	data, err := k.Seal("CA root", []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSeal(t *testing.T) {
	first, second := identity(t), identity(t)
	one, both, other := open(t, first), open(t, second, first), open(t, second)
	var none *keyring.Keyring
	data := seal(t, one)
	if !strings.HasPrefix(string(data), "sallyport CA root, format 2, age\n-----BEGIN AGE") || strings.Contains(string(data), "PRIVATE") {
		t.Errorf("sealed:\n%s", data)
	}
	if again := seal(t, one); bytes.Equal(again, data) {
		t.Error("two encryptions are equal")
	}
	junk := bytes.Clone(data)
	junk[len(junk)-60] ^= 1
	for name, tt := range map[string]struct {
		k       *keyring.Keyring
		data    []byte
		current bool
		err     string
	}{
		"its identity":                 {one, data, true, ""},
		"the second identity":          {both, data, false, ""},
		"the first of two":             {both, seal(t, other), true, ""},
		"another identity":             {other, data, false, "no identity in"},
		"none":                         {none, data, false, "--ca-key-file"},
		"in clear":                     {one, []byte(secret), false, ""},
		"in clear, and to stay":        {none, []byte(secret), true, ""},
		"without the first line":       {one, data[bytes.IndexByte(data, '\n')+1:], true, ""},
		"damaged":                      {one, junk, false, "is damaged"},
		"cut off":                      {one, data[:len(data)/2], false, "is damaged"},
		"the first line alone":         {one, data[:bytes.IndexByte(data, '\n')+1], false, "is damaged"},
		"the first line, and in clear": {one, append(data[:bytes.IndexByte(data, '\n')+1:bytes.IndexByte(data, '\n')+1], secret...), false, "is damaged"},
	} {
		plain, current, err := tt.k.Unseal("/data/ca/root.pem", tt.data)
		switch {
		case tt.err == "" && (err != nil || string(plain) != secret || current != tt.current):
			t.Errorf("%s: %v, current %t", name, err, current)
		case tt.err != "" && (err == nil || plain != nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "/data/ca/root.pem") || strings.Contains(err.Error(), "SECRET")):
			t.Errorf("%s: %v, want %q", name, err, tt.err)
		}
	}
	for _, printed := range []string{fmt.Sprint(one), fmt.Sprintf("%#v %+v %s", one, one, one), slog.AnyValue(one).Resolve().String()} {
		if strings.Contains(printed, "SECRET") || !strings.Contains(printed, "keyring ") {
			t.Errorf("printed %s", printed)
		}
	}
}

func TestOpen(t *testing.T) {
	good := identity(t)
	_, recipient, _ := strings.Cut(good, "age1")
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"one":                  {good, ""},
		"of a quantum age":     {pq.String() + "\n", ""},
		"nothing":              {"# nothing\n\n", "holds no identity"},
		"a recipient":          {"age1" + recipient, ":1: a recipient"},
		"a plug-in's":          {good + "AGE-PLUGIN-YUBIKEY-1QQQ\n", ":4: an identity of an age plug-in"},
		"a damaged one":        {strings.TrimRight(good, "\n") + "A\n", ":3: not an identity"},
		"an OpenSSH key":       {"-----BEGIN OPENSSH PRIVATE KEY-----\n", ":1: not an identity"},
		"more than identities": {strings.Repeat("#\n", 40<<10), "no file of identities"},
	} {
		_, err := keyring.Open(file(t, tt.text), nil)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "SECRET-KEY-1Q")) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for mode, want := range map[os.FileMode]string{0o400: "", 0o600: "", 0o604: "mode 0604", 0o660: "mode 0660", 0o644: "mode 0644"} {
		path := file(t, good)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(path, nil); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if _, err := keyring.Open(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := keyring.Open(filepath.Join(t.TempDir(), "no"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestAgeByHand: the command that the documentation names decrypts a file, with nothing of sallyport's. Where there is no age on the machine
// its library stands for it: that is what the command is made of.
func TestAgeByHand(t *testing.T) {
	path := file(t, identity(t))
	k, err := keyring.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	data := seal(t, k)
	sealed := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(sealed, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("age"); err != nil {
		t.Log("there is no age command here: its library decrypts the file alone")
		if plain, _, err := k.Unseal(sealed, data); err != nil || string(plain) != secret {
			t.Errorf("%q, %v", plain, err)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "tail -n +2 \"$1\" | age -d -i \"$2\"", "sh", sealed, path)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != secret {
		t.Errorf("age -d: %v: %s", err, out)
	}
}
