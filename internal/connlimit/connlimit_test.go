package connlimit_test

import (
	"net"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// open listens with bounds and returns how to dial, and the connections that were accepted.
func open(t *testing.T, c connlimit.Config) (dial func() net.Conn, accepted chan *connlimit.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := connlimit.Listen(inner, c)
	accepted = make(chan *connlimit.Conn, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c.(*connlimit.Conn) //nolint:forcetypeassert // they all are
		}
	}()
	t.Cleanup(func() { l.Close() })
	return func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}, accepted
}

// TestBounds demands that connections beyond a bound are closed, and that one that is closed or
// trusted makes room.
func TestBounds(t *testing.T) {
	for name, config := range map[string]connlimit.Config{"per peer": {PerPeer: 2, Total: 100}, "in all": {Total: 2}} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan string, 10)
			config.Refused = func(peer string) { refused <- peer }
			dial, accepted := open(t, config)
			dial()
			first := <-accepted
			dial()
			second := <-accepted
			dial()
			if peer := <-refused; peer != "127.0.0.1" {
				t.Errorf("refused %q", peer)
			}
			first.Trust()
			first.Trust()
			dial()
			third := <-accepted
			dial()
			<-refused
			first.Close()
			second.Close()
			third.Close()
			dial()
			dial()
			<-accepted
			<-accepted
		})
	}
}

// TestSpare demands that who has few connections gets one more though all that there are in all are
// taken, up to a bound.
func TestSpare(t *testing.T) {
	refused := make(chan string, 10)
	dial, accepted := open(t, connlimit.Config{Total: 2, PerPeer: 10, Spare: 2, Few: 3, Refused: func(peer string) { refused <- peer }})
	dial()
	dial()
	dial()
	for range 3 {
		<-accepted
	}
	dial()
	<-refused
	dial, accepted = open(t, connlimit.Config{Total: 1, PerPeer: 10, Spare: 1, Few: 10, Refused: func(peer string) { refused <- peer }})
	dial()
	dial()
	<-accepted
	<-accepted
	dial()
	<-refused
}

// TestPatience demands that a connection that is not trusted in time is closed, and others are not.
func TestPatience(t *testing.T) {
	dial, accepted := open(t, connlimit.Config{Patience: 300 * time.Millisecond})
	trusted := dial()
	(<-accepted).Trust()
	silent := dial()
	kept := <-accepted
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Fatalf("read %d bytes", n)
	}
	if _, err := kept.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open at its other end")
	}
	if err := trusted.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := trusted.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() { //nolint:errorlint,forcetypeassert // a deadline's
		t.Errorf("the trusted connection: %v", err)
	}
}
