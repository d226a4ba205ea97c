package remote

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReadSecret: one word, and neither a wait nor a word of what is there otherwise.
func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ text, want, err string }{
		"a word":         {" the-secret\n", "the-secret", ""},
		"nothing":        {" \n", "", "is empty"},
		"two words":      {"the secret", "", "more in it than one word"},
		"two lines":      {"the\nsecret", "", "more in it than one word"},
		"no ASCII":       {"the-sécret", "", "more in it than one word"},
		"longest":        {strings.Repeat("s", maxFile), strings.Repeat("s", maxFile), ""},
		"more than that": {strings.Repeat("secret", maxFile), "", "is no file of"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(file)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %.20q, %v, want %q", name, got, err, tt.err)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(pipe); err == nil || !strings.Contains(err.Error(), "is no file of") {
		t.Errorf("a pipe, to which nobody writes: %v", err)
	}
	if _, err := ReadSecret(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}
