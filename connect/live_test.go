package connect

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ended waits for the other side to end a connection, which has to be well until then.
func ended(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(deadline))
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the connection is open")
	}
	return nil
}

func (l *live) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

func TestEndOnRevocation(t *testing.T) {
	a := apitest.New(t)
	var told atomic.Int64
	web, api := pair(t, a, Options{
		EndOnRevocation: true, RevocationInterval: time.Hour,
		Metrics: Metrics{Ended: func(peer spiffeid.ID, inbound bool) {
			if peer.String() == apitest.ID("web") && inbound {
				told.Add(1)
			}
		}},
	})
	other := start(t, a.Serve(), "other", Options{})
	var conns []net.Conn
	for range 3 {
		conn, err := web.Dial(t.Context(), "api")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := ping(conn); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	stays, err := other.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	if err := ping(stays); err != nil {
		t.Fatal(err)
	}
	a.Deny("somebody", "api") // concerns nobody here
	a.Down()
	api.endDenied() // nobody answers: that is no reason
	a.Up()
	for _, c := range append(conns, stays) {
		if err := ping(c); err != nil {
			t.Fatalf("a connection ended without a reason: %v", err)
		}
	}
	a.Deny("web", "api")
	for _, c := range conns {
		if err := ended(c); err != nil {
			t.Error(err)
		}
	}
	if err := ping(stays); err != nil {
		t.Errorf("the connection of another peer ended: %v", err)
	}
	await(t, "metrics", func() error {
		if told.Load() != 3 {
			return errors.New("not told of three")
		}
		return nil
	})
}

// TestEndByInterval has no intentions to watch: the period finds the revocation.
func TestEndByInterval(t *testing.T) {
	a := apitest.New(t)
	serve := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/connect/intentions/") {
			status(403, "Permission denied")(w, r)
			return
		}
		a.ServeHTTP(w, r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(serve)}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	api := start(t, l.Addr().String(), "api", Options{EndOnRevocation: true, RevocationInterval: 20 * time.Millisecond})
	a.Register("api", echo(t, api.ServerTLSConfig()))
	web := start(t, a.Serve(), "web", Options{})
	conn, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	a.Deny("web", "api")
	if err := ended(conn); err != nil {
		t.Error(err)
	}
}

// TestEndUnrooted has the root go that vouched for the peer, on either side.
func TestEndUnrooted(t *testing.T) {
	for name, side := range map[string]struct{ web, api bool }{"inbound": {false, true}, "outbound": {true, false}} {
		t.Run(name, func(t *testing.T) {
			a := apitest.New(t)
			address := a.Serve()
			api := start(t, address, "api", Options{EndOnRevocation: side.api})
			web := start(t, address, "web", Options{EndOnRevocation: side.web})
			a.Register("api", echo(t, api.ServerTLSConfig()))
			conn, err := web.Dial(t.Context(), "api")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := ping(conn); err != nil {
				t.Fatal(err)
			}
			a.Rotate()
			awaitRoots(t, 2, web, api)
			a.Renew()
			if err := ping(conn); err != nil {
				t.Fatalf("a rotation ended the connection: %v", err)
			}
			a.Forget()
			if err := ended(conn); err != nil {
				t.Error(err)
			}
			await(t, "new connections", func() error { return reach(t, web, "api") })
		})
	}
}

// TestEndHijacked has HTTP's own connections end: of HTTP/2, and hijacked ones.
func TestEndHijacked(t *testing.T) {
	a := apitest.New(t)
	address := a.Serve()
	api := start(t, address, "api", Options{EndOnRevocation: true})
	mux := http.NewServeMux()
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = buf.Flush()
		_, _ = io.Copy(conn, conn)
		conn.Close()
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(tls.NewListener(l, api.ServerTLSConfig())) }()
	defer func() { server.Close(); <-done }()
	a.Register("api", l.Addr().String())
	web := start(t, address, "web", Options{})

	resp, err := web.HTTPClient().Get("https://api.service.consul/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("spoken is %s, want HTTP/2", resp.Proto)
	}
	to, err := web.Instances(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := web.connect(t.Context(), to[0], []string{"http/1.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /hijack HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	a.Deny("web", "api")
	if err := ended(conn); err != nil {
		t.Errorf("hijacked: %v", err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream of HTTP/2 ended as if it was over")
	}
}

// TestForgotten has connections be forgotten when nobody has them any more, and no sooner.
func TestForgotten(t *testing.T) {
	a := apitest.New(t)
	web, api := pair(t, a, Options{EndOnRevocation: true})
	stays, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	for range 20 {
		if err := reach(t, web, "api"); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "only one is left on both sides", func() error {
		runtime.GC()
		if n, m := web.live.count(), api.live.count(); n != 1 || m != 1 {
			return errors.New("others are")
		}
		return nil
	})
	if err := ping(stays); err != nil {
		t.Error(err)
	}
	a.Deny("web", "api")
	if err := ended(stays); err != nil {
		t.Error(err)
	}
}
