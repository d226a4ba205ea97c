package api

import (
	"net"
	"testing"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// far is a listener whose connections come from ever other addresses of one network.
type far struct {
	net.Listener
	next byte
}

func (f *far) Accept() (net.Conn, error) {
	f.next++
	return drip{from: &net.TCPAddr{IP: net.IP{0x20, 1, 0xd, 0xb8, 7: 1, 15: f.next}, Port: 1}}, nil
}

// drip is a connection by which one byte comes at a time.
type drip struct {
	net.Conn
	from net.Addr
}

func (drip) Read([]byte) (int, error) { return 1, nil }

func (drip) Close() error { return nil }

func (d drip) RemoteAddr() net.Addr { return d.from }

// TestUnfinishedOfNetwork: a machine that has a whole network of addresses has the share of one of those who are slow with handshakes.
func TestUnfinishedOfNetwork(t *testing.T) {
	l := listener{connlimit.Listen(&far{}, connlimit.Config{}), true, &shares{}, &conns{}}
	most, began := handshaking*mostUnfinishedOfPeer, 0
	for range most + 20 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err = c.Read(make([]byte, 1)); err != nil {
				break
			}
		}
		if err == nil {
			began++
		}
	}
	if began != most {
		t.Errorf("%d of one network, %d at most", began, most)
	}
}
