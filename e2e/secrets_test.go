//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc/metadata"
)

// silence is how long an answer that must not come is waited for.
const silence = 700 * time.Millisecond

// TestNoSecretLeaves asks the control plane for secrets in every way that is not one's own.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Serve()
	other := newMesh(t)
	other.Add(meshtest.Service{Name: "web"})
	other.Serve()
	socket := filepath.Join(m.Runtime, "xds.sock")
	web, api, foreign := makeBootstrap(t, m, "web"), makeBootstrap(t, m, "api"), makeBootstrap(t, other, "web")
	short := makeBootstrap(t, m, "web", "--token-ttl", "1s")
	time.Sleep(3 * time.Second) // past the short token's end
	half := strings.Split(web.token, ".")
	forged := half[0] + "." + half[1] + "." + strings.Split(foreign.token, ".")[2]

	// So that the others can fail: with one's own token one's own leaf comes, with its key.
	meshtest.Await(t, "web's own leaf", func() error {
		f, err := subscribe(socket, subscription{web.token, web.node, secretType, []string{"leaf/web"}}, 2*time.Second)
		if err == nil && (len(f.Resources) == 0 || f.Keys == 0) {
			err = fmt.Errorf("%w: %v", errNothing, f)
		}
		return err
	})
	own := []string{"leaf/web"}
	tests := []struct {
		name string
		sub  subscription
		ends bool // the stream is refused, not only left without an answer
	}{
		{"no token", subscription{"", web.node, secretType, own}, true},
		{"a token that is none", subscription{"hello", web.node, secretType, own}, true},
		{"the token of another mesh's web", subscription{foreign.token, web.node, secretType, own}, true},
		{"a token with another signature", subscription{forged, web.node, secretType, own}, true},
		{"a token that has ended", subscription{short.token, web.node, secretType, own}, true},
		{"web's token, api's node id", subscription{web.token, api.node, secretType, []string{"leaf/api"}}, true},
		{"api's token, web's node id", subscription{api.token, web.node, secretType, own}, true},
		{"api's leaf with web's token", subscription{web.token, web.node, secretType, []string{"leaf/api"}}, false},
		{"api's peers with web's token", subscription{web.token, web.node, secretType, []string{"peers/api"}}, false},
		{"*", subscription{web.token, web.node, secretType, []string{"*"}}, false},
		{"nothing, which is a wildcard", subscription{web.token, web.node, secretType, nil}, false},
		{"names like one's own", subscription{web.token, web.node, secretType, []string{"leaf/", "leaf/WEB", "leaf/web/", "leaf//web", "/leaf/web", "leaf/*", "leaf/../leaf/web", ""}}, false},
		{"a type that is none", subscription{web.token, web.node, "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", own}, false},
	}
	for _, tt := range tests {
		f, err := subscribe(socket, tt.sub, silence)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if f.Keys != 0 || len(f.Resources) != 0 {
			t.Errorf("%s: %v came, want nothing", tt.name, f)
		}
		if tt.ends && f.Err == nil {
			t.Errorf("%s: the stream stays open, want it refused", tt.name)
		}
	}
	figure(t, "asked=%d secrets=0", len(tests))

	// The listeners and clusters of the one that may have them name secrets and hold none.
	f, err := subscribe(socket, subscription{web.token, web.node, clusterType, []string{"*"}}, 2*time.Second)
	if err != nil || len(f.Resources) == 0 || f.Keys != 0 {
		t.Errorf("web's clusters: %v, %v; want some and no key", f, err)
	}
}

// TestNobodyAsksForOthers calls the ext_authz service as somebody who is no Envoy, or the Envoy of another service.
func TestNobodyAsksForOthers(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello"), Config: []string{`intention_enforcement = "ext_authz"`}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	api, web := makeBootstrap(t, m, "api"), makeBootstrap(t, m, "web")
	conn, err := dialXDS(filepath.Join(m.Runtime, "xds.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	leaf := m.Client("web", "api").Certificate.Certificate[0]
	certificate := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}))) // as Envoy sends it
	check := func(token, destination string) (allowed bool, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "x-sallyport-destination", destination)
		resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Source:  &authv3.AttributeContext_Peer{Principal: m.URI("web"), Certificate: certificate},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/"}},
		}})
		return err == nil && resp.GetStatus().GetCode() == 0, err
	}
	for _, tt := range []struct {
		name, token string
	}{{"no token", ""}, {"not a token", "hello"}, {"web's token about api", web.token}} {
		if ok, _ := check(tt.token, "api"); ok {
			t.Errorf("%s: allowed, want the call refused or the answer no", tt.name)
		}
	}
	// So that the others can fail.
	if ok, err := check(api.token, "api"); !ok {
		t.Errorf("api's token about api, and web, which is allowed: allowed %v, err %v", ok, err)
	}
}

// TestNoSecretInSight: what Envoy shows, what is on disk and what is logged hold neither a key nor a token, but for the token's own file.
func TestNoSecretInSight(t *testing.T) {
	t.Parallel()
	m, web, api, db := pair(t)
	rotate(t, m, 1, web, api, db)
	secret := regexp.MustCompile(`PRIVATE KEY|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.`)
	for _, c := range []*meshtest.Sidecar{web, api, db} {
		for _, path := range []string{"/config_dump?include_eds", "/server_info", "/clusters", "/certs", "/stats", "/init_dump", "/runtime", "/listeners"} {
			if at := secret.FindString(c.Admin(path)); at != "" {
				t.Errorf("%s of %s's Envoy holds %.11s…", path, c.Name, at)
			}
		}
	}
	b := makeBootstrap(t, m, "web")
	for _, f := range []string{"bootstrap.json", "token.json"} {
		info, err := os.Stat(filepath.Join(b.dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", f, info.Mode().Perm())
		}
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	if secret.Match(text) || secret.MatchString(b.output) {
		t.Error("the bootstrap, or what `sallyport bootstrap` prints, holds a key or a token")
	}
	files := 0
	for _, dir := range []string{m.Data, m.Runtime} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			files++
			if secret.Match(content) && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s holds a key or a token and has mode %04o", path, info.Mode().Perm())
			}
			if strings.Contains(string(content), "PRIVATE KEY") && !strings.HasPrefix(path, m.Data) {
				t.Errorf("%s holds a private key", path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(web.AdminSocket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("Envoy's admin socket: %v, %v; want mode 0600", info.Mode(), err)
	}
	figure(t, "files=%d", files)
}

// probed is what a process of another user got.
type probed struct {
	UID int
	// Opened are the files and sockets that it could read or connect to.
	Opened []string
	// Fetched is what the control plane's socket for Envoys gave it.
	Fetched []fetched
	// Token is what `sallyport bootstrap` gave it: its exit status and what it said.
	Exit int
	Said string
}

// TestAnotherUser: a process of another user on the machine gets no token and no secret.
func TestAnotherUser(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.Add(meshtest.Service{Name: "web"})
	m.Add(meshtest.Service{Name: "own", Config: []string{"sallyport_uid = 65534"}})
	m.Serve()
	car := m.Sidecar("web")
	paths := secretPaths(t, m, car)
	if os.Geteuid() != 0 {
		fmt.Println("NOTE: TestAnotherUser needs root to run a process of another user. Not root: it looks at the modes alone.")
		for _, p := range paths {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v; want no right for others", p, info.Mode(), err)
			}
		}
		return
	}
	dir, err := os.MkdirTemp("", "prober-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	prober, command := filepath.Join(dir, "prober"), filepath.Join(dir, "sallyport")
	copyProgram(t, self, prober)
	copyProgram(t, sallyport, command)
	service := "web"
	run := func(uid uint32) (p probed) {
		t.Helper()
		in, err := json.Marshal(probe{Runtime: m.Runtime, Sallyport: command, Service: service, Paths: paths})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), prober)
		cmd.Dir = dir
		cmd.Env = append(meshtest.Environ(), probeVariable+"="+string(in), "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("prober as uid %d: %v\n%s", uid, err, out)
		}
		if err := json.Unmarshal(out, &p); err != nil || p.UID != int(uid) {
			t.Fatalf("prober as uid %d: %v\n%s", uid, err, out)
		}
		return p
	}
	nobody := run(65534)
	if len(nobody.Opened) != 0 {
		t.Errorf("uid 65534 could open %v", nobody.Opened)
	}
	for _, f := range nobody.Fetched {
		if len(f.Resources) != 0 {
			t.Errorf("uid 65534 got %v", f)
		}
	}
	if nobody.Exit == 0 || strings.Contains(nobody.Said, "eyJ") {
		t.Errorf("uid 65534: `sallyport bootstrap` exit %d, %s", nobody.Exit, nobody.Said)
	}
	// So that the others can fail: root opens them all.
	if root := run(0); len(root.Opened) != len(paths) || root.Exit != 0 {
		t.Errorf("root could open %v of %v, and `sallyport bootstrap` ended with %d, %s", root.Opened, paths, root.Exit, root.Said)
	}
	figure(t, "uid=65534 paths=%d opened=%d bootstrap_exit=%d", len(paths), len(nobody.Opened), nobody.Exit)

	// Even if the admin socket were open to all, the user of a process says whose token it may have: the one that it is named for.
	if err := os.Chmod(filepath.Join(m.Runtime, "admin.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	if p := run(65534); p.Exit == 0 || !strings.Contains(p.Said, "65534") || strings.Contains(p.Said, "eyJ") {
		t.Errorf("uid 65534 at an open admin socket asks for web's token: exit %d, %s", p.Exit, p.Said)
	}
	service = "own"
	if p := run(65534); p.Exit != 0 {
		t.Errorf("uid 65534 asks for the token of the proxy that names it: exit %d, %s", p.Exit, p.Said)
	}
}

// secretPaths are the files that hold secrets and the sockets that give them out.
func secretPaths(t *testing.T, m *meshtest.Mesh, car *meshtest.Sidecar) []string {
	t.Helper()
	paths := []string{filepath.Join(m.Runtime, "admin.sock"), car.AdminSocket()}
	tokens := 0
	for _, dir := range []string{m.Data, m.Runtime} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if strings.Contains(string(b), "PRIVATE KEY") || strings.Contains(string(b), "eyJ") {
				paths = append(paths, path)
				tokens++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// The root's key, the intermediate's and the proxy's token at least.
	if tokens < 3 {
		t.Fatalf("found %d files with secrets (%v); the test does not know where they are", tokens, paths)
	}
	slices.Sort(paths)
	return paths
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
