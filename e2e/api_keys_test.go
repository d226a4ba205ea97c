//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// Users of TestKeysOfTheAPI: of the process that api names, of one that nobody names, and of the control plane.
const namedUID, unnamedUID, planeUID = 12411, 12412, 12413

// overflowUID is the user that the kernel shows in the place of those that have no number here.
const overflowUID = 65534

// keyMode is where the catalog comes from.
type keyMode struct {
	name   string
	consul *meshtest.Agent // nil: files
}

// TestKeysOfTheAPI: who is no application of a service gets no key of it by any interface: not other users, not root and what it forwards, not the
// control plane's own user, not another service's token, not after somebody else's leaf was made, and not a token that was revoked. No key
// and no token is in a log, metric, dump, or file beside.
func TestKeysOfTheAPI(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, mode := range []keyMode{{"files", nil}, {"Consul without ACLs", &meshtest.Agent{}}, {"Consul with ACLs", &meshtest.Agent{Management: management}}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			keysOfTheAPI(t, mode)
		})
	}
}

func keysOfTheAPI(t *testing.T, mode keyMode) { //nolint:thelper // it is the test
	dir, err := os.MkdirTemp("", "keys-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(dir, "sallyport")
	copyProgram(t, sallyport, command)
	config := meshtest.Config{Sallyport: command, Prober: true, User: planeUID}
	if mode.consul != nil {
		config.Consul = meshtest.StartConsul(t, *mode.consul)
	}
	m := meshtest.New(t, config)
	k := &keyRig{t: t, m: m, address: fmt.Sprintf("127.0.0.1:%d", m.Port()), forwarded: dir}
	flags := []string{"--api-address", k.address}
	m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, "")})
	selectors := fmt.Sprintf("unix:uid:%d", namedUID)
	tokens := map[string]string{}
	if c := config.Consul; c == nil {
		m.Write("native.hcl", fmt.Sprintf(`
services { name = "api" port = 8443 connect { native = true } meta { sallyport_selectors = %q } }
services { name = "db" port = 8444 connect { native = true } }
`, selectors))
	} else {
		tokens = k.register(c, selectors)
		if mode.consul.Management != "" {
			flags = append(flags, "--token-file", filepath.Join(dir, "serve"), "--service-tokens", "api="+filepath.Join(dir, "own"))
		}
	}
	m.SetFlags(flags...)
	m.Serve()
	if err := os.Chmod(m.Runtime, 0o711); err != nil {
		t.Fatal(err)
	}
	k.forward()
	if config.Consul == nil {
		tokens["web"] = makeBootstrap(t, m, "web").token
		for _, name := range []string{"api", "db"} {
			tokens[name] = strings.TrimSpace(m.MustRun("token", "create", name))
		}
		tokens["reader"] = strings.TrimSpace(m.MustRun("token", "create", "--reader"))
	}

	// ask asks by one of the interfaces, and holds whether a key comes.
	asked := map[bool]int{}
	ask := func(who, way string, c keyCaller, want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), meshtest.Deadline)
		defer cancel()
		came, keys, err := keyWays[way](k, ctx, c)
		if got := len(keys) > 0 || strings.Contains(came, "PRIVATE KEY"); got != want {
			t.Errorf("%s by %s: %.200s, %v; want a key: %t", who, way, came, err, want)
		}
		switch {
		case want:
			k.known = append(k.known, keys...)
		case !refusedBy(way, came, err):
			t.Errorf("%s by %s is refused for another reason: %.200s, %v", who, way, came, err)
		}
		asked[want]++
	}
	tokensCount := config.Consul == nil || mode.consul.Management != ""
	meshtest.Await(t, "the process that api names gets its key", func() error {
		_, keys, err := keyWays["Workload API"](k, t.Context(), keyCaller{uid: namedUID})
		if err == nil && len(keys) != 1 {
			err = errNothing
		}
		return err
	})
	for _, way := range []string{"HTTP", "Workload API", "SDS", "SDS, all", "SDS, once", "SDS, delta"} {
		ask("the process that api names", way, keyCaller{uid: namedUID}, true)
	}
	if came, certificates, err := keyWays["a certificate request"](k, t.Context(), keyCaller{uid: namedUID}); len(certificates) > 0 != (config.Consul == nil) {
		t.Errorf("a certificate request: %.200s, %v", came, err)
	}
	if _, jwts, err := keyWays["JWT-SVIDs"](k, t.Context(), keyCaller{uid: namedUID}); len(jwts) > 0 != (config.Consul == nil) {
		t.Errorf("%d JWT-SVIDs, %v", len(jwts), err)
	}
	for _, way := range []string{"HTTP", "HTTP over TCP"} {
		ask("api's token", way, keyCaller{uid: unnamedUID, token: tokens["api"]}, tokensCount)
	}
	ask("api's token, forwarded", "HTTP", keyCaller{uid: unnamedUID, token: tokens["api"], forwarded: true}, tokensCount)
	if f, err := subscribe(filepath.Join(m.Runtime, "xds.sock"), subscription{tokens["web"], "web-sidecar-proxy", secretType, []string{"leaf/web"}}, 5*time.Second); err != nil || f.Keys == 0 {
		t.Errorf("web's own leaf, for its sidecar: %v, %v", f, err)
	}

	// An Envoy of that process has a key too.
	k.envoy = m.Port()
	staticEnvoy{uid: namedUID, listen: m.Port(), to: m.Port(), admin: k.envoy, peer: "spiffe://x/y", certificate: "leaf/api", roots: "roots"}.start(t, m, meshtest.Version)
	meshtest.Await(t, "an Envoy has its secrets", func() error {
		b, err := get(t.Context(), &http.Transport{DisableKeepAlives: true}, fmt.Sprintf("http://127.0.0.1:%d/certs", k.envoy), "")
		if err == nil && !bytes.Contains(b, []byte("/svc/api")) {
			err = fmt.Errorf("%w: %.200s", errNothing, b)
		}
		return err
	})

	// From now on somebody else's leaf was made: Consul itself gives it to everybody.
	if c := config.Consul; c != nil {
		b, err := get(t.Context(), &http.Transport{DisableKeepAlives: true}, "http://"+c.Addr+"/v1/agent/connect/ca/leaf/api", "")
		if err != nil || !strings.Contains(string(b), "PRIVATE KEY") {
			t.Errorf("Consul gives a leaf that was made to nobody but who may have it: %s, %v", b, err)
		}
	}
	ways := slices.Sorted(maps.Keys(keyWays))
	for who, c := range map[string]keyCaller{
		"a process that nobody names":  {uid: unnamedUID},
		"root":                         {uid: 0},
		"the control plane's own user": {uid: planeUID},
		"the overflow user":            {uid: overflowUID},
		"the named process through what root forwards":  {uid: namedUID, forwarded: true},
		"an unnamed process through what root forwards": {uid: unnamedUID, forwarded: true},
	} {
		for _, way := range ways {
			ask(who, way, c, false)
		}
	}
	ask("the named process", "HTTP over TCP", keyCaller{uid: namedUID}, false)
	for who, token := range map[string]string{
		"another service's token": tokens["db"], "a reader's token": tokens["reader"], "a sidecar's token": tokens["web"], "a token that is none": "nonsense", "the anonymous token": "anonymous",
		"a token with another signature": strings.Replace(tokens["api"], ".", ".x", 1) + "0",
	} {
		if token == "" {
			continue
		}
		for _, c := range []keyCaller{{uid: namedUID, token: token}, {uid: unnamedUID, token: token}, {uid: unnamedUID, token: token, forwarded: true}} {
			for _, way := range []string{"HTTP", "HTTP over TCP", "a certificate request", "xDS", "admin"} {
				ask(fmt.Sprintf("%s by %d", who, c.uid), way, c, false)
			}
		}
	}
	ask("api's token where sidecars ask", "xDS", keyCaller{uid: namedUID, token: tokens["api"]}, false)

	k.taken(mode, config.Consul, tokens)
	secrets := k.look(tokens)
	figure(t, "asked=%d given=%d keys=%d secrets_in_sight=%d", asked[false]+asked[true], asked[true], len(k.known), secrets)
}

// register registers api, which names its process, and others with Consul, and returns tokens of Consul's. The files of those that the control
// plane has are called serve and own.
func (k *keyRig) register(c *meshtest.Consul, selectors string) map[string]string {
	t := k.t
	t.Helper()
	register := func(id, name, selectors string) {
		t.Helper()
		c.Register(map[string]any{"ID": id, "Name": name, "Port": 8443, "Meta": map[string]string{"sallyport_selectors": selectors}, "Connect": map[string]any{"Native": true}})
	}
	register("api", "api", selectors)
	register("db", "db", "")
	for _, uid := range []int{0, planeUID, overflowUID} { // in files that is an error
		register(fmt.Sprintf("api-%d", uid), "api", fmt.Sprintf("unix:uid:%d", uid))
	}
	if c.Agent.Management == "" {
		return map[string]string{"api": "11111111-0000-4000-8000-000000000000", "db": "anonymous", "reader": "x"}
	}
	tokens := map[string]string{}
	c.Policy("sallyport", k.m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	c.Policy("reads", `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`)
	for name, policy := range map[string]string{"serve": "sallyport", "reader": "reads"} {
		_, tokens[name] = c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": policy}}})
	}
	for _, service := range []string{"api", "db", "web"} {
		_, tokens[service] = c.ServiceToken(service)
	}
	for name, token := range map[string]string{"serve": tokens["serve"], "own": tokens["api"]} {
		if err := os.Chown(tokenFile(t, filepath.Join(k.forwarded, name), token), planeUID, planeUID); err != nil {
			t.Fatal(err)
		}
	}
	return tokens
}

// taken holds that what is taken away counts: a token that was revoked, or deleted, and a process that the service names no more.
func (k *keyRig) taken(mode keyMode, c *meshtest.Consul, tokens map[string]string) {
	t := k.t
	t.Helper()
	refused := func(what, way string, caller keyCaller) {
		t.Helper()
		meshtest.Await(t, what+" gets no key by "+way, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), meshtest.Deadline)
			defer cancel()
			if came, keys, _ := keyWays[way](k, ctx, caller); len(keys) > 0 {
				return fmt.Errorf("%.100s", came)
			}
			return nil
		})
	}
	switch {
	case c == nil:
		if out := k.m.MustRun("token", "revoke", "--applications", "api"); !strings.Contains(out, "revoked") {
			t.Errorf("revoke: %s", out)
		}
	case mode.consul.Management != "":
		var self struct{ AccessorID string }
		own := c.API
		own.Token = tokens["api"]
		if err := own.Do(http.MethodGet, "/v1/acl/token/self", nil, &self); err != nil {
			t.Fatal(err)
		}
		c.DeleteToken(self.AccessorID)
	}
	refused("a token that was taken away", "HTTP", keyCaller{uid: unnamedUID, token: tokens["api"]})
	// The service names another process now.
	if selectors := fmt.Sprintf("unix:uid:%d", unnamedUID); c == nil {
		k.m.Write("native.hcl", fmt.Sprintf("services { name = \"api\" port = 8443 connect { native = true } meta { sallyport_selectors = %q } }\n", selectors))
	} else {
		c.Register(map[string]any{"Name": "api", "Port": 8443, "Meta": map[string]string{"sallyport_selectors": selectors}, "Connect": map[string]any{"Native": true}})
	}
	for _, way := range []string{"HTTP", "a certificate request", "Workload API", "JWT-SVIDs", "SDS", "SDS, delta"} {
		refused("a process that is named no more", way, keyCaller{uid: namedUID})
	}
}

// look looks for keys and tokens where they must not be, and returns how many there are.
func (k *keyRig) look(tokens map[string]string) (found int) {
	t := k.t
	t.Helper()
	secrets := k.inSight()
	in := func(where string, text []byte) {
		for i, s := range secrets {
			if bytes.Contains(text, s) {
				found++
				t.Errorf("%s has a private key (spelling %d)", where, i)
			}
		}
		for who, token := range tokens {
			if len(token) > len("anonymous") && bytes.Contains(text, []byte(token)) {
				found++
				t.Errorf("%s has the token of %s", where, who)
			}
		}
	}
	b, err := os.ReadFile(k.m.ServeLog())
	if err != nil || len(b) == 0 {
		t.Fatalf("log: %d bytes, %v", len(b), err)
	}
	in("the log", b)
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return k.dial(keyCaller{uid: planeUID}, "admin.sock")
	}}
	answered := 0
	for _, page := range adminPages {
		b, err := get(t.Context(), tr, "http://sallyport"+page, "")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasSuffix(b, []byte("\n200 OK")) {
			answered++
		}
		in(page, b)
	}
	if answered < len(adminPages) {
		t.Errorf("%d of %d pages were answered", answered, len(adminPages))
	}
	for _, page := range []string{"/config_dump?include_eds", "/certs", "/clusters", "/listeners", "/stats", "/server_info", "/init_dump", "/memory"} {
		b, err := get(t.Context(), &http.Transport{DisableKeepAlives: true}, fmt.Sprintf("http://127.0.0.1:%d%s", k.envoy, page), "")
		if err != nil || !bytes.HasSuffix(b, []byte("\n200 OK")) {
			t.Errorf("Envoy's %s: %.100s, %v", page, b, err)
		}
		in("Envoy's "+page, b)
	}
	// The keys of the CA and of tokens are the data directory's own, for the control plane's user alone; leafs are nowhere.
	own := secrets[0]
	for _, root := range []string{k.m.Data, k.m.Runtime} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if info, err := d.Info(); err == nil && root == k.m.Data && info.Mode().Perm() == 0o600 {
				b = bytes.ReplaceAll(b, own, nil)
			}
			in(path, b)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	return found
}
