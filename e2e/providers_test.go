//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// typed runs lines of a page in a directory.
func typed(t *testing.T, dir, script string, env ...string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir, cmd.Env = dir, append(meshtest.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// behind runs a mesh with a CA behind it, as a configuration file says. away is what takes that away: then leafs go on, if home is set,
// as they are signed here.
func behind(t *testing.T, config string, home bool, away func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, "--config", file)
	m.Add(meshtest.Service{Name: "api", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web")
	passes := func() {
		t.Helper()
		meshtest.Await(t, "web → api", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "api"), "hello")) })
	}
	passes()
	away()
	if home {
		m.MustRun("leaf", "rotate", "api")
		m.MustRun("leaf", "rotate", "web")
	}
	passes()
}

// pluginFor makes a CA for the plug-in for OpenSSL in dir.
func pluginFor(t *testing.T, dir string) {
	t.Helper()
	examples, err := filepath.Abs("../docs/certificates/plug-in")
	if err != nil {
		t.Fatal(err)
	}
	typed(t, dir, pageBlock(t, "certificates/plug-in.md", "", "openssl req -x509", "/usr/local/lib/sallyport", examples), "PATH="+filepath.Dir(sallyport)+":"+os.Getenv("PATH"))
	typed(t, dir, "cp "+examples+"/openssl.sh .")
}

// filesFor makes an intermediate and its key in dir.
func filesFor(t *testing.T, dir string) {
	t.Helper()
	typed(t, dir, "umask 022; "+pageBlock(t, "certificates/files.md", "", "openssl x509 -req"))
}

// vaultFor runs an OpenBao in dir, with the policy that the page says, at an address.
func vaultFor(t *testing.T, dir string) (address string, process *meshtest.Process) {
	t.Helper()
	binary := os.Getenv("OPENBAO")
	if binary == "" {
		binary = envoytest.Tool(t, "openbao-2.7.2")
	}
	address = unusedAddress(t)
	cmd := exec.Command(binary, "server", "-dev", "-dev-tls", "-dev-tls-cert-dir="+dir, "-dev-root-token-id=root", "-dev-listen-address="+address, "-dev-no-store-token")
	cmd.Env, cmd.Dir = append(meshtest.Environ(), "HOME="+dir), dir
	process = meshtest.Start(t, "bao server", dir+"/bao.log", cmd)
	typed(t, dir, "ln -s "+binary+" vault; ln -s "+sallyport+" sallyport")
	asRoot(t, dir, address, "n=0; until vault status >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 200 ]; sleep 0.1; done")
	asRoot(t, dir, address, pageBlock(t, "certificates/vault.md", "", "vault secrets enable", "/etc/sallyport", dir))
	asRoot(t, dir, address, "vault read -field=certificate pki/cert/ca > root.pem")
	return address, process
}

// asRoot types what Vault's administrator does, in vaultFor's directory.
func asRoot(t *testing.T, dir, address, script string) {
	t.Helper()
	typed(t, dir, script, "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "BAO_ADDR=https://"+address, "BAO_TOKEN=root", "BAO_CACERT="+caOf(t, dir))
}

// TestProviderPlugin: an intermediate by the plug-in for OpenSSL, and leafs without it.
func TestProviderPlugin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pluginFor(t, dir)
	behind(t, pageBlock(t, "certificates/plug-in.md", "yaml", "ca_provider: plugin", "/usr/local/lib/sallyport", dir, "/var/lib/mesh-ca", dir+"/mesh-ca"), true, func() { typed(t, dir, "rm -r openssl.sh mesh-ca") })
}

// TestProviderFiles: leafs by the key of an intermediate in files, also when those are gone.
func TestProviderFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	filesFor(t, dir)
	behind(t, pageBlock(t, "certificates/files.md", "yaml", "key_file", "/etc/mesh-ca", dir), true, func() { typed(t, dir, "rm *.pem") })
}

// TestProviderVault: each leaf by an OpenBao, and an intermediate by it and leafs without it, with the policies that the page says.
func TestProviderVault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address, bao := vaultFor(t, dir)
	eachLeafAt(t, dir, address)
	behind(t, pageBlock(t, "certificates/vault.md", "yaml", "ca_provider: vault", "/etc/sallyport/vault-ca.pem", caOf(t, dir), "/etc/sallyport", dir, "vault.example:8200", address), true, func() { bao.Stop(syscall.SIGKILL, 0) })
}

// eachLeafAt has a Vault sign each leaf by a role, as the page says, and puts the policy of an intermediate back.
func eachLeafAt(t *testing.T, dir, address string) {
	t.Helper()
	config := pageBlock(t, "certificates/vault.md", "yaml", "LeafRole: mesh", "/etc/sallyport/vault-ca.pem", caOf(t, dir), "/etc/sallyport", dir, "vault.example:8200", address)
	if err := os.WriteFile(dir+"/sallyport.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	asRoot(t, dir, address, pageBlock(t, "certificates/vault.md", "", "vault write pki/roles/mesh", "/etc/sallyport", dir))
	behind(t, config, true, func() {}) // renewed there
	asRoot(t, dir, address, "sallyport ca vault-policy --mount pki | vault policy write sallyport -")
}

// caOf awaits the CA that OpenBao makes for its own TLS.
func caOf(t *testing.T, dir string) (name string) {
	t.Helper()
	meshtest.Await(t, "OpenBao's own CA", func() error {
		all, err := filepath.Glob(dir + "/*ca.pem")
		if err == nil && len(all) == 0 {
			return os.ErrNotExist
		}
		name = strings.Join(all, "")
		return err
	})
	return name
}

// unusedAddress is an address of loopback that nobody listens on.
func unusedAddress(t *testing.T) string {
	t.Helper()
	var ports meshtest.Ports
	port, err := ports.Next()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}
