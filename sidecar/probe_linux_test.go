package sidecar

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
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

func TestReadSocketTable(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:5208 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0000000000000000 100 0 0 10 0
   2: 0100007F:C350 0100007F:5208 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:C351 0100007F:5208 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0000000000000000
   4: 00000000000000000000000001000000:5209 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0 100 0 0 10 0
   5: 0000000000000000FFFF00000100007F:520A 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0 100 0 0 10 0
   6: nonsense
   7: XX00007F:5208 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 666 1 0 100 0 0 10 0
`
	got := readSocketTable(table)
	want := []tableSocket{
		{netip.MustParseAddrPort("127.0.0.1:21000"), true, "1000", "12345"},
		{netip.MustParseAddrPort("0.0.0.0:22"), true, "0", "222"},
		{netip.MustParseAddrPort("127.0.0.1:50000"), false, "1000", "333"},
		{netip.MustParseAddrPort("[::1]:21001"), true, "0", "444"},
		{netip.MustParseAddrPort("127.0.0.1:21002"), true, "0", "555"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tableSocket{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestSocketCovers(t *testing.T) {
	for _, tt := range []struct {
		have, want string
		covers     bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"127.0.0.1:1", "127.0.0.2:1", false},
		{"0.0.0.0:1", "127.0.0.2:1", true},
		{"[::]:1", "127.0.0.2:1", true},
		{"127.0.0.1:1", "0.0.0.0:1", true},
		{"127.0.0.1:1", "[::ffff:127.0.0.1]:1", true},
	} {
		s := tableSocket{local: netip.MustParseAddrPort(tt.have)}
		if got := s.covers(netip.MustParseAddrPort(tt.want)); got != tt.covers {
			t.Errorf("%s covers %s = %t, want %t", tt.have, tt.want, got, tt.covers)
		}
	}
}

func TestHolderOfNobody(t *testing.T) {
	if got := holder("1", "0"); got != "a process of user root (root sees which)" {
		t.Errorf("holder = %q", got)
	}
	if got := holder("1", "4294967290"); !strings.Contains(got, "uid 4294967290") {
		t.Errorf("holder = %q", got)
	}
}
