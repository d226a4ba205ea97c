package bootstrap_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"
)

// deadline bounds every wait for something that happens within a second on a machine at rest.
const deadline = 30 * time.Second

func TestEnvoyValidates(t *testing.T) {
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		binary := envoytest.Binary(t, version)
		for name, p := range cases(t) {
			if p.EnvoyVersion.Minor > 36 && version == envoytest.Oldest {
				p.EnvoyVersion = bootstrap.Version{Major: 1, Minor: 36} // what `sallyport envoy` would find out
			}
			t.Run(version+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				p.TokenFile = writeToken(t, dir, "a-token")
				config := filepath.Join(dir, "bootstrap.json")
				writeFile(t, config, marshal(t, build(t, p)))
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				out, err := exec.CommandContext(ctx, binary, append(bootstrap.Args(p, config), "--mode", "validate")...).CombinedOutput()
				if err != nil {
					t.Errorf("envoy --mode validate: %v\n%s", err, out)
				}
			})
		}
	}
}

// TestEnvoyRuns runs Envoys against a control plane that has nothing for them, and looks at what
// they send it and what they show.
func TestEnvoyRuns(t *testing.T) {
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		t.Run(version, func(t *testing.T) {
			dir := shortDir(t)
			cp := newControlPlane(t, "unix", filepath.Join(dir, "xds.sock"))
			p := web()
			p.XDSSocket = filepath.Join(dir, "xds.sock")
			p.AdminSocket = filepath.Join(dir, "admin.sock")
			p.TokenFile = writeToken(t, dir, "first-token")
			p.PrometheusBindAddr = freeAddr(t)
			parse(t, version, &p.EnvoyVersion)
			b := build(t, p)
			// What a control plane would send, as far as it has statistics.
			for _, name := range []string{"api.default.dc1.internal." + trustDomain, "0123abcd~db.v2.default.dc2.internal." + trustDomain} {
				b.StaticResources.Clusters = append(b.StaticResources.Clusters, &clusterv3.Cluster{Name: name})
			}
			b.StaticResources.Listeners = append(b.StaticResources.Listeners, tcpListener(t, "upstream.api.default.default.dc1"), tcpListener(t, "upstream.db.v2.default.default.dc2"))
			e := start(t, version, p, marshal(t, b), dir, false)

			if got := cp.token(t); got != "Bearer first-token" {
				t.Errorf("authorization: %q, want the token", got)
			}
			info, err := os.Stat(p.AdminSocket)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("admin socket has mode %04o, want 0600", info.Mode().Perm())
			}
			if dump := e.admin(t, "/config_dump"); strings.Contains(dump, "first-token") || !strings.Contains(dump, "xds-token") {
				t.Error("config_dump holds the token, or nothing of the secret")
			}
			for _, stat := range []string{"server.static_unknown_fields", "runtime.deprecated_feature_use"} {
				if got := e.admin(t, "/stats?filter=^"+stat+"$"); strings.TrimSpace(got) != stat+": 0" {
					t.Errorf("%s, want 0", got)
				}
			}
			if got := e.admin(t, "/runtime?format=json"); !strings.Contains(got, `"re2.max_program_size.error_level"`) || !strings.Contains(got, `"10000"`) {
				t.Errorf("runtime lacks the size of expressions: %s", got)
			}

			checkLabels(t, p.PrometheusBindAddr)
			for path, want := range map[string]int{"/metrics?usedonly": 200, "/stats": 404, "/quitquitquit": 404, "/metrics/../config_dump": 404, "/metrics/x": 404} {
				if got := status(t, http.MethodGet, p.PrometheusBindAddr, path); got != want {
					t.Errorf("GET %s of the metrics listener: %d, want %d", path, got, want)
				}
			}
			if got := status(t, http.MethodPost, p.PrometheusBindAddr, "/metrics"); got != 404 {
				t.Errorf("POST /metrics: %d, want 404", got)
			}

			// A new token is renamed over the old one, and the stream begins anew.
			writeToken(t, dir, "second-token")
			e.awaitStat(t, "sds.xds-token.update_success", "2")
			cp.hangUp()
			if got := cp.token(t); got != "Bearer second-token" {
				t.Errorf("authorization after the renewal: %q, want the new token", got)
			}
		})
	}
}

func TestEnvoyAdminOnLoopback(t *testing.T) {
	for version, want := range map[string]int{envoytest.Oldest: 200, envoytest.Newest: 403} {
		t.Run(version, func(t *testing.T) {
			dir := shortDir(t)
			newControlPlane(t, "unix", filepath.Join(dir, "xds.sock"))
			p := web()
			p.XDSSocket = filepath.Join(dir, "xds.sock")
			p.TokenFile = writeToken(t, dir, "a-token")
			p.AdminSocket, p.AdminBind = "", freeAddr(t)
			p.PrometheusBindAddr = freeAddr(t)
			parse(t, version, &p.EnvoyVersion)
			start(t, version, p, marshal(t, build(t, p)), dir, false)
			for _, path := range []string{"/stats?filter=x", "/config_dump?resource=", "/clusters", "/certs", "/server_info", "/runtime?format=json"} {
				if got := status(t, http.MethodGet, p.AdminBind, path); got != 200 {
					t.Errorf("GET %s: %d, want 200", path, got)
				}
			}
			for _, path := range []string{"/reset_counters", "/runtime_modify?a=b", "/logging?level=info", "/healthcheck/ok", "/drain_listeners?graceful&skip_exit"} {
				if got := status(t, http.MethodPost, p.AdminBind, path); got != want && (want == 403 || got == 403) {
					t.Errorf("POST %s: %d, want %d", path, got, want)
				}
			}
			if want == 403 {
				if got := status(t, http.MethodPost, p.AdminBind, "/quitquitquit"); got != 403 {
					t.Errorf("POST /quitquitquit: %d, want 403", got)
				}
			}
			if got := status(t, http.MethodGet, p.PrometheusBindAddr, "/metrics"); got != 200 {
				t.Errorf("GET /metrics: %d, want 200", got)
			}
		})
	}
}

func TestEnvoyRemote(t *testing.T) {
	const uri = "spiffe://" + trustDomain + "/sallyport/xds"
	ca := newCA(t)
	for _, tt := range []struct {
		name, uri string
		reaches   bool
	}{
		{"the control plane", uri, true},
		{"another certificate of the same CA", "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/web", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := shortDir(t)
			cp := newControlPlane(t, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
				Certificates: []tls.Certificate{newLeaf(t, ca, tt.uri)}, MinVersion: tls.VersionTLS13,
			})))
			p := remote(ca.PEM())
			p.XDSAddress = cp.address
			p.AdminSocket = filepath.Join(dir, "admin.sock")
			p.TokenFile = writeToken(t, dir, "a-token")
			e := start(t, envoytest.Newest, p, marshal(t, build(t, p)), dir, !tt.reaches)
			if tt.reaches {
				if got := cp.token(t); got != "Bearer a-token" {
					t.Errorf("authorization: %q, want the token", got)
				}
				return
			}
			e.awaitStat(t, "cluster.sallyport.ssl.fail_verify_san", "")
			if n := cp.streams(); n != 0 {
				t.Errorf("%d streams to a control plane with the wrong certificate", n)
			}
		})
	}
}

// checkLabels holds some lines of /metrics against the labels that they have under Consul.
func checkLabels(t *testing.T, addr string) {
	t.Helper()
	text := get(t, http.DefaultClient, "http://"+addr+"/metrics")
	const source = `local_cluster="web",consul_source_service="web",consul_source_namespace="default",consul_source_partition="default",consul_source_datacenter="dc1"`
	domain := strings.TrimSuffix(trustDomain, ".consul")
	for _, want := range []string{
		// names of metrics and of labels, which may come in any order
		`envoy_cluster_upstream_cx_total{` + source + `,envoy_cluster_name="api",consul_destination_service="api",consul_destination_namespace="default",consul_destination_datacenter="dc1",` +
			`consul_destination_routing_type="internal",consul_destination_trust_domain="` + domain + `",consul_destination_target="api.default.dc1",consul_destination_full_target="api.default.dc1.internal.` + domain + `"}`,
		`envoy_cluster_upstream_cx_total{` + source + `,envoy_cluster_name="0123abcd~db",consul_destination_custom_hash="0123abcd",consul_destination_service="db.v2",consul_destination_namespace="default",consul_destination_datacenter="dc2",` +
			`consul_destination_routing_type="internal",consul_destination_trust_domain="` + domain + `",consul_destination_target="db.v2.default.dc2",consul_destination_full_target="0123abcd~db.v2.default.dc2.internal.` + domain + `"}`,
		`envoy_tcp_downstream_cx_total{` + source + `,envoy_tcp_prefix="upstream",consul_upstream_service="api",consul_upstream_namespace="default",consul_upstream_partition="default",consul_upstream_datacenter="dc1"}`,
		`envoy_tcp_downstream_cx_total{` + source + `,envoy_tcp_prefix="upstream",consul_upstream_service="db.v2",consul_upstream_namespace="default",consul_upstream_partition="default",consul_upstream_datacenter="dc2"}`,
		`envoy_cluster_upstream_cx_total{` + source + `,envoy_cluster_name="sallyport"}`,
	} {
		name, labels, _ := strings.Cut(strings.TrimSuffix(want, "}"), "{")
		if !hasLine(text, name, strings.Split(labels, ",")) {
			t.Errorf("no line %s in /metrics; there are\n%s", want, linesOf(text, name))
		}
	}
}

func hasLine(text, name string, labels []string) bool {
	slices.Sort(labels)
	for line := range strings.Lines(linesOf(text, name)) {
		_, rest, _ := strings.Cut(line, "{")
		rest, _, _ = strings.Cut(rest, "}")
		got := strings.Split(rest, ",")
		slices.Sort(got)
		if slices.Equal(got, labels) {
			return true
		}
	}
	return false
}

func linesOf(text, name string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// envoy is a running Envoy with its admin socket.
type envoy struct {
	client http.Client
	base   string
}

// start runs an Envoy with a bootstrap until the test ends, and waits until it is ready or, if it
// is a lonely one without a control plane, until its administration answers.
func start(t *testing.T, version string, p bootstrap.Params, content []byte, dir string, lonely bool) *envoy {
	t.Helper()
	config := filepath.Join(dir, "bootstrap.json")
	writeFile(t, config, content)
	var log bytes.Buffer
	cmd := exec.Command(envoytest.Binary(t, version), append(bootstrap.Args(p, config), "--concurrency", "1", "--log-level", "warning")...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("envoy:\n%s", log.String())
		}
	})
	e := &envoy{base: "http://" + p.AdminBind}
	if p.AdminSocket != "" {
		e.base = "http://envoy"
		e.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.AdminSocket)
		}}
	}
	await(t, "Envoy ready", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("envoy ended: %v", err)
		default:
		}
		resp, err := e.client.Get(e.base + "/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK && !lonely {
			return errors.New(resp.Status)
		}
		return nil
	})
	return e
}

func (e *envoy) admin(t *testing.T, path string) string {
	t.Helper()
	return get(t, &e.client, e.base+path)
}

// awaitStat waits until a counter has a value, or any but 0 if want is empty.
func (e *envoy) awaitStat(t *testing.T, name, want string) {
	t.Helper()
	await(t, name, func() error {
		line := strings.TrimSpace(e.admin(t, "/stats?filter=^"+strings.ReplaceAll(name, ".", `\.`)+"$"))
		_, got, _ := strings.Cut(line, ": ")
		if got == want || want == "" && got != "" && got != "0" {
			return nil
		}
		return fmt.Errorf("%q, want %q", line, want)
	})
}

// await calls f until it returns nil.
func await(t *testing.T, what string, f func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func get(t *testing.T, c *http.Client, to string) string {
	t.Helper()
	resp, err := c.Get(to)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %s", to, resp.Status, body)
	}
	return string(body)
}

// status is what a request is answered with; path is sent as it is, dots and all.
func status(t *testing.T, method, addr, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func tcpListener(t *testing.T, prefix string) *listenerv3.Listener {
	t.Helper()
	host, port := hostPort(t, freeAddr(t))
	config, err := anypb.New(&tcpproxyv3.TcpProxy{StatPrefix: prefix, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "sallyport"}})
	if err != nil {
		t.Fatal(err)
	}
	return &listenerv3.Listener{
		Name:    prefix,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.tcp_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config},
		}}}},
	}
}

// freeAddr is a loopback address with a port, below those that systems give to outgoing
// connections, on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(8000))
		if err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+n.Int64())
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

func hostPort(t *testing.T, addr string) (string, uint32) {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.IP.String(), uint32(a.Port)
}

// shortDir is a directory whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "boot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// writeToken writes a token file beside the old one and renames it, as the comment of
// Params.TokenFile has it.
func writeToken(t *testing.T, dir, token string) string {
	t.Helper()
	content, err := bootstrap.TokenFile(token)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "token.json")
	writeFile(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, text string, v *bootstrap.Version) {
	t.Helper()
	var err error
	if *v, err = bootstrap.ParseVersion(text); err != nil {
		t.Fatal(err)
	}
}
