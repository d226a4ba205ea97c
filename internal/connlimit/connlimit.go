// Package connlimit bounds the connections that a listener holds, together and of each peer, so
// that nobody takes all of a server's memory or files by opening connections.
package connlimit

import (
	"cmp"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/unixsocket"
)

// Config says what is allowed. A bound of 0 is none.
type Config struct {
	// Total bounds the connections that count, PerPeer those of one peer: of a user, on a Unix
	// socket, where root and this process's own user are not bounded unless Root is set; of an IPv4
	// address, or of the /64 of an IPv6 address.
	Total, PerPeer int
	// Spare are connections beyond Total for peers that have less than Few, so that those who have
	// taken all do not keep others out; 0: none.
	Spare, Few int
	// Root bounds root and this process's own user too: root may pass on what others say.
	Root bool
	// Patience is how long a connection may count before it is closed; 0: for ever.
	Patience time.Duration
	// Refused, if not nil, is called for each connection that is closed for a bound. It must not
	// block.
	Refused func(peer string)
}

// Listener is a net.Listener whose connections are *Conn. Connections beyond a bound are closed as
// soon as they are accepted.
type Listener struct {
	net.Listener
	config Config

	mu    sync.Mutex
	total int
	peers map[string]int
}

// Listen bounds the connections of l.
func Listen(l net.Listener, c Config) *Listener {
	return &Listener{Listener: l, config: c, peers: map[string]int{}}
}

// Conn is an accepted connection. It counts until it is closed or trusted.
type Conn struct {
	net.Conn
	// Peer is who made it: "uid 1000", "10.1.2.3"; UID is -1 unless the kernel says it, on a Unix
	// socket.
	Peer string
	UID  int

	key      string // empty: it does not count
	listener *Listener
	timer    *time.Timer
	once     sync.Once
}

// Accept returns the next connection that may stay.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := l.wrap(raw)
		if l.enter(c) {
			return c, nil
		}
		_ = raw.Close()
		if l.config.Refused != nil {
			l.config.Refused(c.Peer)
		}
	}
}

func (l *Listener) wrap(raw net.Conn) *Conn {
	c := &Conn{Conn: raw, UID: -1, listener: l}
	switch a := raw.RemoteAddr().(type) {
	case *net.TCPAddr:
		ip := a.AddrPort().Addr().Unmap()
		c.Peer, c.key = ip.String(), peerKey(ip)
	default:
		c.Peer, c.key = "unknown", "unknown"
		if p, err := unixsocket.PeerOf(raw); err == nil {
			c.UID = p.UID
			c.Peer = "uid " + strconv.Itoa(p.UID)
			if c.key = c.Peer; !l.config.Root && (p.UID == 0 || p.UID == os.Geteuid()) {
				c.key = ""
			}
		}
	}
	return c
}

// peerKey is what the connections of one address are counted under. Who has an IPv6 address has
// all of its /64.
func peerKey(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	p, _ := ip.WithZone("").Prefix(64)
	return p.String()
}

// Share is whom further bounds should count c for: its Peer, and of an IPv6 address the /64, any address of which one machine can have.
func (c *Conn) Share() string { return cmp.Or(c.key, c.Peer) }

func (l *Listener) enter(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.key != "" {
		total := l.config.Total
		if l.peers[c.key] < l.config.Few {
			total += l.config.Spare
		}
		if l.config.Total > 0 && l.total >= total || l.config.PerPeer > 0 && l.peers[c.key] >= l.config.PerPeer {
			return false
		}
		l.total++
		l.peers[c.key]++
	}
	if l.config.Patience > 0 {
		c.timer = time.AfterFunc(l.config.Patience, func() { _ = c.Close() })
	}
	return true
}

// Trust lets the connection stay, and not count any more. It may be called more than once.
func (c *Conn) Trust() { c.once.Do(c.leave) }

// Close closes the connection.
func (c *Conn) Close() error {
	c.Trust()
	return c.Conn.Close()
}

func (c *Conn) leave() {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.key == "" {
		return
	}
	l.total--
	if l.peers[c.key]--; l.peers[c.key] == 0 {
		delete(l.peers, c.key)
	}
}
