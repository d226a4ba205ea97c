package meshtest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A load has to see what it is there to see: failures, ended connections and stalls.

func TestLoadSeesNoFailureOfAGoodServer(t *testing.T) {
	web, echo := start(t, nil), startEcho(t, "220 hello\r\n")
	l, err := StartLoad(LoadConfig{URL: "http://" + web.Addr, KeepAlive: 100, Fresh: 20, TCP: echo.Addr, Held: 3, Dialled: 10, Banner: "220 hello\r\n"})
	if err != nil {
		t.Fatal(err)
	}
	awaitRequests(t, l, 160) // a second of it
	r := l.Stop()
	if r.Failed != 0 || r.Closed != 0 {
		t.Errorf("load of good servers: %v", r)
	}
	if web.Requests.Load() == 0 || echo.Dials.Load() < 4 || echo.Bytes.Load() == 0 {
		t.Errorf("servers saw %d requests, %d dials, %d bytes", web.Requests.Load(), echo.Dials.Load(), echo.Bytes.Load())
	}
}

func TestLoadSeesStatusesAndStalls(t *testing.T) {
	var n atomic.Int64
	web := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) {
		case 5:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 6:
			time.Sleep(300 * time.Millisecond)
		}
	}))
	l, err := StartLoad(LoadConfig{URL: "http://" + web.Addr, KeepAlive: 10})
	if err != nil {
		t.Fatal(err)
	}
	awaitRequests(t, l, 10)
	r := l.Stop()
	if r.Failed != 1 || len(r.Errors) != 1 {
		t.Errorf("one 503: %v", r)
	}
	if r.Max < 300*time.Millisecond {
		t.Errorf("a stall of 300 ms: max %v", r.Max)
	}
}

func TestLoadSeesEndedConnections(t *testing.T) {
	echo := startEcho(t, "")
	l, err := StartLoad(LoadConfig{TCP: echo.Addr, Held: 4})
	if err != nil {
		t.Fatal(err)
	}
	echo.Close()
	awaitRequests(t, l, 4)
	if r := l.Stop(); r.Closed != 4 || r.Failed != 4 {
		t.Errorf("4 connections ended: %v", r)
	}
	if _, err := StartLoad(LoadConfig{TCP: echo.Addr, Held: 1}); err == nil {
		t.Error("held connection to a closed server: no error")
	}
}

func TestAnswersAreNeverBoth(t *testing.T) {
	end := func(f func(net.Conn)) net.Conn {
		a, b := net.Pipe()
		go func() { f(b); b.Close() }()
		t.Cleanup(func() { a.Close() })
		return a
	}
	swallow := func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 4)) }
	tests := []struct {
		name            string
		answer          Answer
		allowed, denied bool
	}{
		{"echo", Exchange(end(func(c net.Conn) { swallow(c); _, _ = io.WriteString(c, "ping") }), "ping", 4), true, false},
		{"end", Exchange(end(swallow), "ping", 4), false, true},
		{"half", Exchange(end(func(c net.Conn) { swallow(c); _, _ = io.WriteString(c, "pi") }), "ping", 4), false, false},
		{"200", Answer{Status: 200}, true, false},
		{"403", Answer{Status: 403, Body: "RBAC: access denied"}, false, true},
		{"503", Answer{Status: 503}, false, false},
		{"silence", Answer{Silent: true, Err: io.ErrUnexpectedEOF}, false, false},
		{"nothing", Answer{}, false, false},
	}
	for _, tt := range tests {
		if a, d := tt.answer.Allowed(), tt.answer.Denied(); a != tt.allowed || d != tt.denied {
			t.Errorf("%s: allowed %v, denied %v, want %v, %v", tt.name, a, d, tt.allowed, tt.denied)
		}
	}
}

func TestPortsAreFreeAndGivenOnce(t *testing.T) {
	var p Ports
	seen := map[int]bool{}
	for range 50 {
		port, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		if port < firstPort || port > lastPort || seen[port] {
			t.Errorf("port %d: outside %d-%d, or given before", port, firstPort, lastPort)
		}
		seen[port] = true
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(l.Addr().(*net.TCPAddr).Port) {
		t.Error("a port that somebody listens on is called free")
	}
}

func TestProcessGroupIsKilled(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	// The child's child holds the pipe of the log; only killing the group ends it.
	p := Start(t, "shell", log, exec.Command("sh", "-c", "sleep 60 & echo $!; wait"))
	Await(t, "child started", func() error {
		if !strings.Contains(p.Log(), "\n") {
			return io.EOF
		}
		return nil
	})
	if _, ended := p.Wait(0); ended || p.Ended() {
		t.Fatal("ended at once")
	}
	p.Kill()
	if !p.Ended() {
		t.Error("not ended after Kill")
	}
	Await(t, "group gone", func() error {
		if err := syscall.Kill(-p.PID(), 0); err != syscall.ESRCH {
			return err
		}
		return nil
	})
}

func TestLeakFindsKeysAndTokens(t *testing.T) {
	for text, want := range map[string]bool{
		"-----BEGIN PRIVATE KEY-----":                                 true,
		"-----BEGIN EC PRIVATE KEY-----":                              true,
		"Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ3ZWIifQ.c2lnbmF0dXJl": true,
		`"private_key": { "inline_string": "[redacted]" }`:            false,
		"-----BEGIN CERTIFICATE-----":                                 false,
	} {
		if got := leak([]byte(text)) != nil; got != want {
			t.Errorf("leak(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestStatsSum(t *testing.T) {
	s := Stats{"cluster.api.update_success": 2, "cluster.sallyport.update_success": 1, "xcluster.api.update_successful": 9, "listener_manager.lds.update_success": 4}
	if got := s.Updates(); got["EDS"] != 2 || got["LDS"] != 4 {
		t.Errorf("Updates() = %v", got)
	}
}

func awaitRequests(t *testing.T, l *Load, n int) {
	t.Helper()
	Await(t, "the load's requests", func() error {
		if done, _ := l.Sofar(); done < n {
			return fmt.Errorf("%d requests", done)
		}
		return nil
	})
}

func start(t *testing.T, h http.Handler) *Server {
	t.Helper()
	s, err := ServeHTTP("127.0.0.1:0", "hello", h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func startEcho(t *testing.T, banner string) *Server {
	t.Helper()
	s, err := ServeEcho("127.0.0.1:0", banner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
