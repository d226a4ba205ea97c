package plugin

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHSM is the example of docs/certificates/hsm.md, with SoftHSM in the place of an HSM.
func TestHSM(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("there is no %s: apt-get install softhsm2 opensc", program)
		}
	}
	const page = "../../docs/certificates/hsm"
	text, err := os.ReadFile(page + ".md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(text), "apt-get install softhsm2 opensc\n")
	script, _, okToo := strings.Cut(script, "```")
	if !ok || !okToo {
		t.Fatal("the page does not say how to make a token")
	}
	dir := t.TempDir()
	program, err := os.ReadFile(page + ".py")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "hsm.py"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script+"\nfor v in CA_DIR SOFTHSM2_CONF PKCS11_MODULE PKCS11_TOKEN PIN_FILE; do eval echo $v=\\$$v; done >env")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	conformsIn(t, Config{Command: []string{filepath.Join(dir, "hsm.py")}, Env: strings.Fields(string(env))}, 33)
	files, err := filepath.Glob(filepath.Join(dir, "mesh-hsm", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "PRIVATE KEY") {
			t.Errorf("%s has a private key", f)
		}
	}
}
