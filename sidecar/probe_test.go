package sidecar

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
)

func listenOn(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestProbeFree(t *testing.T) {
	l := listenOn(t, "tcp", "127.0.0.1:0")
	free := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	listeners := []admin.Listener{
		{Name: "public_listener", Address: free},
		{Name: "again, for nothing is left open", Address: free},
		{Name: "api", Socket: filepath.Join(t.TempDir(), "api.sock")},
	}
	if err := probeListeners(t.Context(), listeners); err != nil {
		t.Error(err)
	}
}

func TestProbeRefuses(t *testing.T) {
	dir, err := os.MkdirTemp("", "probe") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	held := listenOn(t, "tcp4", "127.0.0.1:0").Addr().String()
	_, port, _ := net.SplitHostPort(held)
	socket := filepath.Join(dir, "held.sock")
	listenOn(t, "unix", socket)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		listener admin.Listener
		want     string
	}{
		{"port", admin.Listener{Name: "public_listener", Address: held, Origin: "web.hcl:3"}, "listener public_listener: " + held + " is in use by "},
		{"port of another address", admin.Listener{Name: "api", Address: "0.0.0.0:" + port}, "is in use by "},
		{"origin", admin.Listener{Name: "api", Address: held, Origin: "web.hcl:3"}, ": end that, or choose another port (web.hcl:3)"},
		{"address of elsewhere", admin.Listener{Name: "api", Address: "192.0.2.1:9"}, "192.0.2.1:9: not an address of this machine"},
		{"socket", admin.Listener{Name: "api", Socket: socket}, socket + " is in use by "},
		{"socket's remedy", admin.Listener{Name: "api", Socket: socket}, ": end that, or choose another path"},
		{"file", admin.Listener{Name: "api", Socket: file}, file + " is in the way"},
		{"socket in no directory", admin.Listener{Name: "api", Socket: filepath.Join(dir, "no", "s")}, "the directory is not there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := probeListeners(t.Context(), []admin.Listener{tt.listener})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("probe = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestProbeLeftOverSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "old.sock")
	l := listenOn(t, "unix", path)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := probeListeners(t.Context(), []admin.Listener{{Name: "api", Socket: path}}); err != nil {
		t.Error(err)
	}
}

func TestProbeBootstrap(t *testing.T) {
	held := listenOn(t, "tcp4", "127.0.0.1:0").Addr().String()
	_, port, _ := net.SplitHostPort(held)
	err := probeListeners(t.Context(), bootstrapListeners(bootstrap.Params{AdminBind: "localhost:" + port, PrometheusBindAddr: held}))
	for _, want := range []string{"listener admin:", "choose another port (--admin-bind)", "listener metrics:", "(envoy_prometheus_bind_addr)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("probe = %v, want %q", err, want)
		}
	}
}
