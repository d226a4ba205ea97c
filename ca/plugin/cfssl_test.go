//go:build cfssl

package plugin

import (
	"os"
	"testing"
)

// TestCFSSL is the second example of the page.
func TestCFSSL(t *testing.T) {
	dir, err := os.MkdirTemp("", "cfssl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile(os.Getenv("CFSSL"))
	if err != nil {
		t.Fatalf("CFSSL: %v", err)
	}
	if err := os.WriteFile(dir+"/cfssl", binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	atSocket(t, "cfssl.py", dir)
}
