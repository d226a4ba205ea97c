package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/envoytest"
)

// sidecarServer is a control plane's admin socket that gives out numbered tokens for the proxy
// web-sidecar-proxy.
type sidecarServer struct {
	dir       string // the runtime directory
	life      time.Duration
	remote    bool
	own       bool // proxies bring tokens of their own
	listeners []admin.Listener
	first     []error // answers before those with tokens
	verdicts  []error // of own tokens, in turn; the last one stays

	minted atomic.Int64
	mu     sync.Mutex
	asked  []admin.TokenRequest
	judged []admin.JudgeRequest
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
	go func() {
		served <- admin.Serve(ctx, l, admin.API{Token: s.token, Judge: s.judge, Monitoring: http.NotFoundHandler()}, slog.New(slog.DiscardHandler))
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

func (s *sidecarServer) judge(_ context.Context, _ admin.Peer, r admin.JudgeRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judged = append(s.judged, r)
	if len(s.verdicts) == 0 {
		return nil
	}
	return s.verdicts[min(len(s.judged), len(s.verdicts))-1]
}

func (s *sidecarServer) requests() []admin.TokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]admin.TokenRequest(nil), s.asked...)
}

// run is Run in the background.
type run struct {
	stop  context.CancelFunc
	ended chan ended
}

type ended struct {
	status int
	err    error
}

func start(t *testing.T, c Config, e Envoy) run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := run{stop: cancel, ended: make(chan ended, 1)}
	go func() {
		status, err := Run(ctx, c, e, slog.New(slog.DiscardHandler))
		r.ended <- ended{status, err}
	}()
	t.Cleanup(cancel)
	return r
}

// end stops the sidecar and returns how it ended.
func (r run) end(t *testing.T) (int, error) {
	t.Helper()
	r.stop()
	select {
	case e := <-r.ended:
		return e.status, e.err
	case <-time.After(awaitDeadline):
		t.Fatal("the sidecar does not end")
		return 0, nil
	}
}

// forWeb is a sidecar of web that asks s.
func forWeb(t *testing.T, s *sidecarServer) Config {
	t.Helper()
	return Config{RuntimeDir: s.dir, SidecarFor: "web", DrainTime: 30 * time.Second, Waiting: func(err error) { t.Errorf("it waits: %v", err) }}
}

func TestRunEnvoy(t *testing.T) {
	s := startSidecarServer(t, &sidecarServer{life: 3 * time.Second})
	bin := t.TempDir()
	c := forWeb(t, s)
	c.DrainTime = 5 * time.Second
	e := Envoy{Binary: fakeEnvoy(t, bin, "1.40.0", `echo "$@" >"$dir/args"; trap 'exit 9' TERM; `+waitForSignal), Args: []string{"--concurrency", "1"}}
	r := start(t, c, e)
	fakePID(t, bin)

	dir := filepath.Join(s.dir, "web-sidecar-proxy")
	for name, mode := range map[string]fs.FileMode{"": 0o700, "bootstrap.json": 0o600, "token.json": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s/%s: %v, %v, want mode %04o", dir, name, info, err, mode)
		}
	}
	args, err := os.ReadFile(filepath.Join(bin, "args"))
	if want := "--config-path " + dir + "/bootstrap.json --drain-time-s 5 --drain-strategy immediate --disable-hot-restart --log-level warning --concurrency 1\n"; err != nil || string(args) != want {
		t.Errorf("arguments %q, %v, want %q", args, err, want)
	}
	content, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err != nil || bytes.Contains(content, []byte("token-1")) || !bytes.Contains(content, []byte(admin.XDSSocket(s.dir))) || !bytes.Contains(content, []byte(`"drain_time_s": 5`)) {
		t.Errorf("bootstrap %s, %v", content, err)
	}
	if _, err := Run(t.Context(), c, e, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("already running here: pid %d ", os.Getpid())) {
		t.Errorf("a second sidecar of the proxy: %v, want an error that names the first", err)
	}
	awaitTrue(t, "a renewed token", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "token.json"))
		return err == nil && bytes.Contains(b, []byte("Bearer token-3"))
	})
	if got := s.requests(); got[len(got)-1].ProxyID != "web-sidecar-proxy" || got[0].SidecarFor != "web" {
		t.Errorf("asked for %+v, want the instance first and then the proxy that it turned out to have", got)
	}
	if status, err := r.end(t); status != 9 || err != nil {
		t.Errorf("Run = %d, %v, want Envoy's exit status 9", status, err)
	}
}

// TestAnonymous: without a token beside Consul a sidecar is nobody, which explains all that fails
// later.
func TestAnonymous(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	s := startSidecarServer(t, &sidecarServer{own: true, life: time.Hour, listeners: []admin.Listener{{Name: "x", Address: "192.0.2.1:1"}}})
	c := forWeb(t, s)
	e := Envoy{Binary: fakeEnvoy(t, t.TempDir(), "1.40.0", "exit 0")}
	for _, token := range []string{"", "a-token"} {
		t.Setenv("CONSUL_HTTP_TOKEN", token)
		var log bytes.Buffer
		_, _ = Run(t.Context(), c, e, slog.New(slog.NewTextHandler(&log, nil)))
		if said := strings.Contains(log.String(), "no token given"); said != (token == "") {
			t.Errorf("with the token %q: %s", token, log.String())
		}
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	if written, err := Write(t.Context(), c, Target{}); err != nil || !written.Anonymous() {
		t.Errorf("Write without a token: %+v, %v, want it anonymous", written, err)
	}
}

// TestRunWithWrongToken: a proxy that would never be served is said to be so, once, and its Envoy is
// not started; what is not known keeps nobody from starting.
func TestRunWithWrongToken(t *testing.T) {
	refused := fmt.Errorf("the token of web-sidecar-proxy: %w: Consul does not take the token: ACL not found", admin.ErrForbidden)
	unknown := fmt.Errorf("%w: the agent does not answer", admin.ErrNotYet)
	t.Setenv("CONSUL_HTTP_TOKEN", "a-token")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	for name, c := range map[string]struct {
		verdicts []error
		wait     time.Duration
		asked    int
		want     error
	}{
		"good":                          {asked: 1},
		"wrong":                         {verdicts: []error{refused}, asked: 1, want: admin.ErrForbidden},
		"not known":                     {verdicts: []error{unknown}, asked: 1},
		"not known, and it is waited":   {verdicts: []error{unknown}, wait: time.Minute, asked: 1},
		"not known by an older version": {verdicts: []error{admin.ErrUnknown}, asked: 1},
		"made just now, with a wait":    {verdicts: []error{refused, refused, nil}, wait: time.Minute, asked: 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSidecarServer(t, &sidecarServer{own: true, life: time.Hour, verdicts: c.verdicts})
			config, dir := forWeb(t, s), t.TempDir()
			config.Wait, config.Waiting = c.wait, func(error) {}
			_, err := Run(t.Context(), config, Envoy{Binary: fakeEnvoy(t, dir, "1.40.0", "READY")}, slog.New(slog.DiscardHandler))
			if !errors.Is(err, c.want) || c.want != nil && !strings.Contains(err.Error(), "ACL not found: give the right one with --token-file") {
				t.Errorf("Run: %v, want %v", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "pid")); (err == nil) != (c.want == nil) {
				t.Errorf("Envoy's pid: %v", err)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "web-sidecar-proxy")); err == nil {
				t.Error("the sidecar's files are left")
			}
			want := slices.Repeat([]admin.JudgeRequest{{ProxyID: "web-sidecar-proxy", Token: "a-token"}}, c.asked)
			if !slices.Equal(s.judged, want) {
				t.Errorf("asked: %v, want %v", s.judged, want)
			}
		})
	}
	s := startSidecarServer(t, &sidecarServer{own: true, remote: true, life: time.Hour, verdicts: []error{refused}})
	written, err := Write(t.Context(), forWeb(t, s), Target{XDSAddress: "192.0.2.1:8502"})
	if err != nil || written.Refused == nil || !s.judged[0].Remote {
		t.Errorf("Write with a wrong token, for another machine: %v, %v, asked %v", written, err, s.judged)
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
		change func(*Config, *Envoy)
		want   string
	}{
		{"a port that is held", func(*Config, *Envoy) {}, "listener public_listener: " + held.Addr().String() + " is in use by "},
		{"an unknown service", func(c *Config, _ *Envoy) { c.SidecarFor = "nobody" }, "no such proxy"},
		{"no Envoy", func(_ *Config, e *Envoy) { e.Binary = "" }, "no envoy on PATH: install Envoy 1.36.0 or newer"},
		{"an Envoy that is not there", func(_ *Config, e *Envoy) { e.Binary = "/nonexistent/envoy" }, "--envoy-binary: "},
		{"an old Envoy", func(_ *Config, e *Envoy) { e.Binary = old }, "envoy 1.35.0 is too old"},
		{"an Envoy without security fixes", func(_ *Config, e *Envoy) { e.Binary, e.Strict = unsafe, true }, "envoy 1.36.9 lacks security fixes that 1.36.10 has"},
		{"a flag of ours", func(_ *Config, e *Envoy) { e.Args = []string{"--config-path=/x"} }, "--config-path: sallyport sets it itself"},
		{"the drain time", func(_ *Config, e *Envoy) { e.Args = []string{"--drain-time-s", "1"} }, "use --drain-time"},
		{"hot restart", func(_ *Config, e *Envoy) { e.Args = []string{"--restart-epoch", "1"} }, "hot restart"},
		{"a negative life", func(c *Config, _ *Envoy) { c.TokenTTL = -time.Second }, "--token-ttl -1s"},
		{"an administration for all", func(c *Config, _ *Envoy) { c.AdminBind = "0.0.0.0:19000" }, ": --admin-allow-remote"},
		{"a long path", func(c *Config, _ *Envoy) { c.AdminBind = "unix:/" + strings.Repeat("a", 120) }, "too long for a socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, e := forWeb(t, s), Envoy{Binary: good}
			tt.change(&c, &e)
			if _, err := Run(t.Context(), c, e, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(bin, "pid")); err == nil {
		t.Error("Envoy was started all the same")
	}
}

func TestRunEnvoyWithoutControlPlane(t *testing.T) {
	dir := t.TempDir()
	c := forWeb(t, &sidecarServer{dir: filepath.Join(dir, "r")})
	_, err := Run(t.Context(), c, Envoy{Binary: fakeEnvoy(t, t.TempDir(), "1.40.0", "READY")}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "r")) {
		t.Errorf("Run = %v, want an error that says where it looked", err)
	}
}

// TestRunRealEnvoy: a real Envoy starts with what is written, serves its administration, and ends
// with status 0.
func TestRunRealEnvoy(t *testing.T) {
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		t.Run(version, func(t *testing.T) {
			s := startSidecarServer(t, &sidecarServer{life: time.Hour})
			c := forWeb(t, s)
			c.AdminBind = "unix:" + filepath.Join(s.dir, "a.sock")
			r := start(t, c, Envoy{Binary: envoytest.Binary(t, version), Args: []string{"--log-level", "error", "--concurrency", "1"}})
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
			if status, err := r.end(t); status != 0 || err != nil {
				t.Errorf("Run = %d, %v after its context ended, want 0", status, err)
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

func TestCheckVersion(t *testing.T) {
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
		if err := checkVersion(v, false); (err != nil) != tt.refused {
			t.Errorf("checkVersion(%s) = %v", v, err)
		}
		if err := checkVersion(v, true); (err != nil) != tt.strictFails {
			t.Errorf("strict checkVersion(%s) = %v", v, err)
		}
	}
}

func TestLogging(t *testing.T) {
	for args, want := range map[string]string{
		"":                         "--log-level warning",
		"--concurrency 2":          "--log-level warning",
		"--log-level info":         "",
		"--log-level=info":         "",
		"-l info":                  "",
		"--log-level debug":        "--component-log-level config:info",
		"-l trace --concurrency 2": "--component-log-level config:info",
		"--log-level=debug":        "--component-log-level config:info",
		"--log-level debug --component-log-level config:debug": "", // who names it knows
		"--component-log-level=upstream:debug":                 "--log-level warning",
	} {
		if got := strings.Join(logging(strings.Fields(args)), " "); got != want {
			t.Errorf("logging(%s) = %s, want %s", args, got, want)
		}
	}
}
