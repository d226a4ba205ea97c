//go:build e2e && vault

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// vaultToken is the root token of the tests' Vault.
const vaultToken = "root-of-the-tests"

// startVault starts a Vault, $VAULT, that keeps everything in memory, and returns its address.
func startVault(t *testing.T, port int) string {
	t.Helper()
	binary := os.Getenv("VAULT")
	if binary == "" {
		t.Fatal("VAULT is not set: make test-vault builds one")
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	dir := t.TempDir()
	cmd := exec.Command(binary, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+vaultToken, "-dev-listen-address="+addr)
	cmd.Env, cmd.Dir = append(meshtest.Environ(), "HOME="+dir), dir
	p := meshtest.Start(t, "vault server", filepath.Join(dir, "vault.log"), cmd)
	meshtest.Await(t, "Vault ready", func() error {
		if p.Ended() {
			t.Fatalf("vault ended: %s", p.Log())
		}
		if a := meshtest.GetPlain("http://" + addr + "/v1/sys/health"); a.Status != http.StatusOK {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	return "http://" + addr
}

// TestConsulVault has Vault take the place of Consul's own CA under load, and Consul's own come back. Nobody notices either.
func TestConsulVault(t *testing.T) {
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	vault := startVault(t, m.Port())
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, c, m)
	same := unmodified(t, cars...)
	load := besideBusy(t, m)
	rotated(t, cars, "vault", func() {
		c.RotateRoot("vault", map[string]any{"Address": vault, "Token": vaultToken, "RootPKIPath": "connect-root", "IntermediatePKIPath": "connect-intermediate"})
	})
	rotated(t, cars, "consul", func() { c.RotateRoot("consul", map[string]any{"PrivateKey": meshtest.ECKey(t)}) })
	unscathed(t, "to Vault and back", load.Stop())
	same("to Vault and back")
	works(t, c, m)
}
