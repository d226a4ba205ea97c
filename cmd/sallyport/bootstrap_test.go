package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

func runBootstrapCommand(t *testing.T, s *sidecarServer, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := newBootstrapCommand(&clientOptions{runtimeDir: s.dir})
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetOut(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

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

func TestBootstrapCommand(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	dir := filepath.Join(t.TempDir(), "it's")
	out, err := runBootstrapCommand(t, s, "--sidecar-for", "web", "-o", dir, "--admin-bind", "127.0.0.1:19000", "--drain-time", "5s")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"of web-sidecar-proxy (service web) to " + dir, "in 30 days", `envoy --config-path '` + filepath.Dir(dir) + `/it'\''s/bootstrap.json' --drain-time-s 5 --drain-strategy immediate --disable-hot-restart`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	text, b := readBootstrap(t, dir)
	if strings.Contains(text, "token-1") || strings.Contains(out, "token-1") {
		t.Error("the bootstrap or the output holds the token")
	}
	if len(b.Admin.AllowPaths) != 0 {
		t.Error("a bootstrap for any Envoy has fields that only newer ones know")
	}
	if got := s.requests()[0].TTL; got != bootstrapTokenTTL {
		t.Errorf("asked for a token of %s, want %s", got, bootstrapTokenTTL)
	}

	if _, err := runBootstrapCommand(t, s, "--proxy-id", "web-sidecar-proxy", "-o", dir, "--admin-bind", "127.0.0.1:19000", "--envoy-version", "1.40.0", "--token-ttl", "1h"); err != nil {
		t.Fatal(err)
	}
	if _, b = readBootstrap(t, dir); len(b.Admin.AllowPaths) == 0 {
		t.Error("a bootstrap for Envoy 1.40.0 does not restrict its administration")
	}
	token, err := os.ReadFile(filepath.Join(dir, "token.json"))
	if err != nil || !strings.Contains(string(token), "Bearer token-2") {
		t.Errorf("token file %s, %v", token, err)
	}
}

func TestBootstrapDefaultDirectory(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	if _, err := runBootstrapCommand(t, s, "--sidecar-for", "web"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "web-sidecar-proxy")
	readBootstrap(t, dir)
	release, err := lockSidecar(dir, "web-sidecar-proxy")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := runBootstrapCommand(t, s, "--sidecar-for", "web"); err == nil || !strings.Contains(err.Error(), "already running here") {
		t.Errorf("under a running sidecar: %v, want a refusal", err)
	}
}

func TestBootstrapRemote(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour, remote: true})
	dir := filepath.Join(t.TempDir(), "web")
	out, err := runBootstrapCommand(t, s, "--sidecar-for", "web", "-o", dir, "--xds-address", "cp.example.com:8502", "--target-dir", "/etc/envoy")
	if err != nil {
		t.Fatal(err)
	}
	text, b := readBootstrap(t, dir)
	for _, want := range []string{"cp.example.com", `"port_value": 8502`, "spiffe://mesh.example/sallyport/xds", `"/etc/envoy/token.json"`, `"/etc/envoy/admin.sock"`} {
		if !strings.Contains(text, want) {
			t.Errorf("bootstrap lacks %s", want)
		}
	}
	if len(b.Static.Clusters) != 1 || b.Static.Clusters[0].TransportSocket == nil || strings.Contains(text, "xds.sock") {
		t.Errorf("the control plane is not reached over TLS alone: %s", text)
	}
	if !strings.Contains(out, "Copy both to /etc/envoy") || !strings.Contains(out, "--config-path /etc/envoy/bootstrap.json") {
		t.Errorf("output %q does not say where the files belong", out)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: time.Hour})
	for args, want := range map[string]string{
		"--sidecar-for web --xds-address cp:1":         "no endpoint for other machines",
		"--sidecar-for web --envoy-version new":        "--envoy-version: ",
		"--sidecar-for web --envoy-version 1.20.0":     "too old",
		"--sidecar-for web --target-dir etc":           "--target-dir",
		"--sidecar-for nobody":                         "no such proxy",
		"--sidecar-for web --drain-time 1500ms":        "drain time 1.5s",
		"--sidecar-for web --token-ttl -1s":            "--token-ttl -1s",
		"--sidecar-for web --wait -1s":                 "--wait -1s",
		"--sidecar-for nobody --wait 300ms":            "after 300ms: not found: no such proxy",
		"--sidecar-for web --admin-bind unix:relative": "expected a full path",
		"--sidecar-for web more":                       "unknown command",
	} {
		dir := filepath.Join(t.TempDir(), "web")
		_, err := runBootstrapCommand(t, s, append(strings.Fields(args), "-o", dir)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bootstrap %s: %v, want %q", args, err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "token.json")); err == nil {
			t.Errorf("bootstrap %s: a token was written all the same", args)
		}
	}
}

// TestBootstrapWaits: the command is started before the control plane, which then has not read its catalog, and then not this proxy in it.
func TestBootstrapWaits(t *testing.T) {
	s := &sidecarServer{dir: shortDir(t), life: time.Hour, first: []error{fmt.Errorf("%w: no catalog", admin.ErrNotYet), fmt.Errorf("%w: web", admin.ErrUnknown)}}
	waiting, said := io.Pipe()
	c := newBootstrapCommand(&clientOptions{runtimeDir: s.dir})
	c.SetErr(said)
	c.SetOut(io.Discard)
	dir := filepath.Join(t.TempDir(), "web")
	c.SetArgs([]string{"--sidecar-for", "web", "-o", dir, "--wait", "1m"})
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(c.ExecuteContext(t.Context()), said.Close()) }()
	lines := bufio.NewScanner(waiting)
	if !lines.Scan() || !strings.Contains(lines.Text(), "no running sallyport found") {
		t.Fatalf("it said %q, want where it found no control plane", lines.Text())
	}
	startSidecarServer(t, s)
	var got []string
	for lines.Scan() {
		if !strings.Contains(lines.Text(), "nobody answers") { // a socket that is not listened on yet
			got = append(got, lines.Text())
		}
	}
	if want := []string{"waiting: not yet: no catalog", "waiting: not found: web"}; !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	readBootstrap(t, dir)
}

// TestBootstrapDoesNotWaitInVain: who may not have the token is told so at once.
func TestBootstrapDoesNotWaitInVain(t *testing.T) {
	for _, refused := range []error{fmt.Errorf("%w to uid 7", admin.ErrForbidden), errors.New("two proxies: choose one")} {
		s := startSidecarServer(t, &sidecarServer{life: time.Hour, first: []error{refused}})
		_, err := runBootstrapCommand(t, s, "--sidecar-for", "web", "-o", filepath.Join(t.TempDir(), "web"), "--wait", "1m")
		if err == nil || err.Error() != refused.Error() {
			t.Errorf("bootstrap = %v, want %v", err, refused)
		}
	}
}

func TestDescribe(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	r := admin.TokenResponse{ProxyID: "web-sidecar-proxy", Service: "web", Token: "secret", Expires: now.Add(90 * time.Minute)}
	if err := describe(&out, "/d", "/d", r, bootstrap.Params{}, now); err != nil {
		t.Fatal(err)
	}
	const want = `Wrote bootstrap.json and token.json of web-sidecar-proxy (service web) to /d
The token ends at 2026-11-01T01:30:00Z, in 1h30m0s: run this command again before that
Start Envoy with all of these flags:

  envoy --config-path /d/bootstrap.json --drain-time-s 30 --drain-strategy immediate --disable-hot-restart
`
	if got := out.String(); got != want {
		t.Errorf("describe:\n%s\nwant\n%s", got, want)
	}
}
