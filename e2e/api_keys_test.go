//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestKeysOfTheAPI: who is no application of a service gets no key of it: not other users, not root and what it forwards, not another
// service's token, not after somebody else's leaf was made, and not a token that was revoked. No key or token is in a log, metric or
// file beside.
func TestKeysOfTheAPI(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOTE: TestKeysOfTheAPI needs root to run processes of other users")
	}
	const named, unnamed = 65531, 65532
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.Write("native.hcl", fmt.Sprintf(`
services {
  name = "api"
  port = 8443
  connect { native = true }
  meta { sallyport_selectors = "unix:uid:%d" }
}
services {
  name = "db"
  port = 8444
  connect { native = true }
}
`, named))
	m.Serve()
	socket := filepath.Join(m.Runtime, "http.sock")
	api, db := strings.TrimSpace(m.MustRun("token", "create", "api")), strings.TrimSpace(m.MustRun("token", "create", "db"))
	reader := strings.TrimSpace(m.MustRun("token", "create", "--reader"))

	// What root forwards, as Nomad does for its tasks.
	forwarded := filepath.Join(filepath.Dir(m.Runtime), "forwarded.sock")
	l, err := net.Listen("unix", forwarded)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(forwarded, 0o777); err != nil {
		t.Fatal(err)
	}
	go passOn(l, socket)

	curl := func(uid uint32, socket, service, token string) string {
		t.Helper()
		args := []string{"-sS", "--max-time", "20", "--unix-socket", socket, "-w", "\n%{http_code}", "http://localhost/v1/agent/connect/ca/leaf/" + service}
		if token != "" {
			args = append(args, "-H", "X-Consul-Token: "+token)
		}
		cmd := exec.CommandContext(t.Context(), "curl", args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("curl as %d: %v %s", uid, err, out)
		}
		return string(out)
	}
	type try struct {
		name    string
		uid     uint32
		socket  string
		service string
		token   string
		want    bool
	}
	tries := []try{
		{"the process that the service names", named, socket, "api", "", true},
		{"the service's token", unnamed, socket, "api", api, true},
		{"the service's token, forwarded", unnamed, forwarded, "api", api, true},
		{"a process that nobody names", unnamed, socket, "api", "", false},
		{"root", 0, socket, "api", "", false},
		{"the named process through what root forwards", named, forwarded, "api", "", false},
		{"the overflow user", 65534, socket, "api", "", false},
		{"the named process for another service", named, socket, "db", "", false},
		{"another service's token", named, socket, "api", db, false},
		{"a reader's token", named, socket, "api", reader, false},
		{"a token that is none", named, socket, "api", "nonsense", false},
		{"a proxy's kind of token", named, socket, "api", strings.Replace(api, ".", ".x", 1), false},
		{"another spelling", unnamed, socket, "API", api, false},
	}
	refused := 0
	for _, tt := range tries {
		out := curl(tt.uid, tt.socket, tt.service, tt.token)
		if got := strings.HasSuffix(out, "\n200") && strings.Contains(out, "PRIVATE KEY"); got != tt.want || !got && strings.Contains(out, "KEY") {
			t.Errorf("%s: %.200s, want a key: %t", tt.name, out, tt.want)
		}
		if !tt.want {
			refused++
		}
	}
	if out := m.MustRun("token", "revoke", "--applications", "api"); !strings.Contains(out, "revoked") {
		t.Errorf("revoke: %s", out)
	}
	if out := curl(unnamed, socket, "api", api); !strings.HasSuffix(out, "\n403") {
		t.Errorf("a revoked token: %s", out)
	}
	// The service names another process now.
	m.Write("native.hcl", fmt.Sprintf("services {\n  name = \"api\"\n  port = 8443\n  connect { native = true }\n  meta { sallyport_selectors = \"unix:uid:%d\" }\n}\n", unnamed))
	meshtest.Await(t, "the process that is named no more gets no key", func() error {
		if out := curl(named, socket, "api", ""); !strings.HasSuffix(out, "\n403") {
			return fmt.Errorf("%.100s", out)
		}
		return nil
	})

	secrets := 0
	for _, secret := range []string{"PRIVATE KEY", api, db, reader} {
		b, err := os.ReadFile(m.ServeLog())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) || strings.Contains(metrics(t, m), secret) {
			secrets++
			t.Errorf("%.11s… is in the log or the metrics", secret)
		}
	}
	figure(t, "callers=%d refused=%d secrets_in_sight=%d", len(tries), refused, secrets)
}
