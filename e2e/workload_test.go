//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Users of applications without a sidecar. Nothing else is theirs.
const frontUID, backUID, evilUID = 12401, 12402, 12403

// staticEnvoy runs an Envoy of another user with a configuration that no control plane changes. dial: it takes http in
// plain and dials another by mutual TLS; else it takes that and dials an application. Certificate, key and roots come
// from workload.sock.
type staticEnvoy struct {
	uid         uint32
	listen, to  int
	admin       int // the port of its administration; 0: there is none
	dial        bool
	peer        string // the URI SAN that it expects
	certificate string // the names of its secrets
	roots       string
}

func (e staticEnvoy) start(t *testing.T, m *meshtest.Mesh, version string) {
	t.Helper()
	// What docs/native/envoy.md has: a listener's TLS, and the cluster where it comes from.
	listener, cluster, ok := strings.Cut(pageBlock(t, "native/envoy.md", "yaml", "DownstreamTlsContext", "name: default", `name: "`+e.certificate+`"`, "name: ROOTCA", `name: "`+e.roots+`"`,
		"spiffe://<trust domain>/ns/default/dc/dc1/svc/web", e.peer, "/run/sallyport", m.Runtime), "# and among the clusters:\n")
	if !ok {
		t.Fatal("docs/native/envoy.md has no cluster")
	}
	up := ""
	if e.dial {
		listener, up = "", indented(strings.NewReplacer("DownstreamTlsContext", "UpstreamTlsContext", "    require_client_certificate: true\n", "").Replace(listener), 4)
	}
	dir, err := os.MkdirTemp("", "static-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.yaml")
	admin := ""
	if e.admin != 0 {
		admin = fmt.Sprintf("admin: { address: { socket_address: { address: 127.0.0.1, port_value: %d } } }\n", e.admin)
	}
	text := admin + fmt.Sprintf(`node: { id: static-%[1]d, cluster: static }
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: %[2]d } }
    filter_chains:
    - filters: [{ name: tcp, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: to } }]
%[4]s
  clusters:
  - name: to
    connect_timeout: 5s
    load_assignment: { cluster_name: to, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: %[3]d } } } }] }] }
%[5]s
%[6]s
`, e.listen, e.listen, e.to, indented(listener, 6), up, indented(cluster, 2))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// A copy that every user may run.
	binary := filepath.Join(dir, "envoy")
	if err := os.Link(envoytest.Binary(t, version), binary); err != nil {
		b, err := os.ReadFile(envoytest.Binary(t, version))
		if err == nil {
			err = os.WriteFile(binary, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")
	cmd.Env, cmd.Dir = []string{"HOME=" + dir}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: e.uid, Gid: e.uid}}
	meshtest.Start(t, "static Envoy", filepath.Join(dir, "envoy.log"), cmd)
}

// TestWorkloadSDS: Envoys with the static configuration of docs/native/envoy.md take certificate, key and roots from sallyport's SDS, and speak mutual TLS
// through rotations; one of another service is turned away.
func TestWorkloadSDS(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, version := range []string{"1.36.4", "1.40.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
			for name, uid := range map[string]int{"front": frontUID, "back": backUID, "evil": evilUID} {
				m.Write(name+".hcl", fmt.Sprintf("service {\n  name = %q\n  meta { sallyport_selectors = \"unix:uid:%d\" }\n}\n", name, uid))
			}
			m.Serve()
			back, front, evil := m.Port(), m.Port(), m.Port()
			domain, _, _ := strings.Cut(strings.TrimPrefix(m.URI("back"), "spiffe://"), "/")
			app := serveStreams(t, "hello from back")
			staticEnvoy{uid: backUID, listen: back, to: app.Port(), peer: m.URI("front"), certificate: "default", roots: "ROOTCA"}.start(t, m, version)
			staticEnvoy{uid: frontUID, listen: front, to: back, dial: true, peer: m.URI("back"), certificate: m.URI("front"), roots: "spiffe://" + domain}.start(t, m, version)
			staticEnvoy{uid: evilUID, listen: evil, to: back, dial: true, peer: m.URI("back"), certificate: "leaf/evil", roots: "roots"}.start(t, m, version)
			get := func(port int) error {
				client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
				r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
				if err != nil {
					return err
				}
				defer r.Body.Close()
				if r.StatusCode != http.StatusOK {
					return errors.New(r.Status)
				}
				return nil
			}
			meshtest.Await(t, "front reaches back", func() error { return get(front) })
			for range 3 {
				for _, service := range []string{"front", "back"} {
					m.MustRun("leaf", "rotate", service)
				}
				for range 10 {
					if err := get(front); err != nil {
						t.Errorf("after a rotation: %v", err)
					}
				}
			}
			// It listens by now: its secrets have come.
			meshtest.Await(t, "evil listens", func() error {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", evil))
				if err == nil {
					c.Close()
				}
				return err
			})
			for range 5 {
				if err := get(evil); err == nil {
					t.Error("evil is let in by back")
				}
			}
		})
	}
}

// dialAs connects to a Unix socket as another user: of a connection the kernel knows who the thread was that made it. The thread is
// given back as it was: if it ended, so would the processes that it has started.
func dialAs(uid int, socket string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const keep = ^uintptr(0)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return nil, errno
	}
	conn, err := net.Dial("unix", socket)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		panic(errno)
	}
	return conn, err
}

// svids asks for X.509-SVIDs as another user, on a connection of its own, and returns the SPIFFE IDs of the first message. next, if not
// nil, is called with the stream after it.
func svids(t *testing.T, m *meshtest.Mesh, uid int, next func(grpc.ServerStreamingClient[workloadpb.X509SVIDResponse])) (ids []string, err error) {
	t.Helper()
	c, err := grpc.NewClient("passthrough:workload", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return dialAs(uid, filepath.Join(m.Runtime, "workload.sock"))
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"), &workloadpb.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	r, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	for _, s := range r.GetSvids() {
		ids = append(ids, s.GetSpiffeId())
	}
	if next != nil {
		next(stream)
	}
	return ids, nil
}

// named is a registration of an application that names its processes.
func named(service string, uid int) map[string]any {
	return map[string]any{"Name": service, "Port": 80, "Meta": map[string]string{"sallyport_selectors": fmt.Sprintf("unix:uid:%d", uid)}}
}

// TestConsulWorkload: without ACLs the processes that a service names get its leaf, and nobody else.
func TestConsulWorkload(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Prober: true})
	c.Register(named("front", frontUID))
	m.Serve()
	meshtest.Await(t, "front's process gets its leaf", func() error {
		ids, err := svids(t, m, frontUID, nil)
		if err == nil && (len(ids) != 1 || !strings.HasSuffix(ids[0], "/svc/front")) {
			t.Fatalf("%q", ids)
		}
		return err
	})
	for _, uid := range []int{backUID, 0} {
		if ids, err := svids(t, m, uid, nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("uid %d: %q, %v", uid, ids, err)
		}
	}
}

// TestConsulWorkloadACL: with ACLs a service's leaf is fetched with a token of the service's own, which the operator gives, and with no
// other; when it is deleted the stream ends.
func TestConsulWorkloadACL(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Prober: true})
	c.Register(named("front", frontUID))
	c.Register(named("back", backUID))
	c.Register(named("evil", evilUID))
	dir := t.TempDir()
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	accessor, front := c.ServiceToken("front")
	file := tokenFile(t, filepath.Join(dir, "front"), front)
	// evil's is that of front: it is not good for evil.
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(dir, "serve"), own), "--service-tokens", "front="+file+",evil="+file)
	m.Serve()
	ended := make(chan error, 1)
	meshtest.Await(t, "front's process gets its leaf", func() error {
		ids, err := svids(t, m, frontUID, nil)
		if err == nil && (len(ids) != 1 || !strings.HasSuffix(ids[0], "/svc/front")) {
			t.Fatalf("%q", ids)
		}
		return err
	})
	if _, err := svids(t, m, backUID, nil); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "--service-tokens back=FILE") {
		t.Errorf("a service without a token: %v", err)
	}
	if _, err := svids(t, m, evilUID, nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service with another's token: %v", err)
	}
	_, err := svids(t, m, frontUID, func(stream grpc.ServerStreamingClient[workloadpb.X509SVIDResponse]) {
		c.DeleteToken(accessor)
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
		t.Errorf("after the token was deleted: %v", err)
	}
	if log := m.ServeProcess().Log(); strings.Contains(log, front) || strings.Contains(log, own) {
		t.Error("the log has a token")
	}
}
