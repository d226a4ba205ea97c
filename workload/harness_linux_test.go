package workload_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// passing is the variable that has this program connect to a socket, pass the connection on to its
// parent by the socket that is its input, and wait.
const passing = "SALLYPORT_WORKLOAD_PASS"

func TestMain(m *testing.M) {
	if socket := os.Getenv(passing); socket != "" {
		os.Exit(pass(socket))
	}
	goleak.VerifyTestMain(m)
}

func pass(socket string) int {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
	}
	if err == nil {
		err = syscall.Sendmsg(0, []byte("."), syscall.UnixRights(fd), nil, 0)
	}
	if err != nil {
		return 1
	}
	_, _ = syscall.Read(0, make([]byte, 1))
	return 0
}

// childConn is a connection that a process of another user has made and passed on, and how to end
// that process.
func (h *harness) childConn(t *testing.T, uid uint32) (conn net.Conn, end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(h.socket), "program") // where other users may run it
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	c := exec.Command(program)
	c.Env, c.Stdin = []string{passing + "=" + h.socket}, theirs
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	end = sync.OnceFunc(func() { _ = c.Process.Kill(); _ = c.Wait() })
	t.Cleanup(end)
	rights := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := syscall.Recvmsg(pair[0], make([]byte, 1), rights, 0)
	if err != nil || n == 0 {
		t.Fatalf("no connection was passed on: %v", err)
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "passed")
	defer f.Close()
	if conn, err = net.FileConn(f); err != nil {
		t.Fatal(err)
	}
	// What this test gives back must not keep the child.
	rest, err := syscall.Dup(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(rest) })
	return conn, end
}

var domain = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")

// The users of these tests. Nothing is theirs.
const (
	webUID   = 12345
	otherUID = 12346
)

// harness is a running server on a real CA.
type harness struct {
	views   latest.Value[*catalog.View]
	secrets *sds.Credentials
	server  *workload.Server
	metrics *prometheus.Registry
	socket  string
	log     *safeBuffer
	stop    func()

	mu   sync.Mutex
	view *catalog.View
}

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// instance is a registration that names processes.
func instance(id, service, selectors string) catalog.Registration {
	return catalog.Registration{ID: id, Service: identity.NewName(service), Meta: map[string]string{"sallyport_selectors": selectors}, Origin: id + ".hcl:1"}
}

// publish has the catalog be these registrations.
func (h *harness) publish(all ...catalog.Registration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.view == nil {
		h.view = new(catalog.View)
	}
	m := catalogtest.Mesh{Mesh: catalog.Mesh{TrustDomain: domain, Datacenter: "dc1", Datacenters: []string{"dc1"}}, Registrations: all}
	h.view = h.view.Next(m.Contents())
	h.views.Set(h.view)
}

// start runs a server. It needs root, who alone can make connections of other users.
func start(t testing.TB, ttl time.Duration, change func(*workload.Config)) *harness {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOTE: %s needs root to make connections of other users", t.Name())
	}
	dir, err := os.MkdirTemp("", "workload-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &harness{socket: filepath.Join(dir, "workload.sock"), log: &safeBuffer{}, metrics: prometheus.NewRegistry()}
	builtin, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca"), TrustDomain: domain, LeafTTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: builtin, TrustDomain: domain, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	if h.secrets, err = sds.New(sds.Config{Source: issuer}); err != nil {
		t.Fatal(err)
	}
	cfg := workload.Config{Views: &h.views, Credentials: h.secrets, Logger: slog.New(slog.NewTextHandler(h.log, nil)), Registerer: h.metrics}
	if change != nil {
		change(&cfg)
	}
	if h.server, err = workload.New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{
		builtin.Run, issuer.Run, h.secrets.Run, h.server.Run, func(ctx context.Context) error { return h.server.Serve(ctx, l) },
	} {
		all.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	h.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		builtin.Close()
	})
	t.Cleanup(h.stop)
	return h
}

// dialAs connects to a Unix socket as another user: of a connection the kernel knows who the thread
// was that made it. The thread is given back as it was.
func dialAs(uid int, socket string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const keep = ^uintptr(0)
	set := func(call, id uintptr) {
		if _, _, errno := syscall.RawSyscall(call, keep, id, keep); errno != 0 {
			panic(errno)
		}
	}
	set(syscall.SYS_SETRESGID, uintptr(uid))
	set(syscall.SYS_SETRESUID, uintptr(uid))
	conn, err := net.Dial("unix", socket)
	set(syscall.SYS_SETRESUID, 0)
	set(syscall.SYS_SETRESGID, 0)
	return conn, err
}

// dialOptions are those of a client of another user.
func (h *harness) dialOptions(uid int) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dialAs(uid, h.socket) }),
	}
}

// client is a connection of another user.
func (h *harness) client(t testing.TB, uid int) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:workload", h.dialOptions(uid)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asked is a context with the security header.
func asked(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}
