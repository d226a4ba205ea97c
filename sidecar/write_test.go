package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
)

// testCA is a certificate that nothing is signed with.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBbjCCAROgAwIBAgIBATAKBggqhkjOPQQDAjAdMRswGQYDVQQDExJjb250cm9s
IHBsYW5lIHJvb3QwIBcNMjYwMTAxMDAwMDAwWhgPMjEyNjAxMDEwMDAwMDBaMB0x
GzAZBgNVBAMTEmNvbnRyb2wgcGxhbmUgcm9vdDBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABF1shUQ7ltX7oCz5ZBKv6EPbG0eEnHDKfIw3AMBQ7OWcM1pJ+g3jEvTl
JsSziI0xPKAbywoo09XS/tjnZuexsW6jQjBAMA4GA1UdDwEB/wQEAwICBDAPBgNV
HRMBAf8EBTADAQH/MB0GA1UdDgQWBBSED32w2tFjAYr8Jme4FIAdcsc7DDAKBggq
hkjOPQQDAgNJADBGAiEAqcLePajkRPCGD+h5raDCKwpZipjt7Kx8wFZEf9J/LPoC
IQCtZyKpyvA6j8dbqr2kDumrj3wfh0anB6ZGw+sPM5TsSg==
-----END CERTIFICATE-----
`

// bootstrapFile is what the tests look at in a bootstrap.
type bootstrapFile struct {
	Admin struct {
		AllowPaths []any `json:"allow_paths"`
	} `json:"admin"`
	Static struct {
		Clusters []struct {
			TransportSocket any `json:"transport_socket"`
		} `json:"clusters"`
	} `json:"static_resources"`
}

func readBootstrap(t *testing.T, dir string) (text string, out bootstrapFile) {
	t.Helper()
	for _, name := range []string{"bootstrap.json", "token.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", name, info, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return string(b), out
}

func TestWrite(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	c := forWeb(t, s)
	c.Dir, c.AdminBind, c.DrainTime = filepath.Join(t.TempDir(), "d"), "127.0.0.1:19000", 5*time.Second
	written, err := Write(t.Context(), c, Target{})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--config-path", c.Dir + "/bootstrap.json", "--drain-time-s", "5", "--drain-strategy", "immediate", "--disable-hot-restart"}
	if written.Dir != c.Dir || written.Proxy.ProxyID != "web-sidecar-proxy" || written.Anonymous() || !slices.Equal(written.Args, args) {
		t.Errorf("Write = %+v", written)
	}
	text, b := readBootstrap(t, c.Dir)
	if strings.Contains(text, "token-1") {
		t.Error("the bootstrap holds the token")
	}
	if len(b.Admin.AllowPaths) != 0 {
		t.Error("a bootstrap for any Envoy has fields that only newer ones know")
	}

	c.SidecarFor, c.ProxyID, c.TokenTTL = "", "web-sidecar-proxy", 2*time.Hour
	if _, err := Write(t.Context(), c, Target{Version: bootstrap.Version{Major: 1, Minor: 40}}); err != nil {
		t.Fatal(err)
	}
	if got := s.requests()[1]; got != (admin.TokenRequest{ProxyID: c.ProxyID, TTL: c.TokenTTL}) {
		t.Errorf("asked for %+v", got)
	}
	if _, b = readBootstrap(t, c.Dir); len(b.Admin.AllowPaths) == 0 {
		t.Error("a bootstrap for Envoy 1.40.0 does not restrict its administration")
	}
	token, err := os.ReadFile(filepath.Join(c.Dir, "token.json"))
	if err != nil || !strings.Contains(string(token), "Bearer token-2") {
		t.Errorf("token file %s, %v", token, err)
	}
}

func TestWriteDefaultDirectory(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	c := forWeb(t, s)
	if _, err := Write(t.Context(), c, Target{}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "web-sidecar-proxy")
	readBootstrap(t, dir)
	held, err := lock(dir, "web-sidecar-proxy")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if _, err := Write(t.Context(), c, Target{}); err == nil || !strings.Contains(err.Error(), "already running here") {
		t.Errorf("under a running sidecar: %v, want a refusal", err)
	}
}

func TestWriteRemote(t *testing.T) {
	c := forWeb(t, startSidecarServer(t, &sidecarServer{life: time.Hour, remote: true}))
	c.Dir = filepath.Join(t.TempDir(), "web")
	written, err := Write(t.Context(), c, Target{XDSAddress: "cp.example.com:8502", Dir: "/etc/envoy/"})
	if err != nil {
		t.Fatal(err)
	}
	text, b := readBootstrap(t, c.Dir)
	for _, want := range []string{"cp.example.com", `"port_value": 8502`, "spiffe://mesh.example/sallyport/xds", `"/etc/envoy/token.json"`, `"/etc/envoy/admin.sock"`} {
		if !strings.Contains(text, want) {
			t.Errorf("bootstrap lacks %s", want)
		}
	}
	if len(b.Static.Clusters) != 1 || b.Static.Clusters[0].TransportSocket == nil || strings.Contains(text, "xds.sock") {
		t.Errorf("the control plane is not reached over TLS alone: %s", text)
	}
	if !slices.Contains(written.Args, "/etc/envoy/bootstrap.json") {
		t.Errorf("arguments %q do not name the bootstrap where it belongs", written.Args)
	}
}

func TestWriteRefuses(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	for want, change := range map[string]func(*Config, *Target){
		"no endpoint for other machines": func(_ *Config, t *Target) { t.XDSAddress = "cp:1" },
		"too old":                        func(_ *Config, t *Target) { t.Version = bootstrap.Version{Major: 1, Minor: 20} },
		"no such proxy":                  func(c *Config, _ *Target) { c.SidecarFor = "nobody" },
		"drain time 1.5s":                func(c *Config, _ *Target) { c.DrainTime = 1500 * time.Millisecond },
		"--token-ttl -1s":                func(c *Config, _ *Target) { c.TokenTTL = -time.Second },
		"--wait -1s":                     func(c *Config, _ *Target) { c.Wait = -time.Second },
		"after 300ms: not found: no such proxy": func(c *Config, _ *Target) {
			c.SidecarFor, c.Wait, c.Waiting = "nobody", 300*time.Millisecond, func(error) {}
		},
		"expected a full path": func(c *Config, _ *Target) { c.AdminBind = "unix:relative" },
	} {
		c, target := forWeb(t, s), Target{}
		c.Dir = filepath.Join(t.TempDir(), "web")
		change(&c, &target)
		if _, err := Write(t.Context(), c, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write = %v, want %q", err, want)
		}
		if _, err := os.Stat(filepath.Join(c.Dir, "token.json")); err == nil {
			t.Errorf("%s: a token was written all the same", want)
		}
	}
}

// TestWriteWaits: the control plane is started later, has then not read its catalog, and then not
// this proxy in it.
func TestWriteWaits(t *testing.T) {
	s := &sidecarServer{dir: shortDir(t), life: time.Hour, first: []error{fmt.Errorf("%w: no catalog", admin.ErrNotYet), fmt.Errorf("%w: web", admin.ErrUnknown)}}
	waiting := make(chan string, 10)
	c := forWeb(t, s)
	c.Dir, c.Wait, c.Waiting = filepath.Join(t.TempDir(), "web"), time.Minute, func(err error) { waiting <- err.Error() }
	ended := make(chan error, 1)
	go func() {
		defer close(waiting)
		_, err := Write(t.Context(), c, Target{})
		ended <- err
	}()
	if first := <-waiting; !strings.Contains(first, "no running sallyport found") {
		t.Fatalf("it said %q, want where it found no control plane", first)
	}
	startSidecarServer(t, s)
	var got []string
	for text := range waiting {
		if !strings.Contains(text, "nobody answers") { // a socket that is not listened on yet
			got = append(got, text)
		}
	}
	if want := []string{"not yet: no catalog", "not found: web"}; !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	readBootstrap(t, c.Dir)
}

// TestWriteDoesNotWaitInVain: who may not have the token is told so at once.
func TestWriteDoesNotWaitInVain(t *testing.T) {
	for _, refused := range []error{fmt.Errorf("%w to uid 7", admin.ErrForbidden), errors.New("two proxies: choose one")} {
		c := forWeb(t, startSidecarServer(t, &sidecarServer{life: time.Hour, first: []error{refused}}))
		c.Wait = time.Minute
		if _, err := Write(t.Context(), c, Target{}); err == nil || err.Error() != refused.Error() {
			t.Errorf("Write = %v, want %v", err, refused)
		}
	}
}
