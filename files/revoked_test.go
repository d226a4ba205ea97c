package files_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
)

const (
	revokedWeb = "spiffe://example.org/ns/default/dc/dc1/svc/web"
	digest     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// TestRevokedIsReadAsWritten: what is written is read back, also what YAML would take for numbers.
func TestRevokedIsReadAsWritten(t *testing.T) {
	t.Parallel()
	at := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	all := []intention.Revocation{
		{ID: revokedWeb, Reason: "its key: \"stolen\"\\", By: "uid 1000 (ann)", At: at},
		{ID: revokedWeb, Serial: "1020", SHA256: digest, Until: at, At: at},
		{Serial: "9e11"},
		{SHA256: strings.Repeat("1", 64)},
	}
	text, err := files.FormatRevoked(all)
	if err != nil {
		t.Fatal(err)
	}
	got, err := files.ParseRevoked(files.RevokedFile, text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range got {
		if !strings.HasPrefix(got[i].Origin, "revoked.yaml:") {
			t.Errorf("origin %q", got[i].Origin)
		}
		got[i].Origin = ""
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Error(diff)
	}
	if got, err := files.ParseRevoked("revoked.hcl", []byte("revoked {\n  serial = \"0A:0b\"\n}\nrevoked {\n  spiffe_id = \""+revokedWeb+"\"\n}\n")); err != nil ||
		len(got) != 2 || got[0].Serial != "a0b" || got[1].ID != revokedWeb || got[1].Origin != "revoked.hcl:4" {
		t.Errorf("of HCL %+v, %v", got, err)
	}
}

// TestRevokedMistakes: each says where it is.
func TestRevokedMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"revoked:\n- serial: 1\n":                                     "revoked.yaml:2: serial must be a string, not a number",
		"revoked:\n- serial: \"xy\"\n":                                "revoked.yaml:2: serial \"xy\": want the serial number",
		"revoked:\n- sha256: \"ab\"\n":                                "revoked.yaml:2: sha256 \"ab\": want the SHA-256",
		"revoked:\n- spiffe_id: web\n":                                "revoked.yaml:2: spiffe_id: ",
		"revoked:\n- serial: \"\"\n  spiffe_id: " + revokedWeb + "\n": "revoked.yaml:2: serial is empty: ",
		"revoked:\n- serial: \"1\"\n  sha256:\n":                      "revoked.yaml:3: sha256 is empty: ",
		"revoked:\n- reason: why not\n":                               "revoked.yaml:2: names nothing",
		"revoked:\n- until: soon\n  serial: \"1\"\n":                  "revoked.yaml:2: until \"soon\": want a time",
		"revoked:\n- serial: \"01\"\n- serial: \"1\"\n":               "revoked.yaml:3: certificate 1 is revoked already at revoked.yaml:2",
		"revokd: []\n": "revoked.yaml:1: ",
		"":             "revoked.yaml:1: the file is empty",
		"revoked:\n" + strings.Repeat("- serial: \"1\"\n", 2000):                       "revoked.yaml",
		"revoked:\n- serial: \"" + strings.Repeat("1", 41) + "\"\n":                    "20 bytes at most",
		"revoked:\n- serial: \"1\"\n  reason: \"" + strings.Repeat("x", 1001) + "\"\n": "1000 at most",
	} {
		got, err := files.ParseRevoked(files.RevokedFile, []byte(text))
		if err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v, want %s", text, got, err, want)
		}
	}
	if _, err := files.ParseRevoked(files.RevokedFile, []byte("revoked:\n- serial: 12\n")); err == nil || strings.Contains(err.Error(), "names nothing") {
		t.Errorf("of one mistake two are made: %v", err)
	}
	var many []intention.Revocation
	for range 10_000 + 1 {
		many = append(many, intention.Revocation{Serial: "1"})
	}
	if _, err := files.FormatRevoked(many); err == nil || !strings.Contains(err.Error(), "10000 at most") {
		t.Errorf("too many: %v", err)
	}
}

// TestReadRevoked: the file is none of the definitions, and a directory that is not there says nothing.
func TestReadRevoked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := files.ReadRevoked(dir); err == nil {
		t.Error("an empty directory says that nothing is revoked")
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("web.hcl", "service { name = \"web\" port = 80 }\n")
	if got, err := files.ReadRevoked(dir); err != nil || len(got) != 0 {
		t.Errorf("without a file %v, %v", got, err)
	}
	write("revoked.yaml", "revoked:\n- serial: \"1\"\n")
	write("revoked.json", `{"revoked": [{"serial": "2"}]}`)
	if got, err := files.ReadRevoked(dir); err != nil || len(got) != 2 {
		t.Errorf("of two files %v, %v", got, err)
	}
	if _, err := files.Load(files.Config{Dir: dir}); err != nil {
		t.Errorf("definitions: %v", err)
	}
}

// TestRevokedLinkedTo: a link whose file is away takes nothing back.
func TestRevokedLinkedTo(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "list")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "web.hcl"), "# nothing\n")
	write(elsewhere, "revoked:\n- serial: \"1\"\n")
	if err := os.Symlink(elsewhere, filepath.Join(dir, files.RevokedFile)); err != nil {
		t.Fatal(err)
	}
	if all, err := files.ReadRevoked(dir); err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	if err := os.Remove(elsewhere); err != nil {
		t.Fatal(err)
	}
	if all, err := files.ReadRevoked(dir); err == nil || !strings.HasPrefix(err.Error(), "revoked.yaml: ") {
		t.Errorf("its file is away: %v, %v", all, err)
	}
}
