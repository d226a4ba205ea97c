package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shortDir is a directory whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "run")
}

// serve runs a server and returns a client of it.
func serve(t *testing.T, api admin.API) *admin.Client {
	t.Helper()
	return serveLogging(t, slog.New(slog.DiscardHandler), api)
}

func serveLogging(t *testing.T, log *slog.Logger, api admin.API) *admin.Client {
	t.Helper()
	dir := shortDir(t)
	if err := admin.MakeDir(dir); err != nil {
		t.Fatal(err)
	}
	l, err := admin.Listen(admin.Socket(dir), 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	nothing := http.NotFoundHandler()
	api.Monitoring = nothing
	go func() { done <- admin.Serve(ctx, l, api, log) }()
	client, err := admin.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
		if _, err := os.Lstat(admin.Socket(dir)); !os.IsNotExist(err) {
			t.Errorf("the socket's file is still there: %v", err)
		}
	})
	return client
}

func TestCalls(t *testing.T) {
	var peer admin.Peer
	client := serve(t, admin.API{
		Status: func() admin.Status { return admin.Status{TrustDomain: "example.consul"} },
		Check: func(_ context.Context, source, destination string, _ admin.CheckRequest) (admin.CheckResponse, error) {
			return admin.CheckResponse{Allowed: true, Source: source, Destination: destination}, nil
		},
		Rotate: func(service string) (admin.RotateResponse, error) {
			return admin.RotateResponse{}, fmt.Errorf("service %q: %w", service, admin.ErrUnknown)
		},
		Token: func(p admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
			peer = p
			switch r.ProxyID {
			case "foreign":
				return admin.TokenResponse{}, fmt.Errorf("the token of foreign: %w", admin.ErrForbidden)
			case "early":
				return admin.TokenResponse{}, fmt.Errorf("%w: no catalog", admin.ErrNotYet)
			case "odd":
				return admin.TokenResponse{}, errors.New("a token's life of -1s")
			}
			return admin.TokenResponse{Token: "secret", ProxyID: r.ProxyID}, nil
		},
	})
	ctx := t.Context()
	if s, err := client.Status(ctx); err != nil || s.TrustDomain != "example.consul" {
		t.Errorf("Status = %+v, %v", s, err)
	}
	if r, err := client.Check(ctx, "a b", "c&d"); err != nil || !r.Allowed || r.Source != "a b" || r.Destination != "c&d" {
		t.Errorf("Check = %+v, %v", r, err)
	}
	if _, err := client.Rotate(ctx, "web"); err == nil || err.Error() != `service "web": not found` || !errors.Is(err, admin.ErrUnknown) || !admin.MayPass(err) {
		t.Errorf("Rotate = %v, may pass: %v", err, admin.MayPass(err))
	}
	r, err := client.Token(ctx, admin.TokenRequest{ProxyID: "web-sidecar-proxy"})
	if err != nil || r.Token != "secret" {
		t.Errorf("Token = %v, %v", r, err)
	}
	if peer.UID != os.Getuid() || peer.PID != os.Getpid() {
		t.Errorf("peer = %+v, want uid %d pid %d", peer, os.Getuid(), os.Getpid())
	}
	if s := fmt.Sprintf("%v %+v", r, r); strings.Contains(s, "secret") {
		t.Errorf("a printed response shows its token: %s", s)
	}
	for proxy, want := range map[string]struct {
		text    string
		kind    error
		mayPass bool
	}{
		"foreign": {"the token of foreign: not allowed", admin.ErrForbidden, false},
		"early":   {"not yet: no catalog", admin.ErrNotYet, true},
		"odd":     {"a token's life of -1s", nil, false},
	} {
		_, err := client.Token(ctx, admin.TokenRequest{ProxyID: proxy})
		if err == nil || err.Error() != want.text || (want.kind != nil && !errors.Is(err, want.kind)) || admin.MayPass(err) != want.mayPass {
			t.Errorf("Token of %s = %v, may pass: %v; want %+v", proxy, err, admin.MayPass(err), want)
		}
	}
}

// raw sends a request that the client would not.
func raw(t *testing.T, c *admin.Client, method, path, body string) (status int, text string) {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", admin.Socket(c.Dir()))
	}
	tr := &http.Transport{DialContext: dial}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://sallyport"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var p struct{ Error string }
	_ = json.NewDecoder(resp.Body).Decode(&p)
	return resp.StatusCode, p.Error
}

func TestBadRequests(t *testing.T) {
	minted := 0
	client := serve(t, admin.API{Token: func(admin.Peer, admin.TokenRequest) (admin.TokenResponse, error) {
		minted++
		return admin.TokenResponse{}, nil
	}})
	for _, body := range []string{"", "{", `{"proxy":"x"}`, `[]`, `{"proxy_id":7}`, `{"proxy_id":"` + strings.Repeat("x", 70<<10) + `"}`} {
		if code, text := raw(t, client, http.MethodPost, "/v1/token", body); code != http.StatusBadRequest || text == "" {
			t.Errorf("POST /v1/token %.20q = %d %q, want 400 and why", body, code, text)
		}
	}
	if minted != 0 {
		t.Errorf("%d tokens for bad requests", minted)
	}
	if code, _ := raw(t, client, http.MethodGet, "/v1/token", ""); code != http.StatusMethodNotAllowed {
		t.Errorf("GET /v1/token = %d, want 405", code)
	}
}

func TestFindSaysWhereItLooked(t *testing.T) {
	dir := shortDir(t)
	_, err := admin.Find(dir)
	if !admin.MayPass(err) {
		t.Errorf("MayPass(%v) = false: a control plane may be started", err)
	}
	if err == nil || !strings.Contains(err.Error(), admin.Socket(dir)) || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("Find = %v, want the path and the reason", err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if os.Geteuid() != 0 {
		if _, err = admin.Find(""); err == nil || !strings.Contains(err.Error(), admin.SystemDir) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Find = %v, want both defaults", err)
		}
	}
	long := "/tmp/" + strings.Repeat("x", 120)
	if _, err = admin.Find(long); err == nil || !strings.Contains(err.Error(), "too long") || !strings.Contains(err.Error(), long) {
		t.Errorf("Find of a long path = %v, want it refused by name", err)
	}
}

func TestMakeDir(t *testing.T) {
	base := filepath.Dir(shortDir(t))
	link := filepath.Join(base, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{link: "is not a directory", open: "chmod go-w"} {
		if err := admin.MakeDir(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("MakeDir(%s) = %v, want %q", path, err, want)
		}
	}
	good := filepath.Join(base, "a", "b")
	for range 2 {
		if err := admin.MakeDir(good); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(good, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if err := admin.MakeDir(good); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
			t.Errorf("MakeDir of another user's = %v", err)
		}
	}
}

// TestLetThrough: a directory that is there already, too, with whatever else its mode says.
func TestLetThrough(t *testing.T) {
	dir := t.TempDir()
	for before, after := range map[os.FileMode]os.FileMode{0o700: 0o711, 0o750: 0o751, 0o755: 0o755} {
		if err := os.Chmod(dir, before); err != nil {
			t.Fatal(err)
		}
		if err := admin.LetThrough(dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != after {
			t.Errorf("LetThrough of mode %04o: %v, %v, want %04o", before, info.Mode(), err, after)
		}
	}
	if err := admin.LetThrough(filepath.Join(dir, "none")); err == nil {
		t.Error("LetThrough of nothing gave no error")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(filepath.Dir(shortDir(t)), "x.sock")
	l, err := admin.Listen(path, 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	if _, err := admin.Listen(path, 0o600, -1); err == nil || !strings.Contains(err.Error(), "another sallyport serves") {
		t.Errorf("second Listen = %v, want a refusal", err)
	}
	_ = l.Close()

	// A socket that nobody answers on was left over by a crash.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Close(fd)); err != nil {
		t.Fatal(err)
	}
	if l, err = admin.Listen(path, 0o666, -1); err != nil {
		t.Fatalf("Listen over a left-over socket = %v", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err != nil {
		t.Errorf("dial = %v", err)
	} else {
		_ = c.Close()
	}
	_ = l.Close()

	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Listen(path, 0o600, -1); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen over a file = %v, want a refusal", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Error("the file in the way was touched")
	}
}

func TestExplain(t *testing.T) {
	for want, r := range map[string]admin.CheckResponse{
		"Allowed: web => api, by the intention web => api (allow) at api.hcl:3": {Allowed: true, Source: "web", Destination: "api", Reason: "intention", Intention: "web => api (allow)", Origin: "api.hcl:3"},
		"Denied: batch => api, by default policy (no service \"batch\" is registered)": {
			Source: "batch", Destination: "api", Reason: "default policy", Note: `no service "batch" is registered`,
		},
	} {
		if got := r.Explain(); got != want {
			t.Errorf("Explain = %q, want %q", got, want)
		}
	}
}
