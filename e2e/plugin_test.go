//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestPluginPage types what docs/certificates/plug-in.md has for a shell.
func TestPluginPage(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs("../docs/certificates/plug-in")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-euc", pageBlock(t, "certificates/plug-in.md", "", "openssl req -x509", "/usr/local/lib/sallyport", examples))
	cmd.Dir, cmd.Env = t.TempDir(), append(meshtest.Environ(), "PATH="+filepath.Dir(sallyport)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
