package connect

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect/internal/apitest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "CONSUL_") {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// deadline bounds each wait for something that has no promised time.
const deadline = 20 * time.Second

// start makes a service of an API, which is ready, until the test ends.
func start(t testing.TB, address, name string, o Options) *Service {
	t.Helper()
	s := launch(t, address, name, o)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := s.ReadyWait(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// launch does so without waiting.
func launch(t testing.TB, address, name string, o Options) *Service {
	t.Helper()
	o.Address = address
	if o.Logger == nil {
		o.Logger = launchLogger
	}
	s, err := NewService(context.Background(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// echo serves a service on loopback until the test ends: who connects is sent back what it sent. It
// returns its address.
func echo(t testing.TB, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := tls.NewListener(l, config)
	done := make(chan struct{})
	go func() {
		defer close(done)
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
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// ping sends a few bytes and has to get them back.
func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

// reach dials a service and pings it.
func reach(t testing.TB, s *Service, service string) error {
	t.Helper()
	conn, err := s.Dial(t.Context(), service)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn)
}

// await calls try until it returns nil.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: still not so after %s: %v", what, deadline, err)
}

// pair are web, and api, whose echo is registered.
func pair(t testing.TB, a *apitest.API, o Options) (web, api *Service) {
	t.Helper()
	address := a.Serve()
	api = start(t, address, "api", o)
	a.Register("api", echo(t, api.ServerTLSConfig()))
	return start(t, address, "web", o), api
}

// launchLogger says nothing.
var launchLogger = slog.New(slog.DiscardHandler)

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
