package connect_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mesh is the API of the examples, where CONSUL_HTTP_ADDR says. It is the part of an example that is
// done by others: sallyport, or Consul.
func mesh() (*apitest.API, func()) {
	var t apitest.Standalone
	a := apitest.New(&t)
	os.Setenv("CONSUL_HTTP_ADDR", a.Serve())
	slog.SetDefault(slog.New(slog.DiscardHandler))
	return a, t.Close
}

// A service that accepts connections and one that dials it.
func Example() {
	api, end := mesh()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// The service api accepts connections. Whoever the mesh does not let in is refused.
	db, err := connect.NewService(ctx, "api", connect.Options{})
	if err != nil {
		panic(err)
	}
	defer db.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener := tls.NewListener(l, db.ServerTLSConfig())
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "hello from api")
	}()
	api.Register("api", l.Addr().String()) // its registration, connect.native = true

	// The service web dials it.
	web, err := connect.NewService(ctx, "web", connect.Options{})
	if err != nil {
		panic(err)
	}
	defer web.Close()
	conn, err := web.Dial(ctx, "api")
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", said)
	// Output: hello from api
}

// An HTTP server that knows who asks, and a client.
func Example_http() {
	api, end := mesh()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	svc, err := connect.NewService(ctx, "api", connect.Options{EndOnRevocation: true})
	if err != nil {
		panic(err)
	}
	defer svc.Close()
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := connect.Peer(*r.TLS)
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			name, _, _ := connect.ServiceName(peer)
			fmt.Fprintf(w, "hello %s, by %s", name, r.Proto)
		}),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = server.Serve(tls.NewListener(l, svc.ServerTLSConfig())) }()
	defer server.Close()
	api.Register("api", l.Addr().String())

	web, err := connect.NewService(ctx, "web", connect.Options{})
	if err != nil {
		panic(err)
	}
	defer web.Close()
	resp, err := web.HTTPClient().Get("https://api.service.consul/")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", said)
	// Output: hello web, by HTTP/2.0
}

// A denied service sees it at the first read: in TLS 1.3 its own side of the handshake is over before
// the other side judges.
func ExampleService_Dial() {
	api, end := mesh()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := connect.NewService(ctx, "db", connect.Options{
		Metrics: connect.Metrics{Judged: func(_ spiffeid.ID, err error, _ time.Duration) {
			fmt.Println("db refuses, as it is denied:", errors.Is(err, connect.ErrDenied))
		}},
	})
	if err != nil {
		panic(err)
	}
	defer db.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener := tls.NewListener(l, db.ServerTLSConfig())
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = conn.Read(make([]byte, 1))
			conn.Close()
		}
	}()
	api.Register("db", l.Addr().String())
	api.Deny("web", "db") // an intention

	web, err := connect.NewService(ctx, "web", connect.Options{})
	if err != nil {
		panic(err)
	}
	defer web.Close()
	conn, err := web.Dial(ctx, "db")
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	fmt.Println("web:", err)
	// Output:
	// db refuses, as it is denied: true
	// web: remote error: tls: bad certificate
}

// What to wait for before traffic comes, and what to say while it cannot.
func ExampleService_ReadyWait() {
	_, end := mesh()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	svc, err := connect.NewService(ctx, "web", connect.Options{})
	if err != nil {
		panic(err)
	}
	defer svc.Close()
	if err := svc.ReadyWait(ctx); err != nil {
		panic(err) // says what is missing, and why
	}
	svid, err := svc.SVID()
	if err != nil {
		panic(err)
	}
	fmt.Println(svid.ID, svc.Ready())
	// Output: spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web true
}

// TestREADME has the code of README.md be that of the examples.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range []string{"example_test.go", "grpccredentials/example_test.go"} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	known := map[string]bool{}
	for line := range strings.Lines(code.String()) {
		known[strings.TrimSpace(line)] = true
	}
	n := 0
	in := false
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "```"):
			in = line == "```go"
		case in && line != "":
			n++
			if !known[line] {
				t.Errorf("no example has the line %q", line)
			}
		}
	}
	if n < 10 {
		t.Errorf("README.md has %d lines of code", n)
	}
}
