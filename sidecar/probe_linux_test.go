package sidecar

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/admin"
	"golang.org/x/sys/unix"
)

// TestProbeSharedPort: the holder listens as Envoy does, sharing its port with whoever does the
// same.
func TestProbeSharedPort(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
					t.Error(err)
				}
			})
		}}
		l, err := config.Listen(context.Background(), "tcp", address)
		if err != nil {
			if strings.Contains(address, "::1") {
				t.Logf("no IPv6 here: %v", err)
				continue
			}
			t.Fatal(err)
		}
		err = probeListeners(t.Context(), []admin.Listener{{Name: "public_listener", Address: l.Addr().String()}})
		if want := fmt.Sprintf("pid %d (%s", os.Getpid(), os.Args[0]); err == nil || !strings.Contains(err.Error(), want[:min(len(want), 60)]) {
			t.Errorf("probe of %s = %v, want %q", l.Addr(), err, want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
