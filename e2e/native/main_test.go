//go:build e2e

package native

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/internal/meshtest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("CONSUL") == "" {
		path, err := filepath.Abs("../../.tools/consul-" + meshtest.ConsulVersion)
		if err == nil {
			err = os.Setenv("CONSUL", path)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	var err error
	if programs, err = os.MkdirTemp("", "native-programs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	return m.Run()
}

// figure prints a line that bin/gotest shows.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	fmt.Printf("FIGURE %s %s\n", t.Name(), fmt.Sprintf(format, args...))
}

// service takes part as a service until the test ends, and is ready.
func service(t *testing.T, address, name string, o connect.Options) *connect.Service {
	t.Helper()
	o.Address = address
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := connect.NewService(context.Background(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), meshtest.Deadline)
	defer cancel()
	if err := s.ReadyWait(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// echo serves a service on loopback until the test ends, and returns its address.
func echo(t *testing.T, s *connect.Service) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := tls.NewListener(l, s.ServerTLSConfig())
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// register has Consul say that a native instance of the service is at that address.
func register(t *testing.T, c *meshtest.Consul, name, address string) {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c.Register(map[string]any{"ID": name, "Name": name, "Address": "127.0.0.1", "Port": p, "Connect": map[string]any{"Native": true}})
}

// ping sends a few bytes and has to get them back.
func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

// reach dials and pings.
func reach(ctx context.Context, s *connect.Service, to string) error {
	conn, err := s.Dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn)
}

// ended is how long it takes until the other side has ended the connection.
func ended(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	_ = conn.SetDeadline(began.Add(meshtest.Deadline))
	_, err := conn.Read(make([]byte, 1))
	if nerr, ok := errors.AsType[net.Error](err); err == nil || ok && nerr.Timeout() {
		t.Errorf("the connection is still open after %s", meshtest.Deadline)
	}
	return time.Since(began)
}

// application is a process that takes part by one of the two packages.
type application struct {
	t       *testing.T
	name    string
	address string
	in      io.Writer
	out     *bufio.Reader
}

// programs is the directory of what is built for several tests.
var programs string

// peer and sdk are applications that take part by this package and by Consul's own.
var peer, sdk = onceBuilt(".", "./peer"), onceBuilt("../consul", "./sdk", "GOWORK=off", "CGO_ENABLED=0")

// onceBuilt builds a program when somebody asks for its path, and then no more.
func onceBuilt(dir, pkg string, env ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		path := filepath.Join(programs, filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, pkg)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
		return path, nil
	})
}

// built is the path of a program.
func built(t *testing.T, program func() (string, error)) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// launch starts an application until the test ends, and waits until it is ready.
func launch(t *testing.T, environ []string, program, name string) *application {
	t.Helper()
	cmd := exec.Command(program, name)
	cmd.Env = environ
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It ends when it has nothing to read any more.
	t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(meshtest.Deadline, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait()
	})
	a := &application{t: t, name: name, in: in, out: bufio.NewReader(out)}
	word, address, _ := strings.Cut(a.line(), " ")
	if word != "listening" {
		t.Fatalf("%s says %q", name, word)
	}
	a.address = address
	return a
}

// inConsul is launch for a mesh of Consul's, with its registration.
func inConsul(t *testing.T, c *meshtest.Consul, program, name string) *application {
	t.Helper()
	a := launch(t, c.ConsulEnviron(), program, name)
	register(t, c, name, a.address)
	return a
}

func (a *application) line() string {
	a.t.Helper()
	line, err := a.out.ReadString('\n')
	if err != nil {
		a.t.Fatalf("%s ended: %v", a.name, err)
	}
	return strings.TrimSpace(line)
}

// dial has it dial a service n times. It returns how often that failed, and how, and how long all took.
func (a *application) dial(to string, n int) (failed int, why string, took time.Duration) {
	a.t.Helper()
	fmt.Fprintln(a.in, "dial", to, n)
	line := a.line()
	var us int64
	if _, err := fmt.Sscan(line, &failed, &us); err != nil {
		a.t.Fatalf("%s says %q: %v", a.name, line, err)
	}
	words := strings.SplitN(line, " ", 3)
	return failed, words[len(words)-1], time.Duration(us) * time.Microsecond
}

// ready asks for Ready.
func (a *application) ready() string {
	a.t.Helper()
	fmt.Fprintln(a.in, "ready")
	return a.line()
}
