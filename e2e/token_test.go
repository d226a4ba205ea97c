//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// reusedHCL is a service with the instance and proxy ID "one" and "one-sidecar-proxy", whatever its name.
const reusedHCL = `
service {
  name = %q
  id   = "one"
  port = %d
  connect {
    sidecar_service {
      port = %d
      proxy {
        config { sallyport_uid = %d }
      }
    }
  }
}
`

// TestTokenIsBound: when a proxy's ID is used for another service, or for another user's sidecar, a token of before gets nothing of that: not on
// a stream that is held, not on a new one, not from ext_authz. A sidecar that may have the new token gets it by itself.
func TestTokenIsBound(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]struct {
		service string
		uid     int
	}{"another service": {"db", os.Geteuid()}, "another user": {"web", 65533}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			app := serveEcho(t, "")
			port := m.Port()
			define := func(service string, uid int) {
				m.Write("one.hcl", fmt.Sprintf(reusedHCL, service, app.Port(), port, uid))
			}
			define("web", os.Geteuid())
			m.Serve()
			socket := filepath.Join(m.Runtime, "xds.sock")
			b := makeBootstrap(t, m, "one")
			leafs := []string{"leaf/web", "leaf/db"}
			held := make(chan fetched, 1)
			go func() {
				f, _ := subscribe(socket, subscription{b.token, b.node, secretType, leafs}, 10*time.Second)
				held <- f
			}()
			meshtest.Await(t, "the stream is open", func() error {
				for _, p := range m.Status().Proxies {
					if p.Connected {
						return nil
					}
				}
				return errNothing
			})
			time.Sleep(silence) // the first leaf
			define(after.service, after.uid)
			f := <-held
			news := slices.DeleteFunc(slices.Clone(f.Resources), func(name string) bool { return name == "leaf/web" })
			if f.Err == nil || len(news) > 0 || len(f.Resources) > 1 {
				t.Errorf("the stream that was held: %v, want web's leaf of before, and the stream ended", f)
			}
			f, err := subscribe(socket, subscription{b.token, b.node, secretType, leafs}, silence)
			if err != nil || f.Err == nil || len(f.Resources) > 0 {
				t.Errorf("a new stream: %v, %v, want it refused", f, err)
			}
			if fresh := makeBootstrap(t, m, "one"); fresh.token != "" {
				f, err := subscribe(socket, subscription{fresh.token, fresh.node, secretType, leafs}, silence)
				if err != nil || f.Err != nil || !slices.Equal(f.Resources, []string{"leaf/" + after.service}) {
					t.Errorf("with a new token: %v, %v, want the leaf of %s", f, err, after.service)
				}
			}
		})
	}
}

// TestRevokedToken: what a revoked token has opened ends within a second, it opens nothing more, also after a restart, and others go on.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	remote := fmt.Sprintf("127.0.0.1:%d", m.Port())
	m.SetFlags("--xds-address", remote)
	m.Add(meshtest.Service{Name: "web"})
	m.Add(meshtest.Service{Name: "db"})
	m.Serve()
	socket := filepath.Join(m.Runtime, "xds.sock")
	bootstraps := map[string]bootstrapped{"one": makeBootstrap(t, m, "web"), "another": makeBootstrap(t, m, "web"), "db's": makeBootstrap(t, m, "db")}
	ask := func(b bootstrapped) subscription {
		return subscription{b.token, b.node, secretType, []string{"leaf/" + strings.TrimSuffix(b.node, "-sidecar-proxy")}}
	}
	type end struct {
		name string
		f    fetched
		at   time.Time
	}
	ends := make(chan end, 8)
	hold := func(name string) {
		go func() {
			f, _ := subscribe(socket, ask(bootstraps[name]), 20*time.Second)
			ends <- end{name, f, time.Now()}
		}()
		go func() {
			f, _ := subscribeTLS(remote, ask(bootstraps[name]), 20*time.Second)
			ends <- end{name, f, time.Now()}
		}()
	}
	streams := func(n int) {
		t.Helper()
		meshtest.Await(t, fmt.Sprint(n, " streams are open"), func() error {
			got := 0
			for _, p := range m.Status().Proxies {
				got += strings.Count(p.String(), `"since"`)
			}
			if got != n {
				return fmt.Errorf("%d are", got)
			}
			return nil
		})
	}
	for name := range bootstraps {
		hold(name)
	}
	streams(6)
	ended := func(name string, since time.Time) {
		t.Helper()
		for range 2 {
			select {
			case e := <-ends:
				if e.name != name || e.f.Err == nil || !strings.Contains(e.f.Err.Error(), "was revoked") {
					t.Errorf("the stream of %s ended: %v, want that of %s, and why", e.name, e.f, name)
				}
				figure(t, "token=%s ended_ms=%.0f", e.name, millis(e.at.Sub(since)))
			case <-time.After(5 * time.Second):
				t.Fatalf("the streams of %s go on", name)
			}
		}
	}
	began := time.Now()
	if out := m.MustRun("token", "revoke", tokenIDOf(t, bootstraps["one"].token)); !strings.Contains(out, "2 streams ended") {
		t.Errorf("revoke says %s", out)
	}
	ended("one", began)
	streams(4)
	began = time.Now()
	if out := m.MustRun("token", "revoke", "--proxy", "web"); !strings.Contains(out, "2 streams ended") {
		t.Errorf("revoke --proxy says %s", out)
	}
	ended("another", began)
	streams(2)
	bootstraps["new"] = makeBootstrap(t, m, "web")
	look := func(when string) {
		t.Helper()
		for name, want := range map[string]bool{"one": false, "another": false, "db's": true, "new": true} {
			f, err := subscribe(socket, ask(bootstraps[name]), silence)
			if err != nil || (f.Err == nil && len(f.Resources) > 0) != want {
				t.Errorf("%s, the token %s: %v, %v; want it taken: %t", when, name, f, err, want)
			}
		}
	}
	look("at once")
	m.KillServe()
	m.Serve()
	look("after a restart")
	if r := m.Run("token", "revoke"); r.Exit == 0 || !strings.Contains(r.Stderr, "--proxy") {
		t.Errorf("revoke of nothing: %+v", r)
	}
}

// tokenIDOf is the jti of a token.
func tokenIDOf(t *testing.T, token string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.ID
}

// TestSidecarRenewsWhatIsNotTaken: a sidecar whose token is not taken any more gets a new one by itself.
func TestSidecarRenewsWhatIsNotTaken(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	app, port := serveEcho(t, ""), m.Port()
	m.Write("one.hcl", fmt.Sprintf(reusedHCL, "web", app.Port(), port, os.Geteuid()))
	m.Serve()
	car := m.Sidecar("one")
	m.Write("one.hcl", fmt.Sprintf(reusedHCL, "db", app.Port(), port, os.Geteuid()))
	d := meshtest.Await(t, "the sidecar has the leaf of db", func() error {
		if certs := car.Admin("/certs"); !strings.Contains(certs, "/svc/db") {
			return fmt.Errorf("%.300s", certs)
		}
		return nil
	})
	figure(t, "renewed_ms=%.0f", millis(d))
}

// TestTokenInDebugLog: the log of an Envoy that logs all has no token. (Each test searches the logs of its processes at its end.)
func TestTokenInDebugLog(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
		m.Add(meshtest.Service{Name: "web"})
		m.Serve()
		car := m.Sidecar("web", "--", "--log-level", "debug")
		if log := car.Process.Log(); !strings.Contains(log, "[debug]") || strings.Contains(log, "eyJ") {
			t.Errorf("the log of Envoy %s is not that of debugging, or holds the token: %t", envoy, strings.Contains(log, "eyJ"))
		}
	}
}

// TestTokenOfAnotherUser: on the socket a token of a proxy that names a user is good for that user's processes alone.
func TestTokenOfAnotherUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.Add(meshtest.Service{Name: "web", Config: []string{"sallyport_uid = 65534"}})
	m.Add(meshtest.Service{Name: "api"})
	m.Serve()
	self := copyTestBinary(t)
	for _, tt := range []struct {
		service string
		uid     uint32
		want    bool
	}{{"web", 65534, true}, {"web", 65533, false}, {"web", 0, true}, {"api", 65533, true}} {
		b := makeBootstrap(t, m, tt.service)
		in, err := json.Marshal(probe{Runtime: m.Runtime, Own: &subscription{b.token, b.node, secretType, []string{"leaf/" + tt.service}}})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Dir = "/"
		cmd.Env = append(meshtest.Environ(), probeVariable+"="+string(in), "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.uid}}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("as uid %d: %v\n%s", tt.uid, err, out)
		}
		var p probed
		if err := json.Unmarshal(out, &p); err != nil {
			t.Fatal(err)
		}
		if got := len(p.Fetched) == 1 && p.Fetched[0].Keys > 0; got != tt.want {
			t.Errorf("uid %d with a token of %s: %v, want its leaf: %t", tt.uid, tt.service, p.Fetched, tt.want)
		}
	}
}
