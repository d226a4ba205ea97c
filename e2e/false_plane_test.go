//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestFalseControlPlane: what answers in another user's directory, or in one that others may replace, is told nothing, least of all a Consul token,
// and gives no bootstrap.
func TestFalseControlPlane(t *testing.T) {
	t.Parallel()
	needRoot(t)
	m := newMesh(t)
	base, err := os.MkdirTemp("", "false-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	const secret = "11111111-2222-3333-4444-555555555555"
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, secret)
	var asked atomic.Int64
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"own_token":true,"proxy_id":"web-sidecar-proxy","service":"web","namespace":"default","partition":"default","datacenter":"dc1",` +
			`"trust_domain":"11111111-2222-3333-4444-555555555555.consul","xds_socket":"/tmp/evil.sock","listeners":[]}`))
	})
	serve := func(dir string, modes map[string]os.FileMode, owners map[string]int) string {
		t.Helper()
		path := filepath.Join(base, dir)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(path, "admin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: answer, ReadHeaderTimeout: time.Second}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { s.Close() })
		for name, mode := range modes {
			if err := os.Chmod(filepath.Join(base, name), mode); err != nil {
				t.Fatal(err)
			}
		}
		for name, uid := range owners {
			if err := os.Chown(filepath.Join(base, name), uid, -1); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	theirs := serve("theirs", nil, map[string]int{"theirs": 65534})
	for name, tt := range map[string]struct {
		dir  string
		args []string
		want bool
	}{
		"another user's":               {theirs, nil, false},
		"one that all may write to":    {serve("open", map[string]os.FileMode{"open": 0o777}, nil), nil, false},
		"in one that all may write to": {serve("wide/run", map[string]os.FileMode{"wide": 0o777}, nil), nil, false},
		"in another user's":            {serve("alice/run", nil, map[string]int{"alice": 65534}), nil, false},
		"a user's who is trusted":      {theirs, []string{"--runtime-owner", "65534"}, true},
		"root's":                       {serve("roots", nil, nil), nil, true},
	} {
		asked.Store(0)
		out := filepath.Join(t.TempDir(), "boot")
		r := m.RunAlone(append([]string{"bootstrap", "--sidecar-for", "web", "-o", out, "--token-file", tokenFile, "--runtime-dir", tt.dir}, tt.args...)...)
		b, _ := os.ReadFile(filepath.Join(out, "token.json"))
		if got := r.Exit == 0 && strings.Contains(string(b), secret) && asked.Load() > 0; got != tt.want || !tt.want && (asked.Load() > 0 || strings.Contains(string(b), secret)) {
			t.Errorf("%s: exit %d, %d requests, token given: %t, %s; want it trusted: %t", name, r.Exit, asked.Load(), strings.Contains(string(b), secret), r.Stderr, tt.want)
		}
		if !tt.want && strings.Contains(r.Stderr, "no running sallyport") {
			t.Errorf("%s: %s; want it said that something is there", name, r.Stderr)
		}
	}
}

// TestDangerousAdvice: nobody is told to change the mode of a directory that is not sallyport's.
func TestDangerousAdvice(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "web"})
	m.Serve()
	r := m.Run("bootstrap", "--sidecar-for", "web", "-o", "/tmp")
	if r.Exit == 0 || strings.Contains(r.Stderr, "chmod") || strings.Contains(r.Stderr, "chown") || !strings.Contains(r.Stderr, "-o") {
		t.Errorf("bootstrap -o /tmp: exit %d, %s", r.Exit, r.Stderr)
	}
}
