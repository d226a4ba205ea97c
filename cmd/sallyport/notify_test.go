package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNotify: the service manager is told that sockets listen, then what is served, and that the end has begun.
func TestNotify(t *testing.T) {
	path := filepath.Join(shortTemp(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	expect := func(want string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		n, err := conn.Read(b)
		if err != nil || !strings.Contains(string(b[:n]), want) {
			t.Fatalf("told %q, %v, want %q", b[:n], err, want)
		}
	}
	t.Run("serve", func(t *testing.T) {
		startServe(t)
		expect("READY=1")
		expect("STATUS=2 proxies")
	})
	expect("STOPPING=1")
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", path+"-gone")
	if err := notify("READY=1"); err == nil {
		t.Error("no error where nobody listens")
	}
}
