package vault

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/sallyport/sallyport/internal/testca"
)

// openBao is the version that `make tools` fetches.
const openBao = "2.7.2"

// bao is a real OpenBao with storage on disk, and its administrator.
type bao struct {
	whole     *testing.T
	t         *testing.T // whole, or the part that runs
	dir       string
	url       string
	tls       *testca.Pair // the CA of its listener and of its clients
	admin     *remote.Client
	token     string // of root
	unsealKey string
	process   *meshtest.Process
}

// isVault reports whether the tests run on a real Vault instead, as `make test-vault` has them.
func isVault() bool { return os.Getenv("VAULT") != "" }

func serverBinary(t *testing.T) string {
	t.Helper()
	if name := cmp.Or(os.Getenv("VAULT"), os.Getenv("OPENBAO")); name != "" {
		return name
	}
	return envoytest.Tool(t, "openbao-"+openBao)
}

// startBao starts an OpenBao of its own on loopback, initialized and unsealed.
func startBao(t *testing.T) *bao {
	t.Helper()
	if os.Getenv("SALLYPORT_SKIP_ENVOY") != "" {
		t.Skip("SALLYPORT_SKIP_ENVOY is set: no test on OpenBao")
	}
	binary := serverBinary(t)
	more := ""
	if isVault() { // which demands that it is said
		more = "disable_mlock = true\n"
	}
	b := &bao{whole: t, t: t, dir: t.TempDir(), tls: testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "tls"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)}
	var ports meshtest.Ports
	var listens [2]string
	for i := range listens {
		port, err := ports.Next()
		if err != nil {
			t.Fatal(err)
		}
		listens[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	api, cluster := listens[0], listens[1]
	b.url = "https://" + api
	write(t, b.file("ca.pem"), b.tls.PEM())
	b.pair("server", "")
	if err := os.Mkdir(b.file("raft"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, b.file("bao.hcl"), more+fmt.Sprintf(`
storage "raft" {
  path = %q
  node_id = "one"
  performance_multiplier = 1
}
listener "tcp" {
  address = %q
  tls_cert_file = %q
  tls_key_file = %q
}
api_addr = %q
cluster_addr = "https://%s"
`, b.file("raft"), api, b.file("server.pem"), b.file("server-key.pem"), b.url, cluster))
	var err error
	if b.admin, err = remote.New(remote.Config{Name: "OpenBao", URL: b.url, CAFile: b.file("ca.pem")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.admin.Close)
	b.start(binary)
	var keys struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	b.await("up", func() error {
		a, err := b.admin.Ask(t.Context(), remote.Question{Method: http.MethodPut, Path: "/v1/sys/init", Body: []byte(`{"secret_shares": 1, "secret_threshold": 1}`)})
		if err != nil {
			return err
		}
		return json.Unmarshal(a.Body, &keys)
	})
	b.unsealKey, b.token = keys.Keys[0], keys.Token
	b.unseal()
	return b
}

// run runs a part of the test, whose failures are its own.
func (b *bao) run(name string, f func(t *testing.T)) {
	defer func() { b.t = b.whole }()
	b.whole.Run(name, func(t *testing.T) { b.t = t; f(t) })
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func (b *bao) file(name string) string { return filepath.Join(b.dir, name) }

// pair writes a certificate of the TLS CA for 127.0.0.1 and its key: NAME.pem, NAME-key.pem.
func (b *bao) pair(name, uri string) (cert, key string) {
	b.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			b.t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	p := testca.Sign(b.t, template, b.tls)
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		b.t.Fatal(err)
	}
	write(b.t, b.file(name+".pem"), p.PEM())
	write(b.t, b.file(name+"-key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return b.file(name + ".pem"), b.file(name + "-key.pem")
}

func (b *bao) start(binary string) {
	b.t.Helper()
	cmd := exec.Command(binary, "server", "-config="+b.file("bao.hcl"))
	cmd.Env, cmd.Dir = append(meshtest.Environ(), "HOME="+b.dir), b.dir
	b.process = meshtest.Start(b.whole, "bao server", b.file("bao.log"), cmd)
}

// restart is kill -9 and a new process, unsealed again.
func (b *bao) restart() {
	b.t.Helper()
	b.process.Stop(syscall.SIGKILL, 0)
	b.start(serverBinary(b.t))
	b.unseal()
}

func (b *bao) await(what string, try func() error) {
	b.t.Helper()
	meshtest.Await(b.t, "OpenBao "+what, func() error {
		if b.process.Ended() {
			b.t.Fatal("it ended")
		}
		return try()
	})
}

// unseal returns when it is unsealed and active.
func (b *bao) unseal() {
	b.t.Helper()
	b.await("unsealed", func() error {
		_, err := b.try("", http.MethodPut, "sys/unseal", map[string]any{"key": b.unsealKey})
		return err
	})
	// By a client of its own: the breaker of the other may be open.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	b.await("active", func() error {
		resp, err := client.Get(b.url + "/v1/sys/health")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// try asks as root in a namespace.
func (b *bao) try(namespace, method, path string, body any, header ...string) (map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	h := http.Header{"X-Vault-Token": {b.token}}
	if namespace != "" {
		h.Set("X-Vault-Namespace", namespace)
	}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	a, err := b.admin.Ask(context.Background(), remote.Question{Method: method, Path: "/v1/" + path, Header: h, Body: text, Accept: []int{200, 204}})
	if err != nil {
		return nil, err
	}
	got := map[string]any{}
	if len(a.Body) == 0 {
		return got, nil
	}
	err = json.Unmarshal(a.Body, &got)
	return got, err
}

// do asks as root and returns the data of the answer.
func (b *bao) do(method, path string, body any, header ...string) map[string]any {
	b.t.Helper()
	return b.in("", method, path, body, header...)
}

// in is do in a namespace.
func (b *bao) in(namespace, method, path string, body any, header ...string) map[string]any {
	b.t.Helper()
	got, err := b.try(namespace, method, path, body, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, part := range []string{"data", "wrap_info", "auth"} {
		if data, ok := got[part].(map[string]any); ok {
			return data
		}
	}
	return got
}

func text(data map[string]any, key string) string { s, _ := data[key].(string); return s }
