package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/envoytest"
)

// sidecarServer is a control plane's admin socket that gives out numbered tokens for the proxy web-sidecar-proxy.
type sidecarServer struct {
	dir       string // the runtime directory
	life      time.Duration
	remote    bool
	own       bool // proxies bring tokens of their own
	listeners []admin.Listener
	first     []error // answers before those with tokens

	minted atomic.Int64
	mu     sync.Mutex
	asked  []admin.TokenRequest
}

func startSidecarServer(t *testing.T, s *sidecarServer) *sidecarServer {
	t.Helper()
	if s.dir == "" {
		s.dir = shortDir(t)
	}
	dir := s.dir
	l, err := admin.Listen(admin.Socket(dir), 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	notFound := http.NotFoundHandler()
	go func() {
		served <- admin.Serve(ctx, l, admin.API{Token: s.token, Metrics: notFound, Health: notFound, Ready: notFound}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// shortDir is a directory for sockets, for which the path of t.TempDir is too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sidecar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *sidecarServer) token(_ admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	n := len(s.asked)
	s.mu.Unlock()
	if n <= len(s.first) {
		return admin.TokenResponse{}, s.first[n-1]
	}
	if r.SidecarFor != "web" && r.ProxyID != "web-sidecar-proxy" {
		return admin.TokenResponse{}, fmt.Errorf("%w: no such proxy", admin.ErrUnknown)
	}
	life := s.life
	if r.TTL != 0 {
		life = r.TTL
	}
	out := admin.TokenResponse{
		Token: fmt.Sprintf("token-%d", s.minted.Add(1)), Expires: time.Now().Add(life),
		ProxyID: "web-sidecar-proxy", Service: "web", Namespace: "default", Partition: "default", Datacenter: "dc1", TrustDomain: "mesh.example",
		Origin: "web.hcl:3", XDSSocket: admin.XDSSocket(s.dir), Listeners: s.listeners,
	}
	if s.own {
		out.Token, out.OwnToken = "", true
	}
	if s.remote {
		out.XDSCA, out.XDSURI = testCA, "spiffe://mesh.example/sallyport/xds"
	}
	return out, nil
}

func (s *sidecarServer) requests() []admin.TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]admin.TokenRequest(nil), s.asked...)
}

// sidecarRun is runEnvoy in the background.
type sidecarRun struct {
	stop  context.CancelFunc
	ended chan error
}

func startSidecar(t *testing.T, s *sidecarServer, o envoyOptions) sidecarRun {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := sidecarRun{stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- runEnvoy(ctx, s.dir, o, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(cancel)
	return r
}

// end stops the sidecar and returns how it ended.
func (r sidecarRun) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(awaitDeadline):
		t.Fatal("the sidecar does not end")
		return nil
	}
}

func forWeb() envoyOptions {
	return envoyOptions{sidecarOptions: sidecarOptions{sidecarFor: "web", drainTime: 30 * time.Second}}
}

func TestRunEnvoy(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: 3 * time.Second})
	bin := t.TempDir()
	o := forWeb()
	o.binary = fakeEnvoy(t, bin, "1.40.0", `echo "$@" >"$dir/args"; trap 'exit 9' TERM; `+waitForSignal)
	o.args = []string{"--concurrency", "1"}
	o.drainTime = 5 * time.Second
	r := startSidecar(t, s, o)
	fakePID(t, bin)

	dir := filepath.Join(s.dir, "web-sidecar-proxy")
	for name, mode := range map[string]fs.FileMode{"": 0o700, "bootstrap.json": 0o600, "token.json": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s/%s: %v, %v, want mode %04o", dir, name, info, err, mode)
		}
	}
	args, err := os.ReadFile(filepath.Join(bin, "args"))
	if want := "--config-path " + dir + "/bootstrap.json --drain-time-s 5 --drain-strategy immediate --disable-hot-restart --concurrency 1\n"; err != nil || string(args) != want {
		t.Errorf("arguments %q, %v, want %q", args, err, want)
	}
	content, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err != nil || bytes.Contains(content, []byte("token-1")) || !bytes.Contains(content, []byte(admin.XDSSocket(s.dir))) || !bytes.Contains(content, []byte(`"drain_time_s": 5`)) {
		t.Errorf("bootstrap %s, %v", content, err)
	}
	if err := runEnvoy(t.Context(), s.dir, o, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("already running here: pid %d ", os.Getpid())) {
		t.Errorf("a second sidecar of the proxy: %v, want an error that names the first", err)
	}
	awaitTrue(t, "a renewed token", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "token.json"))
		return err == nil && bytes.Contains(b, []byte("Bearer token-3"))
	})
	if got := s.requests(); got[len(got)-1].ProxyID != "web-sidecar-proxy" || got[0].SidecarFor != "web" {
		t.Errorf("asked for %+v, want the instance first and then the proxy that it turned out to have", got)
	}
	if err := r.end(t); err != exitError(9) { //nolint:errorlint // it is not wrapped
		t.Errorf("runEnvoy = %v, want Envoy's exit status 9", err)
	}
}

// TestAnonymous: without a token beside Consul a sidecar is nobody, which explains all that fails later.
func TestAnonymous(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	s := startSidecarServer(t, &sidecarServer{own: true, life: time.Hour, listeners: []admin.Listener{{Name: "x", Address: "192.0.2.1:1"}}})
	o := forWeb()
	o.binary = fakeEnvoy(t, t.TempDir(), "1.40.0", "exit 0")
	for _, token := range []string{"", "a-token"} {
		t.Setenv("CONSUL_HTTP_TOKEN", token)
		var log bytes.Buffer
		_ = runEnvoy(t.Context(), s.dir, o, slog.New(slog.NewTextHandler(&log, nil)))
		if said := strings.Contains(log.String(), "no token given"); said != (token == "") {
			t.Errorf("with the token %q: %s", token, log.String())
		}
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	out, err := runBootstrapCommand(t, s, "--sidecar-for", "web")
	if err != nil || !strings.Contains(out, "No token was given") {
		t.Errorf("bootstrap without a token: %v, %s", err, out)
	}
}

func TestRunEnvoyRefuses(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s := startSidecarServer(t, &sidecarServer{life: time.Hour, listeners: []admin.Listener{{Name: "public_listener", Address: held.Addr().String(), Origin: "web.hcl:3"}}})
	bin := t.TempDir()
	good := fakeEnvoy(t, bin, "1.40.0", "READY")
	old := fakeEnvoy(t, t.TempDir(), "1.35.0", "READY")
	unsafe := fakeEnvoy(t, t.TempDir(), "1.36.9", "READY")
	t.Setenv("ENVOY", "")
	t.Setenv("PATH", t.TempDir())
	for _, tt := range []struct {
		name   string
		change func(*envoyOptions)
		want   string
	}{
		{"a port that is held", func(*envoyOptions) {}, "listener public_listener: " + held.Addr().String() + " is in use by "},
		{"an unknown service", func(o *envoyOptions) { o.sidecarFor = "nobody" }, "no such proxy"},
		{"no Envoy", func(o *envoyOptions) { o.binary = "" }, "no envoy on PATH: install Envoy 1.36.0 or newer"},
		{"an Envoy that is not there", func(o *envoyOptions) { o.binary = "/nonexistent/envoy" }, "--envoy-binary: "},
		{"an old Envoy", func(o *envoyOptions) { o.binary = old }, "envoy 1.35.0 is too old"},
		{"an Envoy without security fixes", func(o *envoyOptions) { o.binary, o.strict = unsafe, true }, "envoy 1.36.9 lacks security fixes that 1.36.10 has"},
		{"a flag of ours", func(o *envoyOptions) { o.args = []string{"--config-path=/x"} }, "--config-path: sallyport sets it itself"},
		{"the drain time", func(o *envoyOptions) { o.args = []string{"--drain-time-s", "1"} }, "use --drain-time"},
		{"hot restart", func(o *envoyOptions) { o.args = []string{"--restart-epoch", "1"} }, "hot restart"},
		{"a negative life", func(o *envoyOptions) { o.tokenTTL = -time.Second }, "--token-ttl -1s"},
		{"an administration for all", func(o *envoyOptions) { o.adminBind = "0.0.0.0:19000" }, "(--admin-allow-remote)"},
		{"a long path", func(o *envoyOptions) { o.adminBind = "unix:/" + strings.Repeat("a", 120) }, "too long for a socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := forWeb()
			o.binary = good
			tt.change(&o)
			if err := runEnvoy(t.Context(), s.dir, o, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("runEnvoy = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(bin, "pid")); err == nil {
		t.Error("Envoy was started all the same")
	}
}

func TestRunEnvoyWithoutControlPlane(t *testing.T) {
	dir := t.TempDir()
	o := forWeb()
	o.binary = fakeEnvoy(t, t.TempDir(), "1.40.0", "READY")
	err := runEnvoy(t.Context(), filepath.Join(dir, "r"), o, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "r")) {
		t.Errorf("runEnvoy = %v, want an error that says where it looked", err)
	}
}

// TestRunRealEnvoy: a real Envoy starts with what is written, serves its administration, and ends with status 0.
func TestRunRealEnvoy(t *testing.T) {
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		t.Run(version, func(t *testing.T) {
			s := startSidecarServer(t, &sidecarServer{life: time.Hour})
			o := forWeb()
			o.binary = envoytest.Binary(t, version)
			o.adminBind = "unix:" + filepath.Join(s.dir, "a.sock")
			o.args = []string{"--log-level", "error", "--concurrency", "1"}
			r := startSidecar(t, s, o)
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.dir, "a.sock"))
			}}}
			var info struct {
				Options struct {
					DrainTime     string `json:"drain_time"`
					DrainStrategy string `json:"drain_strategy"`
				} `json:"command_line_options"`
				Node struct {
					ID string `json:"id"`
				} `json:"node"`
			}
			awaitTrue(t, "Envoy's administration", func() bool {
				resp, err := client.Get("http://envoy/server_info")
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				return json.NewDecoder(resp.Body).Decode(&info) == nil
			})
			if info.Node.ID != "web-sidecar-proxy" || info.Options.DrainTime != "30s" || info.Options.DrainStrategy != "Immediate" {
				t.Errorf("server_info: %+v", info)
			}
			if err := r.end(t); err != nil {
				t.Errorf("runEnvoy = %v after its context ended, want nil", err)
			}
		})
	}
}

func TestFindEnvoy(t *testing.T) {
	dir := t.TempDir()
	path := fakeEnvoy(t, dir, "1.40.0", "")
	other := fakeEnvoy(t, t.TempDir(), "1.40.0", "")
	t.Setenv("PATH", dir)
	for _, tt := range []struct{ flag, variable, want string }{
		{"", "", path},
		{"", other, other},
		{other, "/nonexistent", other},
		{"envoy", "", path},
	} {
		if got, err := findEnvoy(tt.flag, tt.variable); err != nil || got != tt.want {
			t.Errorf("findEnvoy(%q, %q) = %q, %v, want %q", tt.flag, tt.variable, got, err, tt.want)
		}
	}
}

func TestEnvoyVersion(t *testing.T) {
	if v, err := envoyVersion(t.Context(), fakeEnvoy(t, t.TempDir(), "1.38.3", "")); err != nil || v != (bootstrap.Version{Major: 1, Minor: 38, Patch: 3}) {
		t.Errorf("envoyVersion = %v, %v", v, err)
	}
	if _, err := envoyVersion(t.Context(), "/bin/true"); err == nil || !strings.Contains(err.Error(), "/bin/true --version: ") {
		t.Errorf("envoyVersion of no Envoy: %v", err)
	}
}

func TestGate(t *testing.T) {
	for _, tt := range []struct {
		version              string
		refused, strictFails bool
	}{
		{"1.40.0", false, false}, {"1.41.0", false, false}, {"1.39.1", false, false}, {"1.39.0", false, true}, {"1.38.3", false, true}, {"1.36.4", false, true}, {"1.35.0", true, true},
	} {
		v, err := bootstrap.ParseVersion(tt.version)
		if err != nil {
			t.Fatal(err)
		}
		if err := gate(v, false); (err != nil) != tt.refused {
			t.Errorf("gate(%s) = %v", v, err)
		}
		if err := gate(v, true); (err != nil) != tt.strictFails {
			t.Errorf("strict gate(%s) = %v", v, err)
		}
	}
}

func TestEnvoyFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                                 "at least one of the flags in the group [sidecar-for proxy-id]",
		"--sidecar-for web --proxy-id web": "[proxy-id sidecar-for]",
		"--sidecar-for web --concurrency":  "unknown flag: --concurrency",
		"--sidecar-for web extra":          `unexpected argument "extra"`,
		"--sidecar-for web extra -- -l x":  `unexpected argument "extra"`,
	} {
		c := newEnvoyCommand(&clientOptions{runtimeDir: t.TempDir()})
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetArgs(strings.Fields(args))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("envoy %s: %v, want %q", args, err, want)
		}
	}
}
