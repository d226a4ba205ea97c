//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/xdstest"
	"google.golang.org/grpc/metadata"
)

// longVariable, if set, makes tests take their long form: `make test-long`.
const longVariable = "E2E_LONG"

// TestFloods has a process of another user flood the control plane, over its socket, its TLS endpoint and its metrics address, in each way that has
// ever filled its memory. It goes on: its memory stays far below 1 GiB, 20 proxies stay in sync, a deny takes effect, and the log does not grow with
// the flood.
func TestFloods(t *testing.T) { // it needs the machine for itself
	const most = 384 << 20
	lasting := 2 * time.Second
	if os.Getenv(longVariable) != "" {
		lasting = time.Minute
	}
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	remote, metrics := fmt.Sprintf("127.0.0.1:%d", m.Port()), fmt.Sprintf("127.0.0.1:%d", m.Port())
	m.SetFlags("--xds-address", remote, "--metrics-bind", metrics, "--log-level", "info")
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello"), Config: []string{`intention_enforcement = "both"`}})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	var others []string
	for i := range 18 {
		others = append(others, fmt.Sprint("other-", i))
		m.Add(meshtest.Service{Name: others[i], Upstreams: []string{"api"}})
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web")
	token := ""
	for _, name := range others {
		b := makeBootstrap(t, m, name)
		if token = b.token; name == others[17] {
			continue // the flood of one token is this one's, so that it has no other stream
		}
		runEnvoy(t, m, b)
	}
	nobody := copyTestBinary(t)
	socket := filepath.Join(m.Runtime, "xds.sock")
	floods := []flood{
		{Kind: "messages", Network: "unix", Addr: socket},
		{Kind: "messages", Network: "tcp", Addr: remote},
		{Kind: "unfinished", Network: "unix", Addr: socket},
		{Kind: "unfinished", Network: "tcp", Addr: remote},
		{Kind: "headers", Network: "unix", Addr: socket},
		{Kind: "headers", Network: "tcp", Addr: remote},
		{Kind: "hpack", Network: "unix", Addr: socket},
		{Kind: "hpack", Network: "tcp", Addr: remote},
		{Kind: "connections", Network: "unix", Addr: socket},
		{Kind: "connections", Network: "tcp", Addr: remote},
		{Kind: "refusals", Network: "unix", Addr: socket},
		{Kind: "refusals", Network: "tcp", Addr: remote},
		{Kind: "unread", Network: "unix", Addr: socket},
		{Kind: "unread", Network: "tcp", Addr: remote},
		{Kind: "metrics", Network: "tcp", Addr: metrics},
		{Kind: "of one token", Network: "unix", Addr: socket, Token: token, Proxy: "other-17-sidecar-proxy"},
		{Kind: "unfinished", Network: "unix", Addr: socket, Token: token, Proxy: "other-17-sidecar-proxy"},
	}
	inSync := func() error {
		n := 0
		for _, p := range m.Status().Proxies {
			if p.Connected && p.InSync {
				n++
			}
		}
		if n < 19 {
			return fmt.Errorf("%d of 19 proxies are in sync", n)
		}
		return nil
	}
	meshtest.Await(t, "the proxies to be in sync", inSync)
	url := "http://" + m.Upstream("web", "api")
	allowed := func() error { return wantAllowed(meshtest.GetPlain(url)) }
	denied := func() error {
		if a := meshtest.GetPlain(url); a.Status != 403 {
			return fmt.Errorf("web → api: %v", a)
		}
		return nil
	}
	serve := m.ServeProcess()
	for _, f := range floods {
		if f.Proxy == "" {
			f.Proxy = "web-sidecar-proxy"
		}
		f.Time = lasting
		t.Run(strings.ReplaceAll(f.Kind, " ", "_")+"/"+f.Network, func(t *testing.T) {
			meshtest.Await(t, "web → api before the flood", allowed)
			lines, closed := strings.Count(serve.Log(), "\n"), streamsClosed(serve.Log())
			peak := watchMemory(serve.PID())
			ended := startFlood(t, nobody, f, 65534)
			time.Sleep(lasting / 2)
			m.Intend("api", meshtest.Intentions{"web": "deny"})
			took := meshtest.Await(t, "a deny during the flood", denied)
			meshtest.Await(t, "the proxies to be in sync during the flood", inSync)
			if err := <-ended; err != nil {
				t.Errorf("the flood: %v", err)
			}
			bytes := peak()
			lines = strings.Count(serve.Log(), "\n") - lines
			figure(t, "flood=%q over=%s deny_s=%.2f peak_MiB=%d log_lines=%d", f.Kind, f.Network, took.Seconds(), bytes>>20, lines)
			if serve.Ended() {
				t.Fatal("the control plane has ended")
			}
			if n := streamsClosed(serve.Log()) - closed; n > 0 {
				t.Errorf("%d streams of proxies ended", n)
			}
			if bytes > most {
				t.Errorf("the control plane took %d MiB", bytes>>20)
			}
			if most := 200 + 40*int(lasting.Seconds()); lines > most {
				t.Errorf("%d lines were logged, want %d at most", lines, most)
			}
			m.Intend("api", meshtest.Intentions{"web": "allow"})
			meshtest.Await(t, "web → api after the flood", allowed)
			meshtest.Await(t, "the proxies to be in sync", inSync)
		})
		if t.Failed() {
			return
		}
	}
}

// streamsClosed is how many streams of the proxies that are not flooding have ended.
func streamsClosed(log string) int {
	const text = `msg="stream closed" proxy=`
	return strings.Count(log, text) - strings.Count(log, text+"other-17-sidecar-proxy ")
}

// runEnvoy has a client with the token of b speak as an Envoy does until the test ends.
func runEnvoy(t *testing.T, m *meshtest.Mesh, b bootstrapped) {
	t.Helper()
	conn, err := dialXDS(filepath.Join(m.Runtime, "xds.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+b.token))
	e := xdstest.NewEnvoy(conn, &corev3.Node{Id: b.node, Cluster: "other", UserAgentName: "envoy"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx) // what becomes of it is in the status
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		conn.Close()
	})
}

// copyTestBinary returns a copy of this program that other users may run.
func copyTestBinary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flood-")
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
	path := filepath.Join(dir, "flooder")
	copyProgram(t, self, path)
	return path
}

// startFlood starts a process of another user that floods.
func startFlood(t *testing.T, program string, f flood, uid uint32) <-chan error {
	t.Helper()
	task, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(meshtest.Environ(), floodVariable+"="+string(task))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	ended := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %.500s", err, out)
		}
		ended <- err
	}()
	return ended
}

// watchMemory samples the memory of a process; what it returns ends that and is the most that there was, in bytes.
func watchMemory(pid int) (peak func() int64) {
	stop, most := make(chan struct{}), make(chan int64)
	go func() {
		top := int64(0)
		for {
			top = max(top, residentMemory(pid))
			select {
			case <-stop:
				most <- top
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(stop); return <-most }
}

// residentMemory is what the kernel says that a process has in memory; 0 if it has ended.
func residentMemory(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
