package sockettable

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHolders: this process has what it listens on.
func TestHolders(t *testing.T) {
	dir, err := os.MkdirTemp("", "holder") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	port, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	want := fmt.Sprintf("pid %d (", os.Getpid())
	addr := netip.MustParseAddrPort(port.Addr().String())
	for name, got := range map[string]string{
		"the port": PortHolder(addr), "the port of all addresses": PortHolder(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())), "the socket": SocketHolder(path),
	} {
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s is held by %q, want %q", name, got, want)
		}
	}
	if got := PortHolder(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), addr.Port())); got != "" {
		t.Errorf("the port of another address is held by %q", got)
	}
	if got := SocketHolder(path + ".other"); got != "" {
		t.Errorf("another socket is held by %q", got)
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
