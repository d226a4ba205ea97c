//go:build e2e && linux

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
)

// registerNative writes the registration of an application without a sidecar.
func registerNative(m *meshtest.Mesh, name, address, meta string) {
	host, port, _ := net.SplitHostPort(address)
	m.Write(name+".hcl", fmt.Sprintf("service {\n  name = %q\n  address = %q\n  port = %s\n  connect { native = true }\n%s}\n", name, host, port, meta))
}

// connectPeer is a process that takes part by package connect: e2e/native/peer.
type connectPeer struct {
	name string
	mu   sync.Mutex
	in   io.Writer
	out  *bufio.Reader
}

// newConnectPeers are two of them that may dial each other and keep a connection each. They end with the test.
func newConnectPeers(t *testing.T, m *meshtest.Mesh, names [2]string) (peers [2]*connectPeer) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "peer")
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", program, "./peer")
	build.Dir = "native"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, name := range names {
		cmd := exec.Command(program, name)
		cmd.Env = slices.Concat(meshtest.Environ(), []string{"CONSUL_HTTP_ADDR=unix://" + filepath.Join(m.Runtime, "http.sock"), "CONSUL_HTTP_TOKEN=" + strings.TrimSpace(m.MustRun("token", "create", name))})
		cmd.Stderr = t.Output()
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close() // then it ends
			timer := time.AfterFunc(meshtest.Deadline, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			_ = cmd.Wait()
		})
		p := &connectPeer{name: name, in: in, out: bufio.NewReader(out)}
		line, err := p.out.ReadString('\n')
		address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
		if !ok {
			t.Fatalf("%s says %q, %v", name, line, err)
		}
		registerNative(m, name, address, "")
		m.Intend(name, meshtest.Intentions{names[1-i]: "allow"})
		peers[i] = p
	}
	for i, p := range peers {
		meshtest.Await(t, p.name+" is answered", func() error { return p.dial(names[1-i]) })
		if answer, err := p.ask("hold " + names[1-i]); err != nil || answer != "ok" {
			t.Fatalf("%s holds a connection: %s, %v", p.name, answer, err)
		}
	}
	return peers
}

func (p *connectPeer) ask(question string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintln(p.in, question); err != nil {
		return "", err
	}
	line, err := p.out.ReadString('\n')
	return strings.TrimSpace(line), err
}

// dial has it dial another one and hear it.
func (p *connectPeer) dial(to string) error {
	answer, err := p.ask("dial " + to + " 1")
	if err == nil && !strings.HasPrefix(answer, "0 ") {
		err = fmt.Errorf("%s to %s: %s", p.name, to, answer)
	}
	return err
}

// kept fails the test if a connection that it holds has ended.
func (p *connectPeer) kept(t *testing.T) {
	t.Helper()
	if answer, err := p.ask("ended"); err != nil || !strings.HasPrefix(answer, "0 ") {
		t.Errorf("of the connections that %s holds have ended: %s, %v", p.name, answer, err)
	}
}

// spiffeSource is what go-spiffe makes TLS configurations of.
type spiffeSource interface {
	x509svid.Source
	x509bundle.Source
}

// fetchedSource is one that asks once a second and ends its stream, as jobs do.
type fetchedSource struct {
	current atomic.Pointer[workloadapi.X509Context]
}

func (f *fetchedSource) GetX509SVID() (*x509svid.SVID, error) {
	return f.current.Load().DefaultSVID(), nil
}

func (f *fetchedSource) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return f.current.Load().Bundles.GetX509BundleForTrustDomain(td)
}

// newFetchedSource fetches until the test ends. A control plane that is away changes nothing.
func newFetchedSource(t *testing.T, options ...workloadapi.ClientOption) *fetchedSource {
	t.Helper()
	c, err := workloadapi.New(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	f := &fetchedSource{}
	fetch := func(parent context.Context) error {
		ctx, cancel := context.WithTimeout(parent, meshtest.Deadline)
		defer cancel()
		now, err := c.FetchX509Context(ctx)
		if err == nil {
			f.current.Store(now)
		}
		return err
	}
	meshtest.Await(t, "a leaf of the Workload API", func() error { return fetch(t.Context()) })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() {
		stop()
		<-done
		c.Close()
	})
	go func() {
		defer close(done)
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-tick.C:
				_ = fetch(ctx)
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	return f
}

// newWatchedSource is go-spiffe's own source, of which sallyport believes that it has what it was sent when its stream has lived 45 s after it.
func newWatchedSource(t *testing.T, options ...workloadapi.ClientOption) *workloadapi.X509Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), meshtest.Deadline)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(options...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	return source
}

// spiffePeer is an application that takes part by go-spiffe, as a user of its own.
type spiffePeer struct {
	source spiffeSource
	peer   spiffeid.ID
	to     string
}

// newSpiffePeers are two of them, which may dial each other, and which watch the Workload API or fetch from it. They end with the test.
func newSpiffePeers(t *testing.T, m *meshtest.Mesh, names [2]string, uids [2]int, watch bool) (peers [2]*spiffePeer) {
	t.Helper()
	for i := range names {
		uid := uids[i]
		options := []workloadapi.ClientOption{
			workloadapi.WithAddr("unix://" + filepath.Join(m.Runtime, "workload.sock")),
			workloadapi.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				return dialAs(uid, filepath.Join(m.Runtime, "workload.sock"))
			})),
		}
		var source spiffeSource
		if watch {
			source = newWatchedSource(t, options...)
		} else {
			source = newFetchedSource(t, options...)
		}
		peers[i] = &spiffePeer{source: source, peer: spiffeid.RequireFromString(m.URI(names[1-i]))}
	}
	for i, p := range peers {
		l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(p.source, p.source, tlsconfig.AuthorizeID(p.peer)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		peers[1-i].to = l.Addr().String()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
	}
	return peers
}

func (p *spiffePeer) connect(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeID(p.peer))}
	return d.DialContext(ctx, "tcp", p.to)
}

func said(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

// dial is a meshtest.Call.
func (p *spiffePeer) dial(ctx context.Context) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return said(conn)
}

// hold is a meshtest.Hold.
func (p *spiffePeer) hold(ctx context.Context, alive func()) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := said(conn); err != nil {
			return err
		}
		alive()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Users of applications of go-spiffe. Nothing else is theirs.
const eastUID, westUID = 12411, 12412

// bystanders are the applications without a sidecar that dial while something happens to the mesh.
type bystanders struct {
	connect [2]*connectPeer
	spiffe  [2]*spiffePeer // nil: this user cannot be others
	// away is held while the control plane is: package connect asks it about each connection.
	away sync.RWMutex
}

// registerBystanders has the catalog know them before the control plane starts.
func registerBystanders(m *meshtest.Mesh) {
	for name, meta := range map[string]string{
		"front": "", "back": "",
		"east": fmt.Sprintf("  meta { sallyport_selectors = \"unix:uid:%d\" }\n", eastUID), "west": fmt.Sprintf("  meta { sallyport_selectors = \"unix:uid:%d\" }\n", westUID),
	} {
		registerNative(m, name, "127.0.0.1:1", meta)
	}
}

func newBystanders(t *testing.T, m *meshtest.Mesh, watch bool) *bystanders {
	t.Helper()
	a := &bystanders{connect: newConnectPeers(t, m, [2]string{"front", "back"})}
	if os.Geteuid() != 0 {
		fmt.Printf("NOTE: %s has no applications of go-spiffe: it needs root to act as other users\n", t.Name())
		return a
	}
	a.spiffe = newSpiffePeers(t, m, [2]string{"east", "west"}, [2]int{eastUID, westUID}, watch)
	return a
}

// load adds what they do to a load, each dialling so often a second.
func (a *bystanders) load(c *meshtest.LoadConfig, rate int) {
	for i, p := range a.connect {
		to := a.connect[1-i].name
		c.Calls = append(c.Calls, meshtest.Call{Rate: rate, Do: func(context.Context) error {
			a.away.RLock()
			defer a.away.RUnlock()
			return p.dial(to)
		}})
	}
	for _, p := range a.spiffe {
		if p != nil {
			c.Calls = append(c.Calls, meshtest.Call{Rate: rate, Do: p.dial})
			c.Holds = append(c.Holds, p.hold)
		}
	}
}

// restarted has the control plane be restarted, during which those of package connect do not dial.
func (a *bystanders) restarted(t *testing.T, restart func()) {
	t.Helper()
	a.away.Lock()
	defer a.away.Unlock()
	restart()
	for i, p := range a.connect {
		meshtest.Await(t, p.name+" dials again", func() error { return p.dial(a.connect[1-i].name) })
	}
}

// kept fails the test if a connection that package connect holds has ended.
func (a *bystanders) kept(t *testing.T) {
	t.Helper()
	for _, p := range a.connect {
		p.kept(t)
	}
}
